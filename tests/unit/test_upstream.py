"""Upstream's programs: what is started, what is refused before, and what an end means."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from entrypoints import upstream
from entrypoints.runtime import launcher
from entrypoints.runtime.arguments import parse
from paddle_stacks.errors import JobError, MachineError, RequestError, Stopped
from paddle_stacks.jobs.backends import device
from paddle_stacks.jobs.options import UpstreamOptions
from paddle_stacks.plan import backend

ROOT = Path(__file__).parents[2]

PREDICTOR = "class PredictorArgument:\n    dtype: str = None\n    block_attn: bool = False\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree of PaddleNLP, and an empty workspace as the current folder."""
    root = tmp_path / "source"
    for name, text in (
        ("llm/run_finetune.py", "import sys\nsys.exit(int(sys.argv[-1]))\n"),
        ("llm/run_pretrain.py", "TrainingArguments = 1\n"),
        ("llm/predict/__init__.py", ""),
        ("llm/predict/predictor.py", PREDICTOR),
        ("llm/predict/export_model.py", "from .predictor import PredictorArgument\n"),
        ("llm/config/llama/lora_argument.json", '{"bf16": true, "eval_step": 5}'),
        ("llm/config/llama/ptq_argument.json", '{"fp16": true}'),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(upstream, "TREE", root)
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", "dcu")
    (tmp_path / "ws").mkdir()
    monkeypatch.chdir(tmp_path / "ws")
    return root


def command(*line: str, **environ: str) -> upstream.Command:
    return upstream.command(parse(UpstreamOptions, line), environ)


def refused(*line: str, **environ: str) -> str:
    with pytest.raises(RequestError) as caught:
        command(*line, **environ)
    return "\n".join(f"{p.what} | {p.where} | {p.remedy}" for p in caught.value.problems)


def launched(*line: str, **environ: str) -> tuple[list[str], upstream.Command]:
    """Return the launcher's options, and the command."""
    made = command(*line, **environ)
    argv = launcher.launcher(made.ranks, made.nodes, made.logs, made.run.name)
    assert argv[2:4] == ["-m", "paddle.distributed.launch"]
    return argv[4:], made


def test_a_script_is_run_as_it_is(tree: Path) -> None:
    made = command("run_finetune.py", "--lora", "true", "--x", "-1", PYTHONPATH="/opt/dcu-sim")
    script = str(tree / "llm" / "run_finetune.py")
    assert made.program == (script, "--lora", "true", "--x", "-1")
    assert made.environment["PYTHONPATH"] == f"{tree}:{tree}/llm:/opt/dcu-sim"
    assert made.run == Path("runs/run_finetune")


def test_our_own_code_is_not_where_upstream_looks_for_modules(tree: Path) -> None:
    made = command("run_finetune.py", PYTHONPATH=f"{ROOT}:/else")
    assert made.environment["PYTHONPATH"] == f"{tree}:{tree}/llm:/else"


def test_a_part_of_a_package_is_run_as_such(tree: Path) -> None:
    line = ("predict/export_model.py", "--dtype", "float16")
    made = command("--unpatched", *line)
    assert Path(made.program[0]).name == "as_module.py"
    assert made.program[1:] == ("predict.export_model", "--dtype", "float16")
    environment = {**made.environment, "PATH": os.environ["PATH"]}
    argv = [sys.executable, *made.program]
    done = subprocess.run(argv, env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_configuration_is_ours_or_upstreams(tree: Path) -> None:
    line = ("run_finetune.py", "config/llama/ptq_argument.json")
    assert command(*line).program[1] == str(tree / "llm" / line[1])
    Path("mine.json").write_text("{}")
    made = command("run_finetune.py", "mine.json")
    assert made.program[1] == "mine.json" and made.run == Path("runs/mine")
    assert 'did you mean "config/llama/lora_argument.json"?' in refused(
        "run_finetune.py", "dcu/llama/lora_argument.json"
    )


def test_the_trainers_logger_that_the_image_does_not_have(tree: Path) -> None:
    assert command("run_pretrain.py").program[-2:] == ("--report_to", "none")
    assert command("run_pretrain.py", "--report_to=wandb").program[-1] == "--report_to=wandb"
    Path("mine.json").write_text('{"report_to": "wandb"}')
    assert command("run_pretrain.py", "mine.json").program[-1] == "mine.json"
    assert "--report_to" not in command("run_finetune.py").program


def test_processes_are_started_by_the_launcher(tree: Path) -> None:
    options, made = launched("--ranks", "4", "--name", "n", "run_pretrain.py")
    assert options == ["--log_dir", "runs/n/log", "--job_id", "n", "--devices", "0,1,2,3"]
    assert made.program[0].endswith("run_pretrain.py")


def test_cards_are_counted_within_those_that_are_visible(tree: Path) -> None:
    options, made = launched("--ranks", "2", "run_pretrain.py", HIP_VISIBLE_DEVICES="6,7")
    assert options[-2:] == ["--devices", "0,1"]
    assert made.environment["HIP_VISIBLE_DEVICES"] == "6,7"
    for visible, count in (("6,7", 2), ("", 0)):
        said = refused("--ranks", "3", "run_pretrain.py", HIP_VISIBLE_DEVICES=visible)
        assert f"HIP_VISIBLE_DEVICES lists {count}" in said


def test_on_a_cpu_they_are_processes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", "dcu-sim")
    options, _ = launched("--ranks", "2", "run_pretrain.py")
    assert options[-2:] == ["--nproc_per_node", "2"]


def test_no_variable_says_again_what_is_decided(tree: Path) -> None:
    environ = {
        "PADDLE_DEVICES": "0,1,2,3",
        "PADDLE_NNODES": "4",
        "PADDLE_RANK": "3",
        "PADDLE_MASTER": "other:1",
        "CUDA_VISIBLE_DEVICES": "5",
        "PADDLE_JOB_ID": "j",
        "PADDLE_TRAINER_ID": "7",
    }
    line = ("--ranks", "2", "--nnodes", "2", "--master", "h:1", "--rank", "0", "run_pretrain.py")
    options, made = launched(*line, **environ)
    assert options[-6:] == ["--nnodes", "2", "--master", "h:1", "--rank", "0"]
    assert not set(environ) & set(made.environment)


def test_nodes_that_share_a_folder_keep_out_of_each_others_way(tree: Path) -> None:
    line = ("--nnodes", "2", "--master", "h:1", "--name", "n", "run_pretrain.py")
    first, second = (command("--rank", str(rank), *line) for rank in (0, 1))
    assert [made.logs for made in (first, second)] == [Path("runs/n/log-0"), Path("runs/n/log-1")]
    assert first.nodes.name != second.nodes.name
    assert command("--ranks", "2", "run_pretrain.py").logs == Path("runs/run_pretrain/log")


def test_a_cluster_says_it_by_variables(tree: Path) -> None:
    environ = {"PADDLE_NNODES": "2", "PADDLE_MASTER": "h:1", "PADDLE_TRAINER_ID": "1"}
    options, _ = launched("--ranks", "8", "run_pretrain.py", **environ)
    assert options[-6:] == ["--nnodes", "2", "--master", "h:1", "--rank", "1"]


@pytest.mark.parametrize(
    ("line", "environ", "said"),
    [
        (["--nnodes", "2", "run_pretrain.py"], {}, "requires --master"),
        (["--name", "../x", "run_pretrain.py"], {}, "cannot be the name of a run"),
        (["run_finetun.py"], {}, 'did you mean "run_finetune.py"?'),
        (["predictor.py"], {}, "./inv upstream predict/predictor.py"),
        (["../x.py"], {}, "the script"),
        (["predict/predictor.py", "--append_attn", "False", "--dtype", "float16"], {}, "later"),
        (["predict/predictor.py"], {}, "--dtype float16"),
        (["predict/predictor.py", "--dtype", "bfloat16"], {}, "kernels of Paddle 3.0.0b2 lack"),
        (
            ["run_finetune.py", "--unified_checkpoint_config", "async_save skip_save_model_weight"],
            {},
            'set "unified_checkpoint_config" to "skip_save_model_weight"',
        ),
        (["run_pretrain.py", "--use_async_save", "1"], {}, "if the saving process dies"),
        (["--ranks", "2", "run_pretrain.py"], {"CUDA_VISIBLE_DEVICES": ""}, "hides all cards"),
        (
            ["--unpatched", "predict/predictor.py", "--dtype", "float16", "--inference_model"],
            {},
            "without --block_attn cannot run on a DCU",
        ),
        (["run_finetune.py", "config/llama/lora_argument.json"], {}, "--bf16 false --fp16 true"),
    ],
)
def test_what_is_refused(tree: Path, line: list[str], environ: dict[str, str], said: str) -> None:
    assert said in refused(*line, **environ)


def test_quantizing_without_paddleslim(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.json").write_text('{"do_ptq": true}')
    with pytest.raises(MachineError, match="PaddleSlim"):
        command("run_finetune.py", "mine.json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert command("run_finetune.py", "mine.json")


def test_bfloat16_where_the_card_has_it_and_where_it_is_turned_off(tree: Path) -> None:
    line = ("run_finetune.py", "config/llama/lora_argument.json")
    assert command("--allow-bf16", *line)
    assert command(*line, "--bf16", "false", "--fp16", "true")


def test_a_key_is_told_in_a_file_of_ones_own_and_noted_in_upstreams(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("run_finetune.py", "config/llama/lora_argument.json", "--bf16=false")
    assert '"eval_step" is called "eval_steps"' in capsys.readouterr().err
    Path("mine.json").write_text('{"fp16": true,\n "intokens": false}')
    assert '"intokens" is called "zero_padding" | mine.json:2' in refused(
        "run_finetune.py", "mine.json"
    )


def test_an_image_without_the_source(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "TREE", tree / "nowhere")
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", "cpu")
    with pytest.raises(MachineError, match="images for cpu do not contain"):
        upstream.main(["run_finetune.py"])
    with pytest.raises(RequestError) as caught:
        upstream.run_with_config("pretrain", "run_pretrain.py", ["--config", "x.json"])
    assert "--recipe" in caught.value.problems[0].remedy


def test_a_script_that_ends_well_leaves_a_result(tree: Path) -> None:
    assert upstream.main(["--name", "n", "run_finetune.py", "0"]) == 0
    assert json.loads(Path("runs/n/result.json").read_text())["script"] == "run_finetune.py"
    with pytest.raises(JobError, match="ended with status 3"):
        upstream.main(["--name", "n", "run_finetune.py", "3"])
    assert not Path("runs/n/result.json").exists()


def test_a_script_that_dies_of_a_signal(tree: Path) -> None:
    (tree / "llm" / "dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(Stopped) as caught:
        upstream.main(["dies.py"])
    assert caught.value.status == 137 and "memory" in str(caught.value)


def test_a_signal_is_handed_on(tree: Path) -> None:
    (tree / "llm" / "waits.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('told').touch(), sys.exit(1)))\n"
        "pathlib.Path('up').touch()\n"
        "time.sleep(30)\n"
    )

    def stop() -> None:
        while not Path("up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Stopped) as caught:
        upstream.main(["waits.py"])
    assert caught.value.status == 128 + signal.SIGTERM
    assert Path("told").exists()


def test_a_signal_that_the_script_outlives_does_not_count(tree: Path) -> None:
    (tree / "llm" / "saves.py").write_text(
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "pathlib.Path('up').touch()\n"
        "signal.pause()\n"
    )

    def stop() -> None:
        while not Path("up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert upstream.main(["saves.py"]) == 0


@pytest.mark.parametrize(
    "line",
    [
        ["run_finetune.py"],
        ["run_finetune.py", "x.json", "--help", "--", "--ranks", "3", "-x"],
        ["--name", "n", "--ranks", "8", "--nnodes", "2", "--master", "h:1", "run_pretrain.py", "a"],
        ["--allow-bf16", "run_pretrain.py"],
    ],
)
def test_a_command_line_survives(line: list[str]) -> None:
    assert parse(UpstreamOptions, line).argv() == line


def test_the_devices_are_those_of_the_platforms_files() -> None:
    for name in backend.names(ROOT):
        assert device(name) == backend.load(name, ROOT).device, name
