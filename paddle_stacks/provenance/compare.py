"""What changed between two images: packages, layers, environment, labels and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paddle_stacks.images import megabytes
from paddle_stacks.provenance.contents import Contents, File, Package

__all__ = ["Change", "Difference", "difference", "show"]

_SHOWN = 20
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Change:
    """What one thing is in both images.

    Args:
        name: of the package, the variable, the label or the file.
        before: in the first image; None where it is not there.
        after: in the second.
        what: how a file differs: ``content``, ``size``, ``mode``, ``owner``, ``kind``.
    """

    name: str
    before: Any
    after: Any
    what: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``new``, ``gone`` or ``changed``."""
        if self.before is None or self.after is None:
            return "new" if self.before is None else "gone"
        return "changed"


@dataclass(frozen=True)
class Difference:
    """How two images differ.

    Args:
        before: the first image.
        after: the second.
        shared: how many layers they begin with in common.
        packages: by ``deb NAME`` and ``pypi NAME``; the values are versions.
        environment: by the variable.
        labels: by the label.
        files: by the path; the values are files.
    """

    before: Contents
    after: Contents
    shared: int
    packages: tuple[Change, ...]
    environment: tuple[Change, ...]
    labels: tuple[Change, ...]
    files: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-serializable values."""
        return {
            "images": [_head(self.before), _head(self.after)],
            "shared_layers": self.shared,
            "layers": [
                [vars(layer) for layer in image.layers[self.shared :]]
                for image in (self.before, self.after)
            ],
            **{
                key: [_as_json(change) for change in changes]
                for key, changes in (
                    ("packages", self.packages),
                    ("environment", self.environment),
                    ("labels", self.labels),
                    ("files", self.files),
                )
            },
        }


def difference(before: Contents, after: Contents) -> Difference:
    """Return what is new, gone and changed from one image to another."""
    pairs = zip(before.layers, after.layers, strict=False)
    shared = 0
    for old, new in pairs:
        if old.digest != new.digest:
            break
        shared += 1
    return Difference(
        before,
        after,
        shared,
        _changes(_versions(before.packages), _versions(after.packages)),
        _changes(before.environment, after.environment),
        _changes(before.labels, after.labels),
        _changes(before.files, after.files),
    )


def show(found: Difference, *, every_file: bool = False) -> None:
    """Print the difference for a person; of the files only the largest, unless all are wanted."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for image in (found.before, found.after):
        console.print(f"{image.reference}  {image.id[7:19]}  {megabytes(image.size)}")
    grown = found.after.size - found.before.size
    console.print(f"layers in common: {found.shared}; size {grown / 1e6:+.1f} MB")
    _show_layers(console, found)
    for heading, changes in (
        ("packages", found.packages),
        ("environment", found.environment),
        ("labels", found.labels),
    ):
        _show_changes(console, heading, changes, len(changes))
    by_size = sorted(found.files, key=lambda change: (-_weight(change), change.name))
    _show_changes(console, "files", by_size, len(by_size) if every_file else _SHOWN)


def _show_layers(console: Any, found: Difference) -> None:
    for image in (found.before, found.after):
        rest = image.layers[found.shared :]
        if rest:
            console.print(f"\nlayers of {image.reference} alone")
        for layer in rest:
            console.print(f"  {megabytes(layer.size):>10}  {layer.instruction}", markup=False)


def _show_changes(console: Any, heading: str, changes: Sequence[Change], most: int) -> None:
    states = [change.state for change in changes]
    counts = [f"{states.count(state)} {state}" for state in ("new", "gone", "changed")]
    if not changes:
        console.print(f"\n{heading}: the same")
        return
    console.print(f"\n{heading}: {', '.join(counts)}")
    for change in changes[:most]:
        text = " -> ".join(_text(value) for value in (change.before, change.after))
        what = f"  ({', '.join(change.what)})" if change.what else ""
        console.print(f"  {change.state:<7}  {change.name}  {text}{what}", markup=False)
    if len(changes) > most:
        console.print(f"  and {len(changes) - most} more: --files shows all")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, File):
        return megabytes(value.size) if value.kind == "file" else f"{value.kind} {value.content}"
    return str(value)


def _weight(change: Change) -> int:
    return max(file.size for file in (change.before, change.after) if isinstance(file, File))


def _changes(before: Mapping[str, _Value], after: Mapping[str, _Value]) -> tuple[Change, ...]:
    return tuple(
        Change(name, before.get(name), after.get(name), _what(before.get(name), after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _what(before: Any, after: Any) -> tuple[str, ...]:
    if not isinstance(before, File) or not isinstance(after, File):
        return ()
    names = ("kind", "content", "size", "mode", "owner")
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def _versions(packages: Sequence[Package]) -> dict[str, str]:
    """Return the versions by package; one that is there several times has several."""
    found: dict[str, set[str]] = {}
    for package in packages:
        found.setdefault(f"{package.kind} {package.name}", set()).add(package.version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _head(image: Contents) -> dict[str, Any]:
    return {"reference": image.reference, "id": image.id, "size": image.size}


def _as_json(change: Change) -> dict[str, Any]:
    values = [vars(v) if isinstance(v, File) else v for v in (change.before, change.after)]
    found = {
        "name": change.name,
        "state": change.state,
        "before": values[0],
        "after": values[1],
    }
    return {**found, "what": list(change.what)} if change.what else found
