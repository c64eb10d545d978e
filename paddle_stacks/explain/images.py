"""Why there is an image or a stage, and what a label or a variable of a build says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from paddle_stacks.build.reasons import parents
from paddle_stacks.explain.comments import lines
from paddle_stacks.explain.topics import Topic

__all__ = ["targets", "topics"]

_PAGE = Path("docs", "architecture", "20-images.md")
_TARGET = re.compile(r'^target "(?P<name>[a-z]\w*)" \{(?P<body>.*?)^\}', re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r'variable "(?P<name>\w+)" \{ default = "(?P<default>[^"]*)" \}')
_LABEL = re.compile(r'"(?P<name>[a-z][\w.-]+)"\s+= (?P<value>\S.*)')
_NAMED = re.compile(r"\$\{(\w+)\}")


def topics(root: Path) -> Iterator[Topic]:
    """Yield the stages and variables of the Dockerfile, and those and labels of the bake file."""
    yield from _stages(root)
    yield from _environment(root)
    variables = {topic.name: topic for topic in _variables(root)}
    yield from variables.values()
    yield from _labels(root, variables)


def targets(root: Path) -> list[str]:
    """Return the targets of ``docker-bake.hcl`` that have tags: the images."""
    return [*_tags(root)]


def _stages(root: Path) -> Iterator[Topic]:
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    starts = parents(text)
    tagged = _tags(root)
    adds = _adds((root / _PAGE).read_text(encoding="utf-8"))
    reasons = {
        line.code.split()[-1]: (line.number, line.why)
        for line in lines(root / "Dockerfile", groups=False)
        if line.code.startswith("FROM ")
    }
    for stage, parent in starts.items():
        number, why = reasons[stage]
        says = [*([f"It adds {adds[stage]}."] if stage in adds else []), *([why] if why else [])]
        children = [child for child, start in starts.items() if _is(start, stage, starts)]
        facts = [("starts from", parent), ("starts", ", ".join(children) or "nothing")]
        facts += [("tag", tag) for tag in tagged.get(stage, ())]
        facts += [("made in", f"Dockerfile:{number}")]
        if (root / "images" / stage).is_dir():
            facts.append(("made of", f"images/{stage}/"))
        kind = "image" if stage in tagged else "stage"
        yield Topic(kind, stage, " ".join(says), tuple(facts))


def _environment(root: Path) -> Iterator[Topic]:
    """Yield what the stages set with ``ENV``, with the comment above the instruction."""
    instruction, why, number, stage = "", "", 0, ""
    above_argument = ""  # a comment is about what uses the ARG below it, too
    for line in lines(root / "Dockerfile", groups=False):
        if not instruction:
            why, number = line.why or above_argument, line.number
        instruction += " " + line.code.removesuffix("\\")
        if line.code.endswith("\\"):
            continue
        word, _, rest = instruction.strip().partition(" ")
        instruction = ""
        above_argument = why if word == "ARG" else ""
        if word == "FROM":
            stage = rest.split()[-1]
        elif word == "ENV":
            for name, value in (item.split("=", 1) for item in shlex.split(rest)):
                facts = [("value", value), ("set in", f"the stage {stage}")]
                facts.append(("said in", f"Dockerfile:{number}"))
                yield Topic("variable", name, why, tuple(facts))


def _is(start: str, stage: str, starts: Mapping[str, str]) -> bool:
    """Whether a stage's start is a stage, on one of the platforms."""
    pattern = _NAMED.sub("(cpu|dcu|dcu-sim)", start)
    return stage in starts and re.fullmatch(pattern, stage) is not None


def _tags(root: Path) -> dict[str, list[str]]:
    """Return the tags of each target of ``docker-bake.hcl`` that has any."""
    bake = (root / "docker-bake.hcl").read_text(encoding="utf-8")
    return {
        match["name"]: re.findall(r'"(paddle-stacks/[^"]+)"', match["body"])
        for match in _TARGET.finditer(bake)
    }


def _adds(page: str) -> dict[str, str]:
    """Return what the page on images says that each stage adds."""
    texts = {}
    for names, adds in re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| ([^|]+) \|", page, re.MULTILINE):
        for name in re.findall(r"`([\w-]+)`", names):
            texts[name] = adds.strip()
    return texts


def _variables(root: Path) -> Iterator[Topic]:
    for line in lines(root / "docker-bake.hcl", groups=True):
        if match := _VARIABLE.match(line.code):
            default = match["default"] or "empty"
            facts = (("default", default), ("said in", f"docker-bake.hcl:{line.number}"))
            yield Topic("build variable", match["name"], line.why, facts)


def _labels(root: Path, variables: Mapping[str, Topic]) -> Iterator[Topic]:
    path = root / "docker-bake.hcl"
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = _LABEL.match(text.strip())
        if not match or "." not in match["name"]:
            continue
        value = match["value"].split(" ")[0]
        about = variables.get(value)
        says = f"{about.says}" if about else ""
        facts = (("value", value.strip('"')), ("said in", f"docker-bake.hcl:{number}"))
        yield Topic("label", match["name"], says, facts)
