"""Empty stand-ins for modules that ``paddlenlp.trainer`` and ``paddlenlp.peft`` import unused.

They import the compression trainer (with scikit-learn and seqeval) and the built-in data sets
(with datasets, pandas and pyarrow), which take a third of a job's start-up time.
"""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["install_stubs"]


def install_stubs() -> None:
    """Install the stand-ins; call it before ``paddlenlp`` is imported."""
    sys.modules.setdefault(
        "paddlenlp.trainer.trainer_compress", ModuleType("paddlenlp.trainer.trainer_compress")
    )
    data_sets = ModuleType("paddlenlp.datasets")
    data_sets.MapDataset = object  # type: ignore[attr-defined]  # in an annotation
    sys.modules.setdefault("paddlenlp.datasets", data_sets)
    sys.modules.setdefault("datasets", None)  # type: ignore[arg-type]  # "not installed"
