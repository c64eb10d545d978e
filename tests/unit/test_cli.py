"""The command line: its tasks, its help, its errors and their exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

import tasks
from paddle_stacks.cli import listing, task
from paddle_stacks.errors import STATUSES, JobError, MachineError, RequestError, Stopped
from paddle_stacks.jobs.catalog import JOBS
from tests.support.workspaces import make_workspace

ROOT = Path(__file__).parents[2]


def inv(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: v for name, v in os.environ.items() if not name.startswith("PADDLE_STACKS_")}
    return subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", *words],
        cwd=ROOT,
        env={**clean, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("task", ["build", "plan", "explain", "images.diff"])
def test_help_may_follow_the_task(task: str) -> None:
    done = inv(task, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout == inv("--help", task).stdout
    assert f"{task} [--options]" in done.stdout


@pytest.mark.parametrize("words", [("buidl",), ("buidl", "--help"), ("--help", "buidl")])
def test_an_unknown_task_is_told_what_is_near(words: tuple[str, ...]) -> None:
    done = inv(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'did you mean "build"?' in done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_a_list_quietly() -> None:
    for words in ("keys", "keys --json", "--list"):
        line = f"{sys.executable} -m paddle_stacks.cli {words} | head -n 1 | cut -c 1-20"
        done = subprocess.run(
            ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) in ((0, ""), (141, "")), words


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = make_workspace(tmp_path) / "my.json"
    path.write_text('{"model_name_or_path": "m", "dataset_name_or_path": "data/d"}')
    return path


def test_the_list_has_every_task_once() -> None:
    names = [name for group in listing.GROUPS.values() for name in group]
    assert sorted(names) == sorted(tasks.namespace.task_names)


@pytest.mark.parametrize("words", [(), ("--list",)])
def test_the_list_fits_a_terminal(words: tuple[str, ...]) -> None:
    done = inv(*words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line and line[0] != " "][:-1] == list(listing.GROUPS)


def test_help_shows_the_form_of_each_value() -> None:
    shown = inv("infer", "--help").stdout
    for form in ("--batch-size=INT", "--top-p=FLOAT", "--input=PATH", "--set=KEY=VALUE"):
        assert form in shown
    assert "--decode=greedy|sampling" in shown
    assert "--level=O1|O2" in inv("memory", "--help").stdout


def test_a_recipe_runs_whatever_its_job(tmp_path: Path) -> None:
    workspace = str(make_workspace(tmp_path))

    def plan(*words: str) -> dict[str, Any]:
        done = inv(*words, "--backend", "dcu", "--json", PADDLE_STACKS_WORKSPACE=workspace)
        values: dict[str, Any] = json.loads(done.stdout)
        return values

    ours = plan("run", "infer-block-fp16")
    theirs = plan("infer", "--recipe", "infer-block-fp16")
    assert (ours["job"], ours["recipe"]) == ("infer", "infer-block-fp16")
    assert (ours["argv"], ours["mounts"]) == (theirs["argv"], theirs["mounts"])


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("run", "infer", "--model", "m"), "./inv infer --model m"),
        (("run", "lora-13b"), "./inv run lora-13b --backend dcu"),
        (("run", "nothing"), "./inv recipes --backend cpu lists them"),
        (("shell", "infr"), 'did you mean "infer"?'),
    ],
)
def test_what_cannot_run_has_a_remedy(words: tuple[str, ...], remedy: str) -> None:
    done = inv(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"  fix: {remedy}" in done.stderr


def test_recipes_are_those_of_the_backend() -> None:
    assert "lora-demo" in inv("recipes").stdout
    assert "./inv recipes --backend dcu" in inv("recipes").stdout
    assert "lora-13b" in inv("recipes", PADDLE_STACKS_BACKEND="dcu").stdout


@pytest.mark.parametrize(
    ("layout", "status", "verdict"), [("pp=8", 0, "fits: "), ("pp=1", 2, "does not fit: ")]
)
def test_a_memory_plan_begins_with_its_verdict(layout: str, status: int, verdict: str) -> None:
    done = inv("memory", "--model", "llama-2-13b", "--method", "full", "--layout", layout)
    assert done.returncode == status
    assert done.stdout.startswith(verdict)


def test_the_list_imports_nothing_heavy() -> None:
    program = (
        "import sys, tasks\n"
        "tasks.namespace.to_contexts()\n"
        "heavy = {'docker', 'rich', 'jinja2', 'requests'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("--help",), ("--help", "finetune"), ("demo", "--help")])
def test_the_help_documents_the_exit_statuses(words: tuple[str, ...]) -> None:
    done = inv(*words)
    assert done.returncode == 0
    for status, meaning in STATUSES.items():
        assert f"{status:<6} {meaning}" in done.stdout


def test_the_help_of_a_job_has_the_containers_options() -> None:
    done = inv("--help", "infer")
    for words in ("--top-k", "--max-new-tokens", "LoRA adapter", "--dry-run", "--debug"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("finetun",), 2, ['there is no task "finetun"', 'did you mean "finetune"?']),
        (("finetune", "--confi", "x"), 2, ["--confi", 'did you mean "--config"?']),
        (("finetune",), 2, ["required: --config"]),
        (("fetch",), 2, ["did not receive required positional arguments", "'model'"]),
        (("export", "--model", "m"), 2, ["required: --output"]),
        (("infer", "--model", "m", "--seed", "x", "--dry-run"), 2, ["--seed", "'x'"]),
        (("infer", "--model", "m", "--decode", "beam", "--dry-run"), 2, ["'beam'"]),
        (("plan", "finetun"), 2, ['no job is named "finetun"', 'did you mean "finetune"?']),
        (("plan", "export", "--prompt", "x"), 2, ["export has no --prompt"]),
        (("infer", "--model", "m", "--backend", "cpus", "--dry-run"), 2, ["unknown backend"]),
        (
            ("infer", "--model", "/etc", "--prompt", "x", "--dry-run"),
            2,
            ["/etc is outside the workspace"],
        ),
        (("finetune", "--config", "../x.json", "--dry-run"), 2, ["outside the workspace"]),
        (("finetune", "--config", "nowhere.json"), 2, ["nowhere.json"]),
    ],
)
def test_a_wrong_command_line(words: tuple[str, ...], status: int, said: list[str]) -> None:
    done = inv(*words)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr, done.stderr


def test_a_traceback_is_for_those_who_ask() -> None:
    words = ("finetune", "--config", "nowhere.json")
    for done in (inv(*words, "--debug"), inv(*words, PADDLE_STACKS_DEBUG="1")):
        assert done.returncode == 2
        assert "Traceback (most recent call last)" in done.stderr


def test_the_plan_as_json_is_one_document(tmp_path: Path, config: Path) -> None:
    words = ("plan", "finetune", "--config", "my.json", "--json", "--name", "try1")
    sets = ("--set", "learning_rate=1e-4", "--set", "lora=true")
    done = inv(*words, *sets, PADDLE_STACKS_WORKSPACE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert done.stderr == ""
    assert plan["argv"] == [
        *("finetune", "--config", "my.json"),
        *("--set", "learning_rate=1e-4", "--set", "lora=true", "--name", "try1"),
    ]
    assert plan["workspace"] == str(tmp_path)
    assert str(tmp_path) not in [mount["source"] for mount in plan["mounts"]]


def test_the_plan_and_a_dry_run_say_the_same(tmp_path: Path, config: Path) -> None:
    workspace = {"PADDLE_STACKS_WORKSPACE": str(tmp_path)}
    words = ("finetune", "--config", "my.json")
    plan = inv("plan", *words, **workspace)
    dry = inv(*words, "--dry-run", **workspace)
    assert plan.returncode == dry.returncode == 0
    assert "plan: finetune on cpu" in plan.stdout and "docker run --rm" in plan.stdout
    # The container's name is a new one each time.
    same = [line for line in plan.stdout.splitlines() if "paddle-stacks-finetune-" not in line]
    assert set(same) <= set(dry.stdout.splitlines())


@pytest.mark.parametrize("form", [("--dry-run",), ("--json",)])
def test_a_plan_checks_what_the_run_would(tmp_path: Path, form: tuple[str, ...]) -> None:
    workspace = {"PADDLE_STACKS_WORKSPACE": str(tmp_path)}
    (tmp_path / "my.json").write_text(
        '{"model_name_or_path": "gone", "dataset_name_or_path": "data/gone"}'
    )
    tune = inv("finetune", "--config", "my.json", *form, **workspace)
    ask = inv("infer", "--model", "gone", "--input", "gone.jsonl", *form, **workspace)
    fetch = inv("fetch", "m", "--from", "gguf:gone.gguf", *form, **workspace)
    for done, faults in (
        (tune, ['no model "gone"', "the data set does not exist"]),
        (ask, ['no model "gone"', "cannot read the prompts"]),
        (fetch, ["the model's source does not exist"]),
    ):
        assert done.returncode == 2
        assert (
            "docker run --rm" in done.stdout or '"argv"' in done.stdout
        )  # the plan is shown all the same
        assert [fault for fault in faults if fault not in done.stderr] == []


def test_a_plan_does_not_ask_for_what_an_earlier_step_makes(tmp_path: Path) -> None:
    make_workspace(tmp_path)
    words = ("pretrain", "--backend", "dcu", "--recipe", "pretrain-pp8", "--json")
    done = inv("plan", *words, PADDLE_STACKS_WORKSPACE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [step["produces"] for step in json.loads(done.stdout)["before"]] == [
        "models/llama-2-13b"
    ]


def test_a_plan_of_a_wrong_configuration_is_refused(tmp_path: Path, config: Path) -> None:
    words = ("plan", "finetune", "--config", "my.json", "--set", "learning_rat=1")
    done = inv(*words, PADDLE_STACKS_WORKSPACE=str(tmp_path))
    assert done.returncode == 2
    assert 'did you mean "learning_rate"?' in done.stderr


def test_an_absolute_path_in_the_workspace_is_the_jobs(tmp_path: Path, config: Path) -> None:
    words = ("plan", "finetune", "--config", str(config), "--json")
    done = inv(*words, PADDLE_STACKS_WORKSPACE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["argv"] == ["finetune", "--config", "my.json"]


def test_a_source_in_the_workspace_is_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    words = ("fetch", "m", "--from", f"gguf:{tmp_path}/x.gguf", "--json")
    done = inv(*words, PADDLE_STACKS_WORKSPACE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["argv"] == ["fetch", "m", "--from", "gguf:x.gguf"]


def test_recipes_are_listed_for_people_and_programs() -> None:
    done = inv("recipes", "--backend", "dcu")
    assert done.returncode == 0, done.stderr
    assert "infer-block-static-cachekv-int8" in done.stdout
    listed = json.loads(inv("recipes", "--backend", "dcu", "--json").stdout)
    assert {"name", "job", "documented", "deviations", "depends_on", "cards"} <= set(listed[0])
    simulated = inv("recipes", "--backend", "dcu-sim", "--json")
    assert json.loads(simulated.stdout) == listed


@pytest.mark.parametrize("job", JOBS)
def test_the_help_of_every_job(job: str) -> None:
    done = inv("--help", job)
    assert done.returncode == 0, done.stderr
    assert "--backend" in done.stdout


def test_a_recipe_as_json() -> None:
    words = (
        "infer",
        "--backend",
        "dcu",
        "--recipe",
        "infer-block-static-fp16",
        "--set",
        "top_p=0.5",
    )
    done = inv("plan", *words, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["argv"][:3] == ["upstream", "--name", "infer-block-static-fp16"]
    assert plan["argv"][plan["argv"].index("--top_p") + 1] == "0.5"
    assert [step["recipe"] for step in plan["before"]][-1] == "export-block-fp16"
    dry = json.loads(inv(*words, "--dry-run", "--json").stdout)
    assert dry["argv"] == plan["argv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pretrain", "--recipe", "pretrain-pp8"), 'cpu has no recipe "pretrain-pp8"'),
        (("infer", "--model", "m", "--chat", "--set", "a=1"), "infer has no --set"),
        (("fetch", "m", "--", "x"), "fetch takes no arguments after --"),
        (("upstream", "run_finetune.py", "--", "x.json"), "images for a DCU only"),
        (("finetune", "--backend", "dcu", "--recipe", "sft-13b"), "194.0 GiB on one device"),
    ],
)
def test_what_a_recipe_cannot(words: tuple[str, ...], said: str) -> None:
    done = inv(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_words_behind_the_dashes_are_the_scripts() -> None:
    words = ("--backend", "dcu", "--ranks", "2", "run_pretrain.py", "--json")
    done = inv("upstream", *words, "--", "--a", "it's", "--b", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["argv"] == [
        *("upstream", "--ranks", "2", "run_pretrain.py"),
        *("--a", "it's", "--b", "--dry-run"),
    ]


def test_a_wrong_setting_is_told_with_its_variable() -> None:
    done = inv("plan", "infer", "--model", "m", PADDLE_STACKS_BACKENDS="cpu")
    assert done.returncode == 2
    assert "PADDLE_STACKS_BACKENDS" in done.stderr


def test_what_is_not_there_is_told_before_an_engine_is_asked(tmp_path: Path, config: Path) -> None:
    done = inv(
        *("finetune", "--config", "my.json", "--set", "model_name_or_path=gone"),
        *("--set", "dataset_name_or_path=data/gone"),
        PADDLE_STACKS_WORKSPACE=str(tmp_path),
        DOCKER_HOST="unix:///nowhere.sock",
    )
    assert done.returncode == 2
    assert 'no model "gone"' in done.stderr
    assert "the data set does not exist" in done.stderr


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (RequestError("no", where="here", remedy="so"), 2, "error: no\n   at: here\n  fix: so\n"),
        (MachineError("no", remedy="so"), 3, "error: no\n  fix: so\n"),
        (JobError("no", remedy="so"), 5, "error: no\n  fix: so\n"),
        (Stopped(15), 143, "error: stopped by signal 15\n  fix: run the same"),
        (KeyboardInterrupt(), 130, "error: stopped by signal 2\n  fix: run the same"),
        (KeyError("x"), 5, "error: KeyError: 'x'\n"),
    ],
)
def test_an_error_in_a_task_becomes_a_message_and_a_status(
    raised: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @task()
    def failing(context: Context) -> None:
        raise raised

    with pytest.raises(Exit) as caught:
        failing(Context(), debug=False)
    assert caught.value.code == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(said)
    assert "Traceback" not in shown.err
