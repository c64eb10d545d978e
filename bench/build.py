"""Benchmark of the images: their size, a cold build, nothing to do, a one-line edit.

``.venv/bin/python bench/build.py [--part sizes|cold|edit] [--json]``

Each number is shown next to its baseline, measured in the same run on the same OS image. The
images get tags of their own, which are removed at the end together with their build cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import report

from paddle_stacks import engine, settings
from paddle_stacks.build import command
from paddle_stacks.build.os_image import OsImage, resolve
from paddle_stacks.build.progress import Step, Steps, documents
from paddle_stacks.build.variables import secrets, variables
from paddle_stacks.errors import BuildError, StackError, render

if TYPE_CHECKING:
    from docker import DockerClient

IMAGES = ("train", "infer")
PARTS = ("sizes", "cold", "edit")
GOALS = {"infer_of_naive": 0.60, "train_of_naive": 0.75, "cold_ratio": 1.3, "edit_seconds": 3.0}

# What a build reads, and the file that the edit changes by one line.
_CONTEXT = ("Dockerfile", "docker-bake.hcl", ".dockerignore", "configs", "entrypoints", "images")
_EDITED = Path("entrypoints", "infer.py")
_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Bench:
    """Common state of the benchmark's parts.

    Args:
        client: the engine.
        settings: mirrors, proxies, the CA bundle, of the whole repository.
        os_image: the parent of all images.
        root: a copy of the build context, so that the edit does not change the checkout.
        tag: the tag of the images of this run.
    """

    client: DockerClient
    settings: settings.Settings
    os_image: OsImage
    root: Path
    tag: str

    def image(self, name: str) -> str:
        """Return the reference of an image of this run."""
        return f"paddle-stacks-bench/{name}:{self.tag}"

    def bake(self, *options: str, images: Sequence[str] = IMAGES) -> tuple[float, list[Step]]:
        """Build images of the project; return the seconds and the Dockerfile's steps.

        Raises:
            BuildError: a step failed.
        """
        tags = [f"--set={name}.tags={self.image(name)}" for name in images]
        return self._run([*command(images), *tags, *options])

    def build(self, name: str) -> float:
        """Build ``bench/<name>.Dockerfile`` without a cache; return the seconds."""
        line = ["docker", "buildx", "build", "--load", "--no-cache", "--progress=rawjson"]
        line += [f"--build-arg=OS_IMAGE={self.os_image.reference}", f"--tag={self.image(name)}"]
        line += [f"--file={ROOT / 'bench' / name}.Dockerfile", "."]
        return self._run(line)[0]

    def size(self, name: str) -> int:
        """Return the size of an image of this run, in bytes, uncompressed."""
        return int(self.client.images.get(self.image(name)).attrs["Size"])

    def layers(self, name: str) -> list[str]:
        """Return the digests of an image's layers, starting with the first."""
        digests: list[str] = self.client.images.get(self.image(name)).attrs["RootFS"]["Layers"]
        return digests

    def ask(self, name: str, *argv: str) -> tuple[int, str]:
        """Run a command in an image of this run; return its status and output."""
        line = ["docker", "run", "--rm", "--network=none", "--entrypoint=", self.image(name), *argv]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def _run(self, line: Sequence[str]) -> tuple[float, list[Step]]:
        steps, plain = Steps(), [""]
        with secrets(self.settings) as files:
            if "bake" not in line:
                ids = {"ca_bundle": files["CA_BUNDLE"], "network": files["NETWORK"]}
                line = [*line, *(f"--secret=id={key},src={path}" for key, path in ids.items())]
            environment = {**os.environ, **variables(self.settings, self.os_image), **files}
            began = time.monotonic()
            with subprocess.Popen(
                line, cwd=self.root, env=environment, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stderr is not None
                for document in documents(process.stderr):
                    if isinstance(document, str):
                        plain.append(document)
                    else:
                        steps.take(document)
        if process.returncode:
            failed = [bytes(step.log).decode(errors="replace") for step in steps if step.error]
            raise BuildError("\n".join([*failed, *plain]).strip(), where=" ".join(line[:3]))
        return time.monotonic() - began, [
            step for step in steps if step.stage and not step.instruction.startswith("FROM ")
        ]


def sizes(bench: Bench) -> dict[str, Any]:
    """Return the images' sizes, the naive image's, and whether PaddleNLP can be imported."""
    report.say("sizes: building the naive image")
    bench.build("naive")
    bench.bake()
    naive = bench.size("naive")
    # What apt and pip keep for their next run, and an image that is still naive may remove.
    caches = bench.ask("naive", "du", "-sbc", "/root/.cache", "/var/lib/apt/lists")[1]
    leftovers = int(caches.splitlines()[-1].split()[0])
    bytes_of = {"naive": naive, **{name: bench.size(name) for name in IMAGES}}
    imports = {}
    for name, python in (
        ("naive", "python3"),
        *((name, "/opt/venv/bin/python") for name in IMAGES),
    ):
        status, printed = bench.ask(name, python, "-c", "import paddlenlp.transformers")
        imports[name] = "works" if status == 0 else printed.splitlines()[-1]
    return {
        "bytes": bytes_of,
        "naive_leftovers_bytes": leftovers,
        "of_naive": {name: round(bytes_of[name] / naive, 3) for name in IMAGES},
        "of_naive_without_leftovers": {
            name: round(bytes_of[name] / (naive - leftovers), 3) for name in IMAGES
        },
        "import_paddlenlp": imports,
    }


def cold(bench: Bench) -> dict[str, Any]:
    """Return the seconds of a build without caches, and of pip installing the same lock.

    Cache mounts get a namespace of their own (BuildKit's ``BUILDKIT_CACHE_MOUNT_NS``), so that
    packages of earlier builds are downloaded again.
    """
    loads = [report.load()]
    report.say("cold: the lock, by pip into a virtual environment")
    plain = bench.build("plain")
    loads.append(report.load())
    report.say("cold: the images")
    ours, steps = bench.bake("--no-cache", f"--set=*.args.BUILDKIT_CACHE_MOUNT_NS={bench.tag}")
    loads.append(report.load())
    return {
        "plain_seconds": round(plain, 1),
        "images_seconds": round(ours, 1),
        "ratio": round(ours / plain, 2),
        "load_before_between_after": loads,
        "steps": {f"{s.stage}: {s.instruction[:60]}": round(s.seconds, 1) for s in steps if s.ran},
    }


def edit(bench: Bench) -> dict[str, Any]:
    """Return the seconds of a build with nothing to do, and after a one-line edit."""
    report.say("edit: nothing to do, then one line")
    bench.bake()
    idle = [bench.bake() for _ in range(_REPEATS)]
    before = {name: bench.layers(name) for name in IMAGES}
    edits = []
    for number in range(_REPEATS):
        with (bench.root / _EDITED).open("a", encoding="utf-8") as stream:
            stream.write(f"# {bench.tag}, edit {number}\n")
        edits.append(bench.bake())
    after = {name: bench.layers(name) for name in IMAGES}
    return {
        "no_op_seconds": report.spread([seconds for seconds, _ in idle]),
        "no_op_steps_run": sum(step.ran for _, steps in idle for step in steps),
        "edit_seconds": report.spread([seconds for seconds, _ in edits]),
        "edit_steps_run": sorted({f"{s.stage}: {s.instruction}" for s in edits[-1][1] if s.ran}),
        "layers": {name: len(after[name]) for name in IMAGES},
        "layers_kept": {
            name: sum(old == new for old, new in zip(before[name], after[name], strict=True))
            for name in IMAGES
        },
    }


def tables(document: dict[str, Any]) -> str:
    """Return the document as Markdown."""
    parts = [_size_table(document["sizes"])] if "sizes" in document else []
    rows = _cold_rows(document["cold"]) if "cold" in document else []
    rows += _edit_rows(document["edit"]) if "edit" in document else []
    if rows:
        parts.append(report.table(("build", "measured", "goal"), rows))
    return "\n\n".join(parts)


def _size_table(part: dict[str, Any]) -> str:
    goals = {"train": GOALS["train_of_naive"], "infer": GOALS["infer_of_naive"]}
    rows = [
        (
            name,
            f"{size / 1e6:.0f} MB",
            f"{size / part['bytes']['naive']:.1%}",
            f"{goals[name]:.0%}" if name in goals else "",
            part["import_paddlenlp"][name],
        )
        for name, size in part["bytes"].items()
    ]
    strict = ", ".join(f"{k} {v:.1%}" for k, v in part["of_naive_without_leftovers"].items())
    return (
        report.table(("image", "size", "of naive", "goal", "`import paddlenlp`"), rows)
        + f"\n\nOf the naive image, {part['naive_leftovers_bytes'] / 1e6:.0f} MB are package lists "
        f"and pip's cache. Against what is left without them: {strict}."
    )


def _cold_rows(part: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        ("the train lock, by pip into a virtual environment", f"{part['plain_seconds']} s", ""),
        ("cold build of train and infer", f"{part['images_seconds']} s", ""),
        ("ratio", part["ratio"], GOALS["cold_ratio"]),
    ]


def _edit_rows(part: dict[str, Any]) -> list[tuple[object, ...]]:
    reused = [f"{name} {part['layers_kept'][name]} of {part['layers'][name]}" for name in IMAGES]
    return [
        ("nothing to do", f"{part['no_op_seconds']['median']} s", "about 1 s"),
        (
            "one line of an entry point",
            f"{part['edit_seconds']['median']} s",
            f"{GOALS['edit_seconds']} s",
        ),
        ("layers kept after the edit", ", ".join(reused), "all but the last"),
    ]


def copy_checkout(source: Path, target: Path) -> None:
    """Copy the build context into an existing folder."""
    for name in (*_CONTEXT, "paddle_stacks"):
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, target / name)


