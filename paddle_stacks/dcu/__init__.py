"""Hygon DCU: the host that has one, its cards, and what fits what.

Everything here reads below a ``root``, so that a simulated host
(:mod:`paddle_stacks.simulated`) is looked at by the very code that looks at a
real one.
"""
