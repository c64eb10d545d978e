"""Every command of the documents is one that there is, and is marked with what runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from invoke.exceptions import Exit

import tasks
from paddle_stacks import recipes
from paddle_stacks.cli.__main__ import StackProgram
from paddle_stacks.cli.jobs import words_of
from paddle_stacks.errors import StackError
from paddle_stacks.jobs.arguments import parser
from paddle_stacks.jobs.catalog import JOBS
from tests.support.doc_pages import COMMANDS, LANGUAGES, NEEDS, ROOT, Block, blocks, inline, pages

BLOCKS = [block for page in pages() for block in blocks(page)]
TYPED = [block for block in BLOCKS if block.language in COMMANDS]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# How the command line says no: its parser's, and that of a job.
REFUSED = (Exit, StackError)
# What stands for something else in the text: `./inv JOB --backend dcu`, or `./inv {job}`.
PLACEHOLDERS = re.compile(r"\b(JOB|TASK)\b|…|\{")


def told(block: Block) -> str:
    return block.where


def parsed(line: list[str]) -> None:
    """Parse what follows ``./inv`` as it does, and then as the job does.

    Raises:
        Exit, StackError: there is no such task or option.
    """
    program = StackProgram(namespace=tasks.namespace)
    program.create_config()
    program.parse_core(["inv", *line])
    program.parse_collection()
    program.parse_tasks()
    for context in program.tasks:
        given = {a.attr_name or a.name: a.value for a in context.args.values() if a.got_value}
        given = {name.replace("-", "_"): value for name, value in given.items()}
        job = given.pop("job", None) or (context.name if context.name in JOBS else None)
        if job is not None:
            assert job in JOBS, job
            of_a_job(job, given, str(program.core.remainder).split())


def of_a_job(job: str, given: dict, behind: list[str]) -> None:
    backend = given.get("backend") or "cpu"
    if name := given.get("recipe"):
        recipes.find(name, ROOT, backend, job)
        return
    known = {action.dest for action in parser(job)._actions}
    known |= {option.lstrip("-").replace("-", "_") for option in parser(job)._option_string_actions}
    own = {name: value for name, value in given.items() if name in known}
    parser(job).parse_args(words_of(job, own, behind))


def of_an_image(words: list[str]) -> None:
    """Parse what follows an image's name on a line of docker run."""
    at = next(n for n, word in enumerate(words) if word.startswith("paddle-stacks/"))
    job, *rest = words[at + 1 :]
    if job in JOBS:
        parser(job).parse_args(rest)


def of_compose(words: list[str]) -> None:
    """Look up the services and profiles of a line of docker compose, and parse a job's words."""
    services = COMPOSE["services"]
    profiles = {name for service in services.values() for name in service.get("profiles", ())}
    if "--profile" in words:
        assert words[words.index("--profile") + 1] in {*profiles, "*"}
    if "run" in words:
        at = next(n for n, word in enumerate(words) if word in services)
        parser(words[at]).parse_args(words[at + 1 :])
    elif "up" in words and not words[-1].startswith("-") and words[-1] != "up":
        assert words[-1] in services, words[-1]


def check(words: list[str]) -> None:
    """Check a command by whom it is for; programs that are not ours are not looked at."""
    while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] == "sudo"):
        words = words[1:]
    for end in ("|", ">", "<"):
        words = words[: words.index(end)] if end in words and words[0] == "./inv" else words
    if words[0] == "./inv":
        parsed(words[1:])
    elif words[:2] == ["docker", "compose"]:
        of_compose(words[2:])
    elif {"docker", "run"} <= {*words} and any(w.startswith("paddle-stacks/") for w in words):
        of_an_image(words)


@pytest.mark.parametrize("block", BLOCKS, ids=told)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block.where}: ```{block.language} is none of {LANGUAGES}"
    if block.language not in COMMANDS:
        assert not (block.runs or block.needs), f"{block.where}: marked, and no commands"
        lines = block.text.splitlines()
        assert not any(re.match(r"(\$ )?(\./inv|docker) ", line) for line in lines), block.where


@pytest.mark.parametrize("block", TYPED, ids=told)
def test_every_block_of_commands_is_run_or_says_what_it_needs(block: Block) -> None:
    marker = "<!-- runs: tests/FILE.py::TEST --> or <!-- needs: a DCU --> on the line before it"
    assert block.runs or block.needs, f"{block.where}: no {marker}"
    assert set(block.needs) <= set(NEEDS), f"{block.where}: needs are among {NEEDS}"
    for named in block.runs:
        file, _, name = named.partition("::")
        assert (ROOT / file).is_file(), f"{block.where}: {named}"
        assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{block.where}: {named}"


@pytest.mark.parametrize("block", TYPED, ids=told)
def test_every_command_of_a_block_is_one_that_there_is(block: Block) -> None:
    assert block.commands, block.where
    for command in block.commands:
        if "…" in command.words and command.words[:2] != ["docker", "run"]:
            assert block.needs, f"{block.where}: what is left out cannot be run"
        try:
            check([word for word in command.words if word != "…"])
        except REFUSED as error:
            pytest.fail(f"{block.where}: {command.text}\n{error}")


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_text_has_a_task_and_its_options(page: Path) -> None:
    contexts = tasks.namespace.to_contexts()
    flags = {name: each.flags for each in contexts for name in (each.name, *each.aliases)}
    for text in inline(page):
        if PLACEHOLDERS.search(text):
            continue
        words = text.partition(" -- ")[0].split()[1:]
        if words[0].startswith("-"):  # the program's own, as --list; --help names a task
            words = words[1:] if words[0] == "--help" else []
        for task in words[:1]:
            assert task in flags, f"{page.name}: {text}"
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= {*flags[task]}, f"{page.name}: {text}"


@pytest.mark.parametrize(
    "line",
    [
        "./inv finetun --config my.json",
        "./inv finetune --confg my.json",
        "./inv finetune --config",
        "./inv infer --recipe no-such --backend dcu",
        "./inv cluster.submit no-such --engine slurm",
        "./inv cluster.submit finetune --no-such",
        "docker run --rm paddle-stacks/infer:cpu infer --no-such",
        "docker compose up no-such",
        "docker compose --profile no-such up",
        "docker compose run --rm infer --no-such",
    ],
)
def test_a_command_that_is_none_is_noticed(line: str) -> None:
    with pytest.raises((*REFUSED, AssertionError)):
        check(line.split())