@contextmanager
def prepared(backend: str = "cpu", source: Path = ROOT) -> Iterator[Bench]:
    """Yield the state of the parts, and remove their images and cache at the end.

    Args:
        backend: of the images.
        source: the checkout; a copy of it is built.
    """
    client = engine.connect()
    loaded = settings.load(ROOT, {"backend": backend})
    os_image = resolve(loaded, client)
    tag = f"bench-{uuid.uuid4().hex[:8]}"
    cached = _cache_records()
    with tempfile.TemporaryDirectory(prefix="paddle-stacks-bench-") as folder:
        root = Path(folder)
        copy_checkout(source, root)
        try:
            yield Bench(client, loaded, os_image, root, tag)
        finally:
            _remove(client, tag, _cache_records() - cached)


def _cache_records() -> set[str]:
    """Return the ids of the entries of the build cache."""
    line = ["docker", "buildx", "du", "--verbose"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    fields = (text.partition(":") for text in done.stdout.splitlines())
    return {value.strip() for key, _, value in fields if key == "ID"}


def _remove(client: DockerClient, tag: str, records: set[str]) -> None:
    for image in client.images.list():
        for reference in image.tags:
            if reference.startswith("paddle-stacks-bench/") and reference.endswith(tag):
                client.images.remove(reference)
    for record in records:
        line = ["docker", "buildx", "prune", "--force", "--all", f"--filter=id={record}"]
        subprocess.run(line, capture_output=True, check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="one part; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    document: dict[str, Any] = {"machine": report.machine(), "goals": GOALS}
    measures = {"sizes": sizes, "cold": cold, "edit": edit}
    try:
        with prepared() as bench:
            document["os_image"] = dataclasses.asdict(bench.os_image)
            for part in options.part or PARTS:
                document[part] = measures[part](bench)
    except StackError as error:
        print(render(error), file=sys.stderr)
        return error.status
    report.show(document, tables(document), as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
