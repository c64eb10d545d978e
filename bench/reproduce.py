"""Comparison of two cold builds of one revision, layer by layer.

``.venv/bin/python bench/reproduce.py [--backend cpu] [--json]``

The builds share nothing but the OS image and the network: no step cache, separate cache mounts,
and checkouts in different folders whose files have different dates and permissions, as from
another day and with another umask. The images of the first build are saved to a file and removed
from the engine before the second build. Layers that differ are stored in
``.cache/bench-reproduce`` and listed by entry, and by diffoscope if it is installed. The exit
status is 1 if any layer differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import report
from build import IMAGES, Bench, copy_checkout, prepared

from paddle_stacks.errors import StackError, render
from paddle_stacks.images import instruction

_KEPT = ROOT / ".cache" / "bench-reproduce"
_DAYS = 100 * 86_400
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer of an image, in both builds.

    Args:
        image: the target.
        number: from 0, the OS image's first.
        instruction: the Dockerfile's, shortened.
        digests: of the layer in each build.
    """

    image: str
    number: int
    instruction: str
    digests: tuple[str, str]

    @property
    def same(self) -> bool:
        """Return whether the layer is the same in both builds."""
        return self.digests[0] == self.digests[1]


def build(bench: Bench, which: str) -> float:
    """Build the images without a cache; return the seconds."""
    report.say(f"{which} build, in {bench.root}")
    namespace = f"--set=*.args.BUILDKIT_CACHE_MOUNT_NS={bench.tag}"
    # One after the other: built at once without a cache, both run the steps that they share,
    # and of two layers that are the same the engine keeps one (docs/provenance.md).
    seconds, steps = bench.bake("--no-cache", namespace, images=IMAGES[:1])
    anew = [f"--set=*.no-cache-filter={stage}" for stage in ("serving", IMAGES[1])]
    more, further = bench.bake(*anew, namespace, images=IMAGES[1:])
    # A step that several images have is run for one of them.
    run = {step.instruction for step in (*steps, *further) if step.ran}
    cached = [s.instruction for s in (*steps, *further) if s.cached and s.instruction not in run]
    if cached:
        raise SystemExit(f"these came from the cache, and prove nothing: {cached}")
    return round(seconds + more, 1)


def make_another_checkout(root: Path) -> None:
    """Give the files of a checkout the dates and permissions of another day and umask."""
    for path in (root, *root.rglob("*")):
        path.chmod(path.stat().st_mode | 0o020)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - _DAYS))


@dataclasses.dataclass(frozen=True)
class Saved:
    """The images of a build in a file, as ``docker save`` writes them.

    Args:
        path: the file.
        ids: of the images, in the order of ``IMAGES``.
        seconds: that the build took.
    """

    path: Path
    ids: tuple[str, ...]
    seconds: float

    def read(self, image: str) -> tuple[dict[str, Any], list[str]]:
        """Return the configuration of an image, and the archive members of its layers."""
        with tarfile.open(self.path) as archive:
            listed = json.load(_member(archive, "manifest.json"))
            entry = next(e for e in listed if any(f"/{image}:" in tag for tag in e["RepoTags"]))
            return json.load(_member(archive, entry["Config"])), entry["Layers"]

    def layers(self, image: str) -> list[tuple[str, str, str]]:
        """Return the digest, the instruction and the member of each layer of an image."""
        configuration, members = self.read(image)
        steps = [step for step in configuration["history"] if not step.get("empty_layer")]
        texts = [instruction(step.get("created_by", "")) for step in steps]
        return list(zip(configuration["rootfs"]["diff_ids"], texts, members, strict=True))

    def entries(self, member: str, copy: Path) -> dict[str, dict[str, Any]]:
        """Write a layer to a file, and return its entries."""
        with tarfile.open(self.path) as archive, copy.open("wb") as stream:
            shutil.copyfileobj(_member(archive, member), stream)
        by_path = {}
        with tarfile.open(copy) as layer:
            for item in layer:
                content = layer.extractfile(item) if item.isfile() else None
                by_path[item.name] = {
                    "date": item.mtime,
                    "rights": item.mode,
                    "owner": (item.uid, item.gid),
                    "kind": item.type,
                    "target": item.linkname,
                    "content": hashlib.sha256(content.read()).digest() if content else b"",
                }
        return by_path


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member_file = archive.extractfile(name)
    assert member_file is not None, name
    return member_file


