"""Why a package is pinned: the comments of the requirements, and what the locks have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks import locks
from paddle_stacks.explain.comments import lines
from paddle_stacks.explain.topics import Topic

__all__ = ["Pin", "pins", "topics"]

_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*")
_NEVER = "sys_platform == "
_LOCK = re.compile(r"images/([^/]+)/(?:requirements|quantize)\.(\w+)\.lock")


@dataclass(frozen=True)
class Pin:
    """One requirement.

    Args:
        name: the package, as in the locks: small letters, hyphens.
        text: the whole requirement.
        path: the file that has it, relative to the root.
        line: where in it.
        why: the reason given there.
    """

    name: str
    text: str
    path: str
    line: int
    why: str


def pins(root: Path) -> Iterator[Pin]:
    """Yield the requirements of the images and of the tasks' own environment."""
    folder = root / "images"
    for path in sorted((*folder.glob("*/*.in"), *folder.glob("*/*overrides.txt"))):
        yield from _of_requirements(root, path)
    yield from _of_project(root, root / "pyproject.toml")


def topics(root: Path) -> Iterator[Topic]:
    """Yield the packages: those that are pinned, and those that come with another."""
    by_name: dict[str, list[Pin]] = {}
    for pin in pins(root):
        by_name.setdefault(pin.name, []).append(pin)
    locked = _locked(root)
    for name in sorted(by_name.keys() | locked.keys()):
        own = by_name.get(name, [])
        reasons = list(dict.fromkeys(pin.why for pin in own if pin.why))
        says = ". ".join(reasons) or "Nobody asks for it: another package needs it."
        facts = [("asked for", f"{pin.text} in {pin.path}:{pin.line}") for pin in own]
        facts += [("locked", text) for text in locked.get(name, [])]
        if not locked.get(name):
            facts.append(("locked", "in no image"))
        yield Topic("pin" if own else "package", name, says, tuple(facts))


def _of_requirements(root: Path, path: Path) -> Iterator[Pin]:
    for line in lines(path, groups=True):
        if not line.code.startswith("-"):
            yield _pin(root, path, line.number, line.code, line.why)


def _of_project(root: Path, path: Path) -> Iterator[Pin]:
    """Yield the strings of ``dependencies`` and of the group ``test``."""
    inside = False
    for line in lines(path, groups=True):
        if re.match(r"(dependencies|test) = \[", line.code):
            inside = True
        elif line.code == "]":
            inside = False
        elif inside and (text := re.match(r'"([^"]+)"', line.code)):
            yield _pin(root, path, line.number, text[1], line.why)


def _pin(root: Path, path: Path, number: int, text: str, why: str) -> Pin:
    name = _REQUIREMENT.match(text)
    assert name, f"{path}:{number}: {text} is no requirement"
    shown = f"{name[0]} is left out" if _NEVER in text and '"never"' in text else text
    return Pin(_canonical(name[0]), shown, str(path.relative_to(root)), number, why)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked(root: Path) -> dict[str, list[str]]:
    """Return what the locks have of each package: ``1.2.3 in train:cpu``, a line a version."""
    places: dict[str, dict[str, list[str]]] = {}
    paths = (*sorted((root / "images").glob("*/*.lock")), root / "requirements.lock")
    for path in paths:
        place = _place(str(path.relative_to(root)))
        for name, version in locks.versions(path.read_text(encoding="utf-8")).items():
            places.setdefault(_canonical(name), {}).setdefault(version, []).append(place)
    return {
        name: [f"{version} in {', '.join(where)}" for version, where in versions.items()]
        for name, versions in places.items()
    }


def _place(path: str) -> str:
    match = _LOCK.fullmatch(path)
    if match:
        kind = "the quantizing part of " if "quantize" in path else ""
        return f"{kind}{match[1]}:{match[2]}"
    return "the tasks' .venv" if path == "requirements.lock" else "the stage that installs"
