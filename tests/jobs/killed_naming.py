"""Kill ``prepare`` at every moment of the naming of its files: ``python killed_naming.py``.

In ``data/`` there is ``in.jsonl``. Each moment is before or after one rename to a final name;
the job runs in a process of its own and kills itself there, then again without a moment.
Prints a JSON line for each: the moment, what was there after the kill, and whether the second
run ended well with the bytes of a run that nobody killed. It runs in the image.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import paddlenlp.transformers  # here, so that not every child has to

from entrypoints import prepare
from paddle_stacks.jobs import corpus

assert paddlenlp

DATA = Path("data")
SUFFIXES = (".bin", ".manifest.json", ".idx")
LINE = ["--input", "data/in.jsonl", "--output", "data/out", "--model", "tiny", "--workers", "1"]


def run(*options: str, moment: tuple[str, str] | None = None) -> int:
    """Run the job in a child, which dies at the moment; return its exit status, or -signal."""
    child = os.fork()
    if child == 0:
        if moment:
            die_at(*moment)
        with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet):
            try:
                os._exit(prepare.main([*LINE, *options]))
            except BaseException as error:
                print(error, file=sys.stderr)
                os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(when: str, suffix: str) -> None:
    rename = os.replace

    def replace(source: object, target: object) -> None:
        meant = Path(str(target)).name == f"out{suffix}"
        if meant and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if meant:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def pair() -> tuple[bytes, bytes] | None:
    """Return the two files, or None where there is no index: then nobody reads the other."""
    prefix = DATA / "out"
    if not corpus.index_path(prefix).exists():
        return None
    corpus.look(prefix)
    return corpus.tokens_path(prefix).read_bytes(), corpus.index_path(prefix).read_bytes()


def files() -> dict[str, bytes]:
    """Return what is under the final names."""
    return {s: (DATA / f"out{s}").read_bytes() for s in SUFFIXES if (DATA / f"out{s}").exists()}


def put(there: dict[str, bytes]) -> None:
    """Put files under the final names, and no others."""
    for suffix in SUFFIXES:
        (DATA / f"out{suffix}").unlink(missing_ok=True)
    for suffix, content in there.items():
        (DATA / f"out{suffix}").write_bytes(content)


def main() -> None:
    assert run("--append-eos") == 0
    older = files()
    put({})
    assert run() == 0
    wanted = pair()
    assert len(older) == len(SUFFIXES) and older != files()
    for instead in (False, True):
        for suffix in SUFFIXES:
            for when in ("before", "after"):
                put(older if instead else {})
                killed = run(*(["--force"] if instead else []), moment=(when, suffix))
                found = pair()
                seen = "none" if found is None else "new" if found == wanted else "older"
                status = run()
                print(
                    json.dumps(
                        {
                            "moment": f"{when} {suffix}{' of another' if instead else ''}",
                            "killed": killed,
                            "seen": seen,
                            "status": status,
                            "whole": pair() == wanted,
                            "left": sorted(path.name for path in DATA.glob(".out*")),
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
