"""Differences between two images: packages, layers, environment, labels and files."""

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
    """A package, variable, label or file that differs between two images.

    Args:
        name: of the package, variable, label or file.
        before: its value in the first image; None if it does not exist there.
        after: its value in the second image; None if it does not exist there.
        aspects: of a file that differ: ``content``, ``size``, ``mode``, ``owner``, ``kind``.
    """

    name: str
    before: Any
    after: Any
    aspects: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``new``, ``gone`` or ``changed``."""
        if self.before is None or self.after is None:
            return "new" if self.before is None else "gone"
        return "changed"


@dataclass(frozen=True)
class Difference:
    """The differences between two images.

    Args:
        before: the first image.
        after: the second image.
        shared: the number of layers that both start with.
        packages: named ``deb NAME`` or ``pypi NAME``; the values are versions.
        environment: named by variable.
        labels: named by label.
        files: named by path; the values are files.
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
    """Return the differences between two images."""
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


def show(diff: Difference, *, every_file: bool = False) -> None:
    """Print the differences as text.

    Args:
        diff: the differences.
        every_file: print all files, not only the largest.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for image in (diff.before, diff.after):
        console.print(f"{image.reference}  {image.id[7:19]}  {megabytes(image.size)}")
    growth = diff.after.size - diff.before.size
    console.print(f"layers in common: {diff.shared}; size {growth / 1e6:+.1f} MB")
    _show_layers(console, diff)
    for heading, changes in (
        ("packages", diff.packages),
        ("environment", diff.environment),
        ("labels", diff.labels),
    ):
        _show_changes(console, heading, changes, len(changes))
    by_size = sorted(diff.files, key=lambda change: (-_weight(change), change.name))
    _show_changes(console, "files", by_size, len(by_size) if every_file else _SHOWN)


def _show_layers(console: Any, diff: Difference) -> None:
    for image in (diff.before, diff.after):
        rest = image.layers[diff.shared :]
        if rest:
            console.print(f"\nlayers only in {image.reference}")
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
        aspects = f"  ({', '.join(change.aspects)})" if change.aspects else ""
        console.print(f"  {change.state:<7}  {change.name}  {text}{aspects}", markup=False)
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
        Change(name, before.get(name), after.get(name), _aspects(before.get(name), after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _aspects(before: Any, after: Any) -> tuple[str, ...]:
    if not isinstance(before, File) or not isinstance(after, File):
        return ()
    names = ("kind", "content", "size", "mode", "owner")
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def _versions(packages: Sequence[Package]) -> dict[str, str]:
    """Return the versions by package; a package can be installed in several versions."""
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(f"{package.kind} {package.name}", set()).add(package.version)
    return {name: ", ".join(sorted(each)) for name, each in versions.items()}


def _head(image: Contents) -> dict[str, Any]:
    return {"reference": image.reference, "id": image.id, "size": image.size}


def _as_json(change: Change) -> dict[str, Any]:
    before, after = (vars(v) if isinstance(v, File) else v for v in (change.before, change.after))
    row = {"name": change.name, "state": change.state, "before": before, "after": after}
    # "what" is the name in the documented format.
    return {**row, "what": list(change.aspects)} if change.aspects else row
