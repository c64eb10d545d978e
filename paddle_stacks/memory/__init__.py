"""Memory estimates: what each rank of a training or of inference needs, without running it.

Reads only a model's ``config.json`` and the tables in ``configs/``.
"""

from __future__ import annotations

from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.memory.estimate import Line, Plan, Workload, plan
from paddle_stacks.memory.search import Candidate, search

__all__ = ["Candidate", "Layout", "Line", "LlamaConfig", "Plan", "Workload", "plan", "search"]
