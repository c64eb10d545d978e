"""The memory plan: what every rank of a training or of inference holds, before anything runs.

Pure: it reads a model's ``config.json`` and the tables in ``configs/`` and starts nothing.
"""

from __future__ import annotations

from paddle_stacks.jobs.architecture import Architecture
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.memory.estimate import Line, Plan, Work, plan
from paddle_stacks.memory.search import Candidate, search

__all__ = ["Architecture", "Candidate", "Layout", "Line", "Plan", "Work", "plan", "search"]
