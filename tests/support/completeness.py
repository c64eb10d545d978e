"""Complete outputs of jobs, as the project itself recognizes them.

Each function returns the complete outputs in a workspace, digests by name. An incomplete output
with a final name is an ``AssertionError``, whatever interrupted the job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from entrypoints.fetching import checkpoint as models
from entrypoints.preparing import journal
from entrypoints.training import checkpoints
from paddle_stacks.jobs import corpus, quantizing

WEIGHTS = (".safetensors", ".pdparams", ".pdopt")
NAME = "x"  # of the model, the corpus, the run or the file that a job makes


def digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of files, with their names."""
    hasher = hashlib.sha256()
    for path in sorted(paths):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def model(workspace: Path) -> dict[str, str]:
    """Return the fetched model, verified with its manifest."""
    folder = workspace / "models" / NAME
    if not folder.exists():
        return {}
    manifest = models.read_manifest(folder)
    assert manifest is not None, f"{folder} has no manifest that can be read"
    problems = models.problems_of(folder, manifest)
    assert not problems, problems
    return {"model": digest(folder / name for name in manifest.files)}


def downloaded(workspace: Path) -> int:
    """Return the number of downloaded bytes of a model; a file that is repeated counts once."""
    sizes: dict[str, int] = {}
    for path in (workspace / "models" / ".downloads" / NAME).glob("*"):
        name = path.name.removesuffix(".part")
        if not name.endswith(".part.json"):
            sizes[name] = max(sizes.get(name, 0), path.stat().st_size)
    return sum(sizes.values())


def pair(workspace: Path) -> dict[str, str]:
    """Return the corpus; if the index exists, the pair and its manifest must be complete."""
    prefix = workspace / "data" / NAME
    if not corpus.index_path(prefix).exists():
        return {}
    corpus.look(prefix)
    assert json.loads(corpus.manifest_path(prefix).read_text())["documents"]
    return {"corpus": digest([corpus.tokens_path(prefix), corpus.index_path(prefix)])}


def documents(workspace: Path) -> int:
    """Return the number of documents of a corpus that are recorded as read."""
    state = journal.read(corpus.partial_folder(workspace / "data" / NAME))
    return state.documents if state else 0


def answers(workspace: Path) -> dict[str, str]:
    """Return the file of answers, and each answer in it or in its unfinished part."""
    output = workspace / f"{NAME}.jsonl"
    staged = workspace / ".output" / output.name / output.name
    if staged.parent.is_dir():  # `./inv` moves it to its place at the job's end
        output = staged
    part = output.with_name(output.name + ".part")
    by_name: dict[str, str] = {}
    if part.exists():
        # The first line says what the answers depend on, and the last one may be torn.
        lines = [json.loads(row)["line"] for row in part.read_bytes().split(b"\n")[1:-1]]
        by_name |= {f"answer {line['id']}": json.dumps(line) for line in lines}
    if output.exists():
        lines = [json.loads(row) for row in output.read_text().splitlines()]
        by_name |= {f"answer {line['id']}": json.dumps(line) for line in lines}
        by_name["answers"] = digest([output])
    return by_name


def run(workspace: Path) -> dict[str, str]:
    """Return a training's checkpoints, losses and result."""
    folder = workspace / "runs" / NAME
    results = {
        path.name: _weights(path)
        for path in checkpoints.find_all(folder)
        if not checkpoints.damage(path)
    }
    for kind in ("model", "adapter"):
        if (folder / kind).exists():
            results[kind] = _weights(folder / kind)
    if (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text())
        assert (workspace / result["output"]).is_dir(), "a result without what it names"
        results["result"] = json.dumps([result["steps"], result["last_loss"]])
    return results | {f"step {step}": str(loss) for step, loss in losses(folder).items()}


def losses(folder: Path) -> dict[int, float]:
    """Return a run's losses by step; the last line may be incomplete."""
    path = folder / "metrics.jsonl"
    rows = path.read_text().split("\n")[:-1] if path.exists() else []
    entries = [json.loads(row) for row in rows]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def saved_step(workspace: Path) -> int:
    """Return the step of the newest complete checkpoint."""
    whole = (
        p for p in checkpoints.find_all(workspace / "runs" / NAME) if not checkpoints.damage(p)
    )
    newest = next(whole, None)
    return 0 if newest is None else checkpoints.open_complete(newest).step


def merged(workspace: Path) -> dict[str, str]:
    """Return all files of the exported model."""
    folder = workspace / "models" / NAME
    return {"model": digest(folder.iterdir())} if folder.exists() else {}


def quantized(workspace: Path) -> dict[str, str]:
    """Return all files of the quantized model except the report, which has times."""
    folder = workspace / "models" / NAME
    if not folder.exists():
        return {}
    assert json.loads((folder / quantizing.REPORT).read_text())["perplexity"]
    return {"model": digest(p for p in folder.iterdir() if p.name != quantizing.REPORT)}


def left_over(workspace: Path) -> list[str]:
    """Return the files of unfinished writes, of which a finished job leaves none."""
    ends = (".part", ".old", ".parts", ".partial", ".saving", ".part.json")
    return sorted(str(p) for p in workspace.rglob("*") if p.name.endswith(ends))


def _weights(folder: Path) -> str:
    paths = [path for path in folder.iterdir() if path.name.endswith(WEIGHTS)]
    assert paths, f"{folder} has no weights"
    return digest(paths)
