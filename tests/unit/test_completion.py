"""Completion: what can stand at the cursor, and a real bash that asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from paddle_stacks import completion
from paddle_stacks.cli.completion import vocabulary
from paddle_stacks.errors import RequestError

ROOT = Path(__file__).parents[2]
VOCABULARY = vocabulary(tasks.namespace)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("./inv fine", ["finetune"]),
        ("./inv finetune --reci", ["--recipe"]),
        ("./inv finetune --recipe lora-d", ["lora-demo"]),
        ("./inv finetune --recipe=lora-d", ["--recipe=lora-demo"]),
        ("./inv finetune --backend dcu --recipe lora-", ["lora-13b"]),
        ("./inv pretrain --recipe lora-", []),
        ("./inv infer --decode ", ["greedy", "sampling"]),
        ("./inv infer --backend d", ["dcu", "dcu-sim"]),
        ("./inv infer --backend dcu --profile ", ["debug", "doc"]),
        ("./inv fetch --model smollm2", ["smollm2-135m-instruct"]),
        ("./inv finetune --model smollm2", []),
        ("./inv infer --model smollm2", ["smollm2-135m-instruct"]),
        ("./inv infer --prompt 'not cl", []),
        ("./inv infer --config ", []),
        ("./inv plan inf", ["infer"]),
        ("./inv plan infer ", []),
        ("./inv cluster.render infer --nod", ["--nodes"]),
        ("./inv cluster.submit --engine slurm pretr", ["pretrain"]),
        ("./inv test --suite uni", ["unit"]),
        ("./inv build --image fra", ["framework"]),
        ("./inv upstream run.py -- --", []),
        ("./inv no-such --", []),
        ('./inv infer --prompt "a b" --mod', ["--model"]),
    ],
)
def test_what_can_stand_at_the_cursor(line: str, found: list[str]) -> None:
    assert completion.candidates(line, VOCABULARY) == found


def test_an_empty_line_offers_every_task() -> None:
    assert completion.candidates("./inv ", VOCABULARY) == sorted(tasks.namespace.task_names)


def test_every_option_of_a_job_is_offered() -> None:
    found = completion.candidates("./inv infer --", VOCABULARY)
    assert {"--model", "--adapter", "--prompt", "--backend", "--dry-run", "--help"} <= set(found)
    assert "--image" not in found


def test_runs_and_models_of_the_workspace_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "try1").mkdir(parents=True)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / ".mine.part").mkdir()
    monkeypatch.setenv("PADDLE_STACKS_WORKSPACE", str(tmp_path))
    here = vocabulary(tasks.namespace)
    assert completion.candidates("./inv infer --adapter ", here) == ["try1"]
    found = completion.candidates("./inv infer --model ", here)
    assert "mine" in found
    assert ".mine.part" not in found


def test_a_wrong_setting_does_not_get_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_STACKS_WORKSPACE", "/no/such/folder")
    assert completion.candidates("./inv fine", vocabulary(tasks.namespace)) == ["finetune"]


def bash(tmp_path: Path, line: str) -> list[str]:
    """Return what a bash that has read the script offers at the end of a line."""
    inv = tmp_path / "inv"
    inv.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m paddle_stacks.cli "$@"\n')
    inv.chmod(0o755)
    asks = f"""
        source <({inv} --print-completion-script bash)
        complete -p inv
        COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
        read -ra COMP_WORDS <<< "$COMP_LINE"; COMP_WORDS[0]={inv}
        _paddle_stacks_inv
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-euc", asks], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, *found = done.stdout.splitlines()
    assert first == "complete -o bashdefault -o default -F _paddle_stacks_inv inv"
    assert done.stderr == ""
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("./inv finet", ["finetune"]),
        ("./inv finetune --recipe lora-d", ["lora-demo"]),
        # bash takes the word apart at the sign, and wants what is behind it.
        ("./inv finetune --recipe=lora-d", ["lora-demo"]),
        ("./inv infer --decode ", ["greedy", "sampling"]),
    ],
)
def test_a_real_bash_completes(tmp_path: Path, line: str, found: list[str]) -> None:
    assert bash(tmp_path, line) == found


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_program_prints_a_script_for_every_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "--print-completion-script", shell],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == completion.script(shell)
    assert "--complete -- " in done.stdout


def test_another_shell_is_refused() -> None:
    with pytest.raises(RequestError, match='no completion for "csh"'):
        completion.script("csh")
