"""The jobs that tests interrupt, each with small inputs, and their complete outputs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import completeness, hugging_face_files, training
from tests.support.job_containers import run
from tests.support.tiny import SYLLABLES

PRETRAIN = training.PRETRAIN | {
    "gradient_accumulation_steps": 1,
    "max_steps": 30,
    "save_steps": 5,
    "save_total_limit": 2,
}
FINETUNE = {
    "model_name_or_path": "tiny",
    "dataset_name_or_path": "data/small-sft",
    "src_length": 96,
    "max_length": 128,
    "per_device_train_batch_size": 4,
    "max_steps": 30,
    "learning_rate": 5e-3,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 5,
    "lora": True,
}
ALL_CHECKPOINTS = ("--set", "save_total_limit=100")
HUB = "huggingface:org/tiny"


@dataclass(frozen=True)
class Scenario:
    """A job that tests interrupt.

    Args:
        argv: the job and its arguments.
        kills: number of kills in the suite.
        stops: number of requests to stop.
        complete: returns the complete outputs in a workspace, digests by name.
        progress: returns the progress of an unfinished job; it never decreases.
        saving: the phases of the job in which it writes final outputs.
        older: the arguments of a job that creates an older output first.
        reference: more arguments of the uninterrupted run.
        environ: variables of a job with this machine's network; without any, it has no network.
        goes_on: the job's message when it resumes.
    """

    argv: tuple[str, ...]
    kills: int
    stops: int
    complete: Callable[[Path], dict[str, str]]
    progress: Callable[[Path], int]
    saving: tuple[str, ...]
    older: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    goes_on: tuple[str, ...] = field(default=("resuming", "answers already exist"))


def nothing(workspace: Path) -> int:
    """Return the progress of a job that always starts over."""
    return 0


_EXPORT = ("export", "--model", "tiny", "--adapter", "taught", "--merge")
_FETCH = ("fetch", completeness.NAME, "--from", HUB)
_PREPARE = ("prepare", "--output", f"data/{completeness.NAME}", "--model", "tiny")

SCENARIOS: Mapping[str, Scenario] = {
    "fetch": Scenario(
        _FETCH, 40, 6, completeness.model, completeness.downloaded, ("convert", "verify")
    ),
    "fetch --force": Scenario(
        (*_FETCH, "--force"),
        20,
        4,
        completeness.model,
        nothing,  # the one that is there counts, whatever is on its way
        ("convert", "verify"),
        older=("fetch", completeness.NAME, "--from", "models/tiny"),
    ),
    "prepare": Scenario(
        (*_PREPARE, "--input", "text.jsonl", "--save-every", "0.02", "--workers", "2"),
        34,
        8,
        completeness.pair,
        completeness.documents,
        ("write the index",),
    ),
    "finetune": Scenario(
        ("finetune", "--config", "finetune.json", "--name", completeness.NAME),
        24,
        8,
        completeness.run,
        completeness.saved_step,
        ("save",),
    ),
    "pretrain": Scenario(
        ("pretrain", "--config", "pretrain.json", "--name", completeness.NAME),
        24,
        8,
        completeness.run,
        completeness.saved_step,
        ("save",),
        reference=ALL_CHECKPOINTS,
    ),
    "export": Scenario(
        (*_EXPORT, "--output", f"models/{completeness.NAME}"),
        16,
        4,
        completeness.merged,
        nothing,
        ("merge",),
    ),
    "export --force": Scenario(
        (*_EXPORT, "--output", f"models/{completeness.NAME}", "--force"),
        14,
        4,
        completeness.merged,
        nothing,
        ("merge",),
        older=("export", "--model", "tiny", "--adapter", "other", "--merge",
               "--output", f"models/{completeness.NAME}"),
    ),
    "infer": Scenario(
        ("infer", "--model", "tiny", "--input", "prompts.jsonl",
         "--output", f"{completeness.NAME}.jsonl",
         "--decode", "greedy", "--max-new-tokens", "8", "--batch-size", "1"),
        20,
        6,
        completeness.answers,
        lambda workspace: len(completeness.answers(workspace)),
        ("answer",),
    ),
    "quantize": Scenario(
        ("quantize", "--model", "tiny", "--output", f"models/{completeness.NAME}",
         "--set", "quant_type=weight_only_int8", "--set", "max_length=64", "--set", "ptq_step=4"),
        12,
        4,
        completeness.quantized,
        nothing,
        ("write the model",),
    ),
}  # fmt: skip


def make(folder: Path) -> None:
    """Fill an empty workspace with the inputs of all scenarios; ``hub`` is a hub's model."""
    shutil.copy(Path(__file__).with_name("tiny.py"), folder)
    _run(["python", "tiny.py", "models", "sentencepiece"], folder)
    (folder / "models" / "sentencepiece").rename(folder / "models" / "tiny")
    pick = random.Random(1)
    for name, count in (("small", 400), ("text", 12_000)):
        rows = ({"text": " ".join(pick.choices(SYLLABLES, k=40))} for _ in range(count))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["prepare", "--input", "small.jsonl", "--output", "data/small", "--model", "tiny"]
    _run(line, folder)
    _records(folder / "data" / "small-sft")
    prompts = ({"id": n, "prompt": "ka lo mi " + "tu " * (n % 5)} for n in range(60))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    for name, settings in (("finetune", FINETUNE), ("pretrain", PRETRAIN)):
        (folder / f"{name}.json").write_text(json.dumps(settings))
    for name, seed in (("taught", 1), ("other", 2)):
        line = ["finetune", "--config", "finetune.json", "--name", name]
        _run([*line, "--set", "max_steps=2", "--set", f"seed={seed}"], folder)
    hugging_face_files.write(folder / "hub", shards=3)


def _records(folder: Path) -> None:
    folder.mkdir()
    for name, count in (("train", 40), ("dev", 4)):
        rows = ({"src": f"{n} ka lo", "tgt": "mi tu " * (1 + n % 3)} for n in range(count))
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _run(line: list[str], folder: Path) -> None:
    done = run(line, folder, forks=True)
    assert done.status == 0, done.stderr
