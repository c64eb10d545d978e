"""Runs of training jobs, and what they leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

PRETRAIN = {
    "model_name_or_path": "tiny",
    "input_dir": "data/small",
    "split": "90,5,5",
    "max_seq_length": 32,
    "continue_training": True,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "eval_iters": 2,
    "max_steps": 4,
    "learning_rate": 3e-3,
    "min_learning_rate": 3e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "logging_steps": 1,
    "save_steps": 2,
}


def configure(workspace: Path, settings: dict[str, Any], **changes: Any) -> None:
    (workspace / "my.json").write_text(json.dumps(settings | changes))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in metrics(run) if "loss" in entry}


def train(job: Any, job_name: str, workspace: Path, name: str, *arguments: str) -> dict[int, float]:
    """Run a training that goes well, and return its losses by step."""
    done = job([job_name, "--config", "my.json", "--name", name, *arguments], workspace)
    assert done.status == 0, done.stderr
    assert done.stdout in (f"runs/{name}/model\n", f"runs/{name}/adapter\n"), done.stdout
    assert "Traceback" not in done.stderr
    return losses(workspace / "runs" / name)


def cut_back(run: Path, step: int) -> None:
    """Make a finished run one that ended after a checkpoint."""
    for path in run.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    for name in ("result.json", "model", "adapter"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
