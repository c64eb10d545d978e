"""Reasons why a build step ran again: its inputs, compared with those of the last build."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from paddle_stacks.build.progress import Step
from paddle_stacks.jobs.files import replacing_file, sha256_of

__all__ = ["fingerprint", "load", "parents", "reasons", "store"]

_FROM = re.compile(r"^FROM\s+(\S+)\s+AS\s+(\S+)", re.MULTILINE | re.IGNORECASE)
_BIND = re.compile(r"--mount=type=bind,(?!from=)source=([^,\s]+)")


def parents(dockerfile: str) -> dict[str, str]:
    """Return the parent of each stage of a Dockerfile: a stage or an image."""
    return {stage: parent for parent, stage in _FROM.findall(dockerfile)}


def fingerprint(root: Path, backend: str, lock: str = "cpu") -> dict[str, str]:
    """Return the inputs of a build: the backend, the hashes of its files, its instructions."""
    dockerfile = (root / "Dockerfile").read_text()
    inputs = {"BACKEND": backend}
    for source in sorted(_sources(dockerfile, lock)):
        path = root / source
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                inputs[str(file.relative_to(root))] = sha256_of(file)
    for line in _instructions(dockerfile):
        inputs[f"instruction {hashlib.sha256(line.encode()).hexdigest()[:12]}"] = line
    return inputs


def reasons(
    steps: Iterable[Step], previous: Mapping[str, str], current: Mapping[str, str]
) -> dict[str, str]:
    """Return the reason for each step that ran, by the step's digest.

    Args:
        steps: the steps of this build.
        previous: the fingerprint of the last build; empty if there was none.
        current: the fingerprint of this build.
    """
    changed = {n for n in {*previous, *current} if previous.get(n) != current.get(n)}
    by_digest: dict[str, str] = {}
    rebuilt_stages: dict[str, str] = {}
    for step in steps:
        if step.ran and step.stage:
            by_digest[step.digest] = _reason(step, previous, changed, rebuilt_stages)
            rebuilt_stages.setdefault(step.stage, step.instruction)
    return by_digest


def load(path: Path) -> dict[str, str]:
    """Return the fingerprint that :func:`store` wrote; {} if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the first build, or an interrupted one: every step is new
    return content if isinstance(content, dict) else {}


def store(path: Path, fingerprint: Mapping[str, str]) -> None:
    """Write a fingerprint for the next build."""
    with replacing_file(path) as stream:
        json.dump(dict(fingerprint), stream, indent=1, sort_keys=True)


def _reason(
    step: Step, previous: Mapping[str, str], changed: set[str], rebuilt: Mapping[str, str]
) -> str:
    if not previous:
        return "first build here"
    files = sorted(
        name for name in changed if any(name.startswith(s) for s in _read_by(step.instruction))
    )
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        return f"changed: {', '.join(files[:3])}{more}"
    if step.stage in rebuilt:
        return "an earlier step of its stage ran again"
    for stage in re.findall(r"\bfrom=([^,\s]+)", step.instruction):
        if stage in rebuilt:
            return f"the stage {stage} ran again"
    if any(name.startswith("instruction ") for name in changed):
        return "the Dockerfile changed"
    if "BACKEND" in changed:
        return "another backend"
    if rebuilt:
        return f"the stage {list(rebuilt)[-1]} ran again"
    return "not in the engine's cache: it was pruned, or the OS image changed"


def _read_by(instruction: str) -> list[str]:
    """Return the paths in the build context that an instruction reads."""
    if instruction.startswith("COPY") and "--from=" not in instruction:
        return [word for word in instruction.split()[1:-1] if not word.startswith("--")]
    return [source.split("$")[0] for source in _BIND.findall(instruction)]


def _sources(dockerfile: str, lock: str) -> set[str]:
    lines = _instructions(dockerfile)
    return {path for line in lines for path in _read_by(line.replace("${LOCK}", lock))}


def _instructions(dockerfile: str) -> list[str]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
