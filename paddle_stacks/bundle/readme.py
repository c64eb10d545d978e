"""The README of a bundle, for the person who carries it."""

from __future__ import annotations

from paddle_stacks.bundle.contents import PROGRAM, SIGNATURE, Manifest

__all__ = ["text"]

_TEXT = """\
# paddle-stacks {version} for {backend}, without a network

Made {created} from revision {revision}. {size:.1f} GB in {count} files.

The machine it is for needs Linux on x86-64, Docker Engine 24 or newer, and Python {pythons}.
Nothing else, and no network.

    python3 {program} verify                       # is everything here, and undamaged?
    python3 {program} load --to ~/paddle-stacks    # goes on where it was interrupted
    cd ~/paddle-stacks
    ./inv demo

`sha256sum -c --quiet SHA256SUMS` checks the same as `verify` without any program of ours.
If there is a file {signature}, `verify` and `load` compare it with keys that you trust:
`--allowed-signers FILE`.

Copy the whole folder. Files may lie on one disk or be copied from several sticks into one
folder; parts (`.part001` …) stay parts, nobody has to join them. If something is missing or
damaged, `verify` says which file to copy again.

## What is in it

| what | |
|---|---|
{rows}

`docs/bundle.md` of the project says how to go on from here.
"""


def text(manifest: Manifest) -> str:
    """Return the README of a bundle with this manifest."""
    rows = [("image", image.tags[0]) for image in manifest.images]
    rows += [("model", name) for name in manifest.models]
    rows += [("data", name) for name in manifest.data]
    rows.append(("the project, and its environment", f"for Python {', '.join(manifest.pythons)}"))
    if manifest.rebuild:
        rows.append(("packages and sources", "`./inv build` builds the images again"))
    pieces = sum(len(file.pieces) for file in manifest.files)
    return _TEXT.format(
        version=manifest.version,
        backend=manifest.backend,
        created=manifest.created,
        revision=manifest.revision,
        size=sum(file.size for file in manifest.files) / 1e9,
        count=pieces,
        pythons=" or ".join(manifest.pythons),
        program=PROGRAM,
        signature=SIGNATURE,
        rows="\n".join(f"| {what} | {which} |" for what, which in rows),
    )
