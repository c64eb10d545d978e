"""The fenced blocks of the documentation, and the markers before them.

A block of commands is ``sh`` (one command per line) or ``console`` (``$ command``, then its
output). A comment on the line before it has the test that runs it:

    <!-- runs: tests/docs/test_commands.py -->     that test runs the block unchanged
    <!-- needs: a DCU -->                          no machine here can run it

Both together: the test runs it on machines that have what it needs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = ("sh", "console")
LANGUAGES = (*COMMANDS, "json", "mermaid", "python", "text", "toml", "yaml")
NEEDS = (
    "a DCU",
    "a DCU's image",
    "a network",
    "another user",
    "Apptainer",
    "Kubernetes",
    "Slurm",
    "root",
    "two machines",
)

_FENCE = re.compile(
    r"(?P<marks>(?:^<!-- (?:runs|needs): [^\n]+ -->\n)*)"
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    """A command of a block.

    Args:
        text: what is typed.
        output: the lines that the page shows of its output.
        status: its exit status: 0, or the output of ``$ echo $?`` after it.
    """

    text: str
    output: tuple[str, ...] = ()
    status: int = 0

    @property
    def bare(self) -> str:
        """The command without a trailing comment."""
        return re.sub(r"\s+# .*$", "", self.text)

    @property
    def words(self) -> list[str]:
        return shlex.split(self.bare)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: its file.
        line: of its first fence, from 1.
        language: the word after the fence.
        text: between the fences.
        runs: the tests that run it.
        needs: requirements that CI does not have.
        file: the file that it shows, from the start of the paragraph before it; usually empty.
    """

    page: Path
    line: int
    language: str
    text: str
    runs: tuple[str, ...]
    needs: tuple[str, ...]
    file: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "sh":
            return [Command(line) for line in lines if line and not line.startswith("#")]
        listed: list[Command] = []
        for line in lines:
            if line.startswith("$ "):
                listed.append(Command(line[2:]))
            elif listed[-1].text == "echo $?":
                listed[-2:] = [replace(listed[-2], status=int(line))]
            else:
                listed[-1] = replace(listed[-1], output=(*listed[-1].output, line))
        return listed


def pages() -> list[Path]:
    """Return the pages: those of the root, and of docs/ with all its folders."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    listed = []
    for match in _FENCE.finditer(text):
        marks = dict[str, tuple[str, ...]](runs=(), needs=())
        for kind, value in re.findall(r"<!-- (\w+): (.+) -->", match["marks"]):
            marks[kind] = tuple(part.strip() for part in value.split(","))
        line = text.count("\n", 0, match.start("language")) + 1
        *_, before = text[: match.start()].strip().split("\n\n")
        named = re.match(r"`([\w.-]+\.(?:json|toml))`[,:]", before)
        file = named[1] if named else ""
        listed.append(Block(page, line, match["language"], match["text"], **marks, file=file))
    return listed


def inline(page: Path) -> list[str]:
    """Return the commands in running text, such as `./inv build`."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"`(\./inv [^`]+)`", text)
