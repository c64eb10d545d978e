"""Small workspaces with what a job's request is checked for: a model, data and configurations."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["make_workspace"]

_ROOT = Path(__file__).parents[2]


def make_workspace(folder: Path) -> Path:
    """Make a workspace with the model ``m``, the data ``data/d`` and packed text; return it.

    No file holds weights or text: the host looks at names and at lines.
    """
    model = folder / "models" / "m"
    data = folder / "data" / "d"
    packed = folder / "data" / "openwebtext"
    for each in (model, data, packed):
        each.mkdir(parents=True)
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (model / "model.safetensors").touch()
    for split in ("train", "dev"):
        (data / f"{split}.json").write_text('{"src": "a", "tgt": "b"}\n')
    for suffix in (".bin", ".idx"):
        (packed / f"corpus{suffix}").touch()
    shutil.copytree(_ROOT / "configs" / "jobs", folder / "configs" / "jobs")
    return folder