def build_and_save(which: str, backend: str, source: Path, *, disturb: bool) -> Saved:
    """Build the images of a checkout, save them, and remove them and their cache."""
    path = _KEPT / f"{which}.tar"
    with prepared(backend, source) as bench:
        if disturb:
            make_another_checkout(bench.root)
        seconds = build(bench, f"the {which}")
        ids = tuple(str(bench.client.images.get(bench.image(name)).id) for name in IMAGES)
        names = [bench.image(name) for name in IMAGES]
        subprocess.run(["docker", "save", "-o", path, *names], check=True)
    return Saved(path, ids, seconds)


def compare(first: Saved, second: Saved) -> tuple[list[Pair], dict[str, list[str]]]:
    """Return the pairs of layers, and the differing entries, one per line."""
    pairs: list[Pair] = []
    why: dict[str, list[str]] = {}
    for image in IMAGES:
        both = zip(first.layers(image), second.layers(image), strict=True)
        for number, ((one, text, a), (other, _, b)) in enumerate(both):
            pair = Pair(image, number, text, (one, other))
            pairs.append(pair)
            if not pair.same:
                head = _KEPT / f"{image}-{number}"
                paths = [head.with_suffix(f".{name}.tar") for name in ("first", "second")]
                layers = [first.entries(a, paths[0]), second.entries(b, paths[1])]
                why[f"{image} {number}"] = [*_differences(*layers), *_diffoscope(head, paths)]
    return pairs, why


def values(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON document by path: ``config.Labels.x``, ``history.0.created``."""
    if isinstance(document, (dict, list)):
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in pairs:
            yield from values(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, document


def configurations(first: Saved, second: Saved) -> dict[str, list[str]]:
    """Return the differences between the configurations of images, one line each, by image."""
    differences = {}
    for image in IMAGES:
        one, other = (dict(values(saved.read(image)[0])) for saved in (first, second))
        differences[image] = [
            f"{path}: {one.get(path)!r}, {other.get(path)!r}"
            for path in sorted(one.keys() | other.keys())
            if one.get(path) != other.get(path)
        ]
    return differences


def _differences(
    first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]]
) -> Iterator[str]:
    for name in sorted({*first, *second}):
        one, other = first.get(name), second.get(name)
        if one is None or other is None:
            yield f"{name}: only in the {'second' if one is None else 'first'}"
        elif one != other:
            yield f"{name}: {', '.join(key for key in one if one[key] != other[key])}"


def _diffoscope(head: Path, paths: Sequence[Path]) -> list[str]:
    if not shutil.which("diffoscope"):
        return []
    text = head.with_suffix(".txt")
    subprocess.run(["diffoscope", "--text", text, *paths], check=False)
    return [f"diffoscope: {text}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backend", default="cpu", help="the platform; default: cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    shutil.rmtree(_KEPT, ignore_errors=True)
    _KEPT.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Both of what is here now, whatever is edited while they run.
            source = Path(folder)
            copy_checkout(ROOT, source)
            first = build_and_save("first", options.backend, source, disturb=False)
            second = build_and_save("second", options.backend, source, disturb=True)
        pairs, why = compare(first, second)
        configured = configurations(first, second)
    except StackError as error:
        print(render(error), file=sys.stderr)
        return error.status
    finally:
        for name in ("first", "second"):
            (_KEPT / f"{name}.tar").unlink(missing_ok=True)
    same = [name for name, a, b in zip(IMAGES, first.ids, second.ids, strict=True) if a == b]
    document = {
        "machine": report.machine(),
        "seconds": [first.seconds, second.seconds],
        "layers": [{**dataclasses.asdict(pair), "same": pair.same} for pair in pairs],
        "same_images": same,
        "differences": why,
        "configurations": configured,
    }
    rows = [
        (
            f"{pair.image} {pair.number}",
            "the same" if pair.same else "differs",
            f"`{pair.instruction.replace('|', ' ')[:70]}`",
        )
        for pair in pairs
    ]
    parts = [report.table(("layer", "built twice", "instruction"), rows)]
    parts.append(f"The same by their ids: {', '.join(same) or 'no image'}.")
    for name, lines in why.items():
        summary = f"{len(lines)} entries differ" if lines else "the same entries, in another order"
        parts.append("\n".join([f"{name}: {summary}", *lines[:_SHOWN]]))
    for name, lines in configured.items():
        if lines:
            parts.append("\n".join([f"{name}: its configuration differs", *lines[:_SHOWN]]))
    report.show(document, "\n\n".join(parts), as_json=options.json)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
