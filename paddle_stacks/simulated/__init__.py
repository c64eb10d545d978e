"""Simulated DCU hosts: folders that look like the root of a host.

``recorded/`` contains published output of ``hy-smi`` with its headings, units, spacing
and end lines. Records with fewer than eight cards are extended to eight.
"""
