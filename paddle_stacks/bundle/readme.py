"""The README of a bundle."""

from __future__ import annotations

from paddle_stacks.bundle.contents import PROGRAM, SIGNATURE, Manifest

__all__ = ["text"]

_TEXT = """\
# paddle-stacks {version} for {backend}, for air-gapped installation

Created {created} from revision {revision}. {size:.1f} GB in {count} files.

The target machine needs Linux on x86-64, Docker Engine 24 or newer, and Python {pythons}. It
needs no network.

    python3 {program} verify                       # compares all files with their checksums
    python3 {program} load --to ~/paddle-stacks    # continues after an interruption
    cd ~/paddle-stacks
    ./inv demo

`sha256sum -c --quiet SHA256SUMS` checks the same as `verify`, without this project's code. If
there is a file {signature}, `--allowed-signers FILE` of `verify` and `load` compares it with the
keys that you trust.

Copy the whole folder, if necessary with several disks. Parts (`.part001` …) need not be joined.
If a file is missing or damaged, `verify` names it; copy it again.

## Contents

| kind | name |
|---|---|
{rows}

`docs/bundle.md` in the project has the next steps.
"""


def text(manifest: Manifest) -> str:
    """Return the README of a bundle."""
    rows = [("image", image.tags[0]) for image in manifest.images]
    rows += [("model", name) for name in manifest.models]
    rows += [("data", name) for name in manifest.data]
    rows.append(("project and environment", f"for Python {', '.join(manifest.pythons)}"))
    if manifest.rebuild:
        rows.append(("packages and sources", "for `./inv build`"))
    return _TEXT.format(
        version=manifest.version,
        backend=manifest.backend,
        created=manifest.created,
        revision=manifest.revision,
        size=sum(file.size for file in manifest.files) / 1e9,
        count=sum(len(file.stored) for file in manifest.files),
        pythons=" or ".join(manifest.pythons),
        program=PROGRAM,
        signature=SIGNATURE,
        rows="\n".join(f"| {kind} | {name} |" for kind, name in rows),
    )
