"""The arguments of jobs, and command lines made of them."""

from __future__ import annotations

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.arguments import PARSERS, as_upstream, parser, words
from paddle_stacks.jobs.catalog import JOBS


def test_every_job_has_arguments() -> None:
    assert set(PARSERS) == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_every_argument_is_explained(job: str) -> None:
    for action in parser(job)._actions:
        assert action.help, action.dest


@pytest.mark.parametrize(
    ("job", "line"),
    [
        ("fetch", ["smollm2-135m-instruct", "--from", "x.gguf", "--force"]),
        ("finetune", ["--config", "a.json", "--set", "a=1", "--set", "b=-2", "--resume", "auto"]),
        ("export", ["--model", "m", "--adapter", "a", "--merge", "--output", "models/o"]),
        ("infer", ["--model", "m", "--prompt", "-"]),
        ("infer", ["--model", "m", "--prompt=--what is this?", "--top-k", "5"]),
        ("infer", ["--model", "m", "--prompt", "", "--stop", "a", "--stop=-b"]),
    ],
)
def test_a_command_line_survives(job: str, line: list[str]) -> None:
    made = parser(job)
    assert words(made, made.parse_args(line)) == line


def test_what_is_default_is_left_out() -> None:
    made = parser("infer")
    found = made.parse_args(["--model", "m", "--chat", "--seed", "0", "--batch-size", "8"])
    assert words(made, found) == ["--model", "m", "--chat"]


def test_options_of_one_name_are_of_one_kind() -> None:
    """``./inv plan`` has the options of all jobs, so the same name has to mean one kind."""
    kinds: dict[str, set[object]] = {}
    for job in JOBS:
        for action in parser(job)._actions:
            for option in action.option_strings:
                # One that repeats in a job is a list for `plan`, which fits the others too.
                kinds.setdefault(option, set()).add(action.nargs)
    assert {option for option, found in kinds.items() if len(found) > 1} == set()


def test_an_abbreviation_is_refused_with_a_guess() -> None:
    with pytest.raises(RequestError) as caught:
        parser("finetune").parse_args(["--config", "a.json", "--resum", "auto"])
    assert 'did you mean "--resume"?' in caught.value.problems[0].remedy


def test_upstreams_program_is_not_told_to_replace_what_it_writes_over_anyway() -> None:
    line = ["--config", "x.json", "--set", "ptq_step=4"]
    given = parser("quantize").parse_args(line)
    wanted = ["run_finetune.py", "x.json", "--ptq_step", "4"]
    assert as_upstream("run_finetune.py", given) == wanted
    with pytest.raises(RequestError, match="writes over what is there") as caught:
        as_upstream("run_finetune.py", parser("quantize").parse_args([*line, "--force"]))
    assert caught.value.problems[0].where == "--force"
