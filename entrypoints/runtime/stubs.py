"""What ``paddlenlp.trainer`` and ``paddlenlp.peft`` import and training never uses.

Their packages import the compression trainer (with scikit-learn and seqeval) and
the built-in data sets (with datasets, pandas and pyarrow): a third of a job's
start-up. Called before them, :func:`spare` puts nothing in their place.
"""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["spare"]


def spare() -> None:
    """Keep unused modules from being imported; without effect on those already there."""
    sys.modules.setdefault(
        "paddlenlp.trainer.trainer_compress", ModuleType("paddlenlp.trainer.trainer_compress")
    )
    data_sets = ModuleType("paddlenlp.datasets")
    data_sets.MapDataset = object  # type: ignore[attr-defined]  # in an annotation
    sys.modules.setdefault("paddlenlp.datasets", data_sets)
    sys.modules.setdefault("datasets", None)  # type: ignore[arg-type]  # "not installed"
