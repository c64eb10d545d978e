"""Remedies are commands that work as pasted: their tasks, jobs and options exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks
from paddle_stacks.cli import aliases
from paddle_stacks.errors import did_you_mean
from paddle_stacks.jobs import deprecated_flags, models, workspace
from paddle_stacks.jobs.arguments import parser
from paddle_stacks.jobs.catalog import JOBS

ROOT = Path(__file__).parents[2]
CONTEXTS = {context.name: context for context in tasks.namespace.to_contexts()}
NAMES = {**CONTEXTS, **{alias: c for c in CONTEXTS.values() for alias in c.aliases}}
_WORD = r"[^\s;,()\"'|`]+"
_COMMAND = re.compile(rf"\./inv(?: {_WORD})+")


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts in a syntax tree, with a word for what is filled in."""
    inside = {id(each.value) for each in ast.walk(node) if isinstance(each, ast.Expr)}  # docstrings
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            inside |= {id(part) for part in each.values}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "FILLED"
                for part in each.values
            )
        elif isinstance(each, ast.Constant) and id(each) not in inside:
            yield str(each.value)


def _commands() -> list[tuple[str, str]]:
    commands = []
    for folder in ("paddle_stacks", "entrypoints"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for text in _texts(tree):
                name = str(path.relative_to(ROOT))
                commands += [(name, found[0]) for found in _COMMAND.finditer(text)]
    return list(dict.fromkeys(commands))


def _faults(command: str) -> list[str]:
    """Return what is wrong with a command: a task or an option that does not exist."""
    words = command.removeprefix("./inv ").split(" -- ")[0].split()
    while words[0] in ("--help", "-h") and words[1:]:
        words = words[1:]
    task = words[0].rstrip(":.…")
    if task.startswith("-") or "FILLED" in task or not task.islower():
        return []  # an option of the program, or a name that is filled in
    if task not in NAMES:
        return [f"no task {task}"]
    known = set(NAMES[task].flags) | {"--help"}
    faults = []
    for word in words[1:]:
        option = word.partition("=")[0].rstrip(".:…")
        if option.startswith("--") and len(option) > 2 and "FILLED" not in option:
            faults += [] if option in known else [f"{task} has no option {option}"]
    return faults


@pytest.mark.parametrize(("path", "command"), _commands())
def test_a_command_in_a_message_exists(path: str, command: str) -> None:
    assert _faults(command) == []


def test_the_walk_finds_what_is_wrong() -> None:
    assert _faults("./inv trian --config x") == ["no task trian"]
    assert _faults("./inv prepare --key x") == ["prepare has no option --key"]
    assert len(_commands()) > 80


@pytest.mark.parametrize("job", JOBS)
def test_an_alias_is_not_an_option_itself_and_stands_for_one(job: str) -> None:
    known = {option for action in parser(job)._actions for option in action.option_strings}
    host = {"--devices", "--dry-run", "--debug", "--config"}
    for name in {*deprecated_flags._ALIASES.get(job, {}), *deprecated_flags._OURS.get(job, {})}:
        right = deprecated_flags.replacement(job, f"--{name}")
        assert f"--{name}".replace("_", "-") not in known or f"--{name}" not in known
        if right.endswith("="):
            key = right.removeprefix("--set ").rstrip("=")
            assert key in deprecated_flags.SCHEMAS[job].keys
        else:
            assert right in known | host


@pytest.mark.parametrize("name", sorted({*aliases._TASKS, *aliases._PROGRAM}))
def test_an_alias_of_a_task_stands_for_one(name: str) -> None:
    assert name not in NAMES
    command = aliases.task_command(name, [])
    assert _faults(command) == []


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (
            "finetune --config c --lr 1e-4 --name x",
            "finetune --config c --set learning_rate=1e-4 --name x",
        ),
        ("finetune --config c --lr=1e-4", "finetune --config c --set learning_rate=1e-4"),
        ("finetune --config c --model 'a b'", "finetune --config c --set 'model_name_or_path=a b'"),
        ("pretrain --config c --data d", "pretrain --config c --set input_dir=d"),
        ("finetune --config c --max-steps 5", "finetune --config c --set max_steps=5"),
        ("infer --model m --max-tokens 5", "infer --model m --max-new-tokens 5"),
        ("serve --model m --api-key=k", "serve --model m --api-keys=k"),
        ("prepare --key text", "prepare --json-key text"),
        ("finetune --wibble 1", None),
    ],
)
def test_an_option_that_people_type(line: str, command: str | None) -> None:
    words = shlex.split(line)
    option = next(
        word.partition("=")[0]
        for word in words
        if word.startswith("--") and word.partition("=")[0] not in CONTEXTS[words[0]].flags
    )
    expected = f"./inv {command}" if command else ""
    assert aliases.corrected_option(words[0], option, words) == expected


@pytest.mark.parametrize(
    ("name", "rest", "command"),
    [
        ("train", ["--config", "c"], "./inv finetune --config c"),
        ("chat", ["--model", "m"], "./inv infer --chat --model m"),
        ("list", [], "./inv --list"),
        ("wibble", [], ""),
    ],
)
def test_a_task_that_people_type(name: str, rest: list[str], command: str) -> None:
    assert aliases.task_command(name, rest) == command


def test_how_to_stop_a_job() -> None:
    assert "docker stop --time 45 NAME" in aliases.task_command("stop", [])


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("--lr", ["--rank", "--ranks", "--set"], ""),
        ("--model", ["--nnodes", "--name"], ""),
        ("--data", ["--wait", "--grace"], ""),
        ("--modle", ["--model", "--name"], "--model"),
        ("--max-new-token", ["--max-new-tokens", "--max-waiting"], "--max-new-tokens"),
        ("stp", ["top", "test"], ""),
        ("finetun", ["finetune", "pretrain"], "finetune"),
        ("smollm2", ["smollm2-135m-instruct"], "smollm2-135m-instruct"),
    ],
)
def test_a_suggestion_is_close_enough_to_be_meant(word: str, known: list[str], near: str) -> None:
    assert did_you_mean(word, known) == (f'did you mean "{near}"?' if near else "")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("gpt2", "./inv fetch gpt2 --from huggingface:ORG/gpt2"),
        ("meta-llama/Llama-2-7b", "./inv fetch llama-2-7b"),
        ("acme/thing", "./inv fetch thing --from huggingface:acme/thing"),
        ("models/thing", "./inv fetch thing --from huggingface:ORG/thing"),
        ("llama-nano", "./inv fetch llama-nano"),
    ],
)
def test_how_to_fetch_a_model(tmp_path: Path, name: str, command: str) -> None:
    assert models.fetch_command(name) == command
    with pytest.raises(Exception, match="no model") as caught:
        workspace.find_model(name, tmp_path)
    assert command in str(caught.value.problems[0].remedy)  # type: ignore[attr-defined]


DOCUMENTED = (
    "--model_name_or_path meta-llama/Llama-2-7b --inference_mode dynamic --block_attn false"
)


def test_the_first_wrong_line_of_the_document_has_one_right_answer() -> None:
    problem = deprecated_flags.misplaced_script("predictor.py", DOCUMENTED.split())
    assert problem is not None
    assert problem.remedy == (
        "./inv upstream predict/predictor.py --backend dcu -- --model_name_or_path "
        "models/llama-2-7b --mode dynamic --block_attn false --dtype float16"
    )
    words = problem.remedy.partition(" -- ")[2].split()
    assert deprecated_flags.flag_problems(words, "predict/predictor.py") == []
    assert deprecated_flags.misplaced_script("predict/predictor.py", words) is None
