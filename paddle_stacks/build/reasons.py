"""Why a step of a build was run again: what it reads, compared with the last time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from paddle_stacks.build.progress import Step
from paddle_stacks.jobs.files import replacing_file

__all__ = ["fingerprint", "parents", "reasons", "remember", "remembered"]

_FROM = re.compile(r"^FROM\s+(\S+)\s+AS\s+(\S+)", re.MULTILINE | re.IGNORECASE)
_BIND = re.compile(r"--mount=type=bind,(?!from=)source=([^,\s]+)")


def parents(dockerfile: str) -> dict[str, str]:
    """Return the stage (or image) that each stage of a Dockerfile starts from."""
    return {stage: parent for parent, stage in _FROM.findall(dockerfile)}


def fingerprint(root: Path, backend: str, lock: str = "cpu") -> dict[str, str]:
    """Return a hash of every file a build reads, of each instruction and of the backend."""
    dockerfile = (root / "Dockerfile").read_text()
    found = {"BACKEND": backend}
    for source in sorted(_sources(dockerfile, lock)):
        path = root / source
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                name = str(file.relative_to(root))
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for line in _instructions(dockerfile):
        found[f"instruction {hashlib.sha256(line.encode()).hexdigest()[:12]}"] = line
    return found


def reasons(
    steps: Iterable[Step], before: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, str]:
    """Return, for each step that was run, the reason: step digest to one line.

    Args:
        steps: the steps of this build.
        before: the fingerprint of the build before; empty if there was none.
        now: the fingerprint of this one.
    """
    changed = {name for name in set(before) | set(now) if before.get(name) != now.get(name)}
    found: dict[str, str] = {}
    rebuilt_stages: dict[str, str] = {}
    for step in steps:
        if not step.ran or not step.stage:
            continue
        found[step.digest] = _reason(step, before, changed, rebuilt_stages)
        rebuilt_stages.setdefault(step.stage, step.instruction)
    return found


def remembered(path: Path) -> dict[str, str]:
    """Return the fingerprint that :func:`remember` wrote, or an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # no build before, or one that was cut off: then every step is new
    return content if isinstance(content, dict) else {}


def remember(path: Path, now: Mapping[str, str]) -> None:
    """Keep a fingerprint for the next build."""
    with replacing_file(path) as stream:
        json.dump(dict(now), stream, indent=1, sort_keys=True)


def _reason(
    step: Step, before: Mapping[str, str], changed: set[str], rebuilt: Mapping[str, str]
) -> str:
    if not before:
        return "first build here"
    files = sorted(
        name for name in changed if any(name.startswith(s) for s in _read_by(step.instruction))
    )
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        return f"changed: {', '.join(files[:3])}{more}"
    if step.stage in rebuilt:
        return "an earlier step of its stage was run again"
    for stage in re.findall(r"\bfrom=([^,\s]+)", step.instruction):
        if stage in rebuilt:
            return f"the stage {stage} was run again"
    if any(name.startswith("instruction ") for name in changed):
        return "the Dockerfile changed"
    if "BACKEND" in changed:
        return "another backend"
    if rebuilt:
        return f"the stage {list(rebuilt)[-1]} was run again"
    return "not in the engine's cache: pruned, or the OS image is another"


def _read_by(instruction: str) -> list[str]:
    """Return the paths below the context that an instruction reads."""
    if instruction.startswith("COPY") and "--from=" not in instruction:
        return [word for word in instruction.split()[1:-1] if not word.startswith("--")]
    return [source.split("$")[0] for source in _BIND.findall(instruction)]


def _sources(dockerfile: str, lock: str) -> set[str]:
    found: set[str] = set()
    for line in _instructions(dockerfile):
        found.update(_read_by(line.replace("${LOCK}", lock)))
    return found


def _instructions(dockerfile: str) -> list[str]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
