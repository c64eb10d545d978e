"""The arguments of jobs, and command lines made of them."""

from __future__ import annotations

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.arguments import as_upstream, parse, parser
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.jobs.options import OPTIONS, InferOptions, QuantizeOptions


def test_every_job_has_options() -> None:
    assert set(OPTIONS) == set(JOBS)


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
    assert parse(OPTIONS[job], line, "cpu").argv() == line


def test_what_is_default_is_left_out() -> None:
    line = ["--model", "m", "--chat", "--seed", "0", "--batch-size", "8"]
    assert parse(InferOptions, line, "cpu").argv() == ["--model", "m", "--chat"]


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


def test_upstreams_program_has_no_force() -> None:
    line = ["--config", "x.json", "--set", "ptq_step=4"]
    options = as_upstream("run_finetune.py", parse(QuantizeOptions, line, "dcu"))
    assert options.argv() == ["run_finetune.py", "x.json", "--ptq_step", "4"]
    with pytest.raises(RequestError, match="overwrites existing output") as caught:
        as_upstream("run_finetune.py", parse(QuantizeOptions, [*line, "--force"], "dcu"))
    assert caught.value.problems[0].where == "--force"
