"""List the licences of all packages in the image, and the paths of their texts.

``python3 licences.py [ROOT]`` in a step of the Dockerfile writes ``/opt/licenses.json``.
Debian's packages come from dpkg and the copyright files, Kylin's from rpm, Python's from
their metadata. Sources that are copied into the image are listed too. A package without a
recognizable licence has an empty one.
"""

from __future__ import annotations

import email.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIST = "opt/licenses.json"
_TEXT = re.compile(r"(?i)(licen[cs]e|copying|notice|copyright|authors)")
_CLASSIFIER = re.compile(r"^License :: (?:OSI Approved :: )?(.*)$")
# A "License" field should be a name; some packages put the whole text there.
_LONGEST_NAME = 80

Row = dict[str, Any]


def debian(root: Path) -> Iterator[Row]:
    """Yield Debian's packages."""
    status = root / "var/lib/dpkg/status"
    if not status.is_file():
        return
    for stanza in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        path = root / "usr/share/doc" / fields["Package"] / "copyright"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        yield _row("deb", fields["Package"], fields["Version"], _of_copyright(text), [path], root)


def _of_copyright(text: str) -> str:
    """Return the licences that a copyright file names.

    A machine-readable file [1] has them as fields. Others may refer to the texts in
    ``/usr/share/common-licenses``.

    [1] https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    if re.match(r"Format(-Specification)?:", text):
        names = re.findall(r"^License: *(\S.*)$", text, re.MULTILINE | re.IGNORECASE)
    else:
        names = re.findall(r"/usr/share/common-licenses/([A-Za-z][A-Za-z0-9.-]*[A-Za-z0-9])", text)
    return ", ".join(sorted({name.strip() for name in names}))


def rpm(root: Path) -> Iterator[Row]:
    """Yield Kylin's packages, as listed by the image's rpm."""
    if root != Path("/") or not shutil.which("rpm"):
        return
    line = ["rpm", "-qa", "--qf", r"%{NAME}\t%{VERSION}-%{RELEASE}\t%{LICENSE}\n"]
    output = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    for name, version, licence in sorted(text.split("\t") for text in output.splitlines()):
        texts = sorted((root / "usr/share/licenses" / name).glob("*"))
        yield _row("rpm", name, version, licence, texts, root)


def python(root: Path) -> Iterator[Row]:
    """Yield Python's packages, including those that other packages vendor."""
    folders = [
        folder
        for top in ("opt", "usr/local")
        for suffix in ("dist-info", "egg-info")
        for folder in (root / top).rglob(f"*.{suffix}")
        if folder.is_dir()
    ]
    for folder in sorted(folders):
        path = next((folder / n for n in ("METADATA", "PKG-INFO") if (folder / n).is_file()), None)
        if path is None:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        metadata = email.parser.HeaderParser().parsestr(text)
        texts = [p for p in folder.rglob("*") if p.is_file() and _TEXT.match(p.name)]
        yield _row(
            "pypi",
            metadata.get("Name", folder.name),
            metadata.get("Version", ""),
            _of_metadata(metadata),
            sorted(texts),
            root,
        )


def _of_metadata(metadata: Any) -> str:
    """Return the licence in the core metadata: the expression, the classifiers or the name."""
    if expression := metadata.get("License-Expression", "").strip():
        return str(expression)
    matches = [_CLASSIFIER.match(line.strip()) for line in metadata.get_all("Classifier", [])]
    names = [match[1] for match in matches if match and match[1] != "OSI Approved"]
    if names:
        return ", ".join(sorted(names))
    name = metadata.get("License", "").strip()
    one_line = name and "\n" not in name and len(name) <= _LONGEST_NAME
    return str(name) if one_line and name.upper() != "UNKNOWN" else ""


def sources(root: Path) -> Iterator[Row]:
    """Yield the sources that are not packages: the project itself, and upstream's programs."""
    ours = root / "usr/share/common-licenses/Apache-2.0"
    yield _row("source", "paddle-stacks", "", "Apache-2.0", [ours], root)
    upstream = root / "opt/PaddleNLP"
    if upstream.is_dir():
        text = upstream / "LICENSE"
        is_apache = text.is_file() and "Apache License" in text.read_text(encoding="utf-8")
        yield _row("source", "PaddleNLP", "", "Apache-2.0" if is_apache else "", [text], root)


def _row(kind: str, name: str, version: str, licence: str, texts: list[Path], root: Path) -> Row:
    """Return an entry of the list, with the resolved paths of the texts that exist."""
    # Debian's packages of one source often share a folder through a link.
    paths = [f"/{path.resolve().relative_to(root.resolve())}" for path in texts if path.is_file()]
    return {"kind": kind, "name": name, "version": version, "license": licence, "texts": paths}


def main(root: Path) -> None:
    """Write the list into the image whose files are below ``root``."""
    rows = [*sources(root), *debian(root), *rpm(root), *python(root)]
    rows.sort(key=lambda row: (row["kind"], row["name"].lower(), row["version"], row["texts"]))
    path = root / _LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f'{{"packages": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/"))
