"""Hygon DCU hosts: devices, driver, ``hy-smi`` and capability checks.

Everything here reads below a ``root`` folder, so the same code inspects a real host and
a simulated one (:mod:`paddle_stacks.simulated`).
"""
