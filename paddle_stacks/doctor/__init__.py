"""Diagnosis of a machine and of failed jobs.

A check inspects one aspect of a :class:`Machine` and returns a finding. The checks
relevant to a job run before it (:func:`preflight`); ``./inv doctor`` runs all.
"""

from paddle_stacks.doctor.finding import SEVERITIES, Check, Finding, Fix, Severity
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.doctor.registry import CHECKS, checks_for, examine, preflight, problems

__all__ = [
    "CHECKS",
    "SEVERITIES",
    "Check",
    "Finding",
    "Fix",
    "Machine",
    "Severity",
    "checks_for",
    "examine",
    "preflight",
    "problems",
]
