"""The driver of fused models before Paddle is imported: options, prompts, what is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entrypoints import upstream
from entrypoints.cpu import operators
from entrypoints.fused import prompts
from entrypoints.fused.options import Options, parse
from entrypoints.runtime.arguments import parse as parse_options
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs import quantizing
from paddle_stacks.jobs.options import UpstreamOptions
from paddle_stacks.jobs.schema import Config

PREDICT, EXPORT = "predict/predictor.py", "predict/export_model.py"


def refused(error: pytest.ExceptionInfo[Any]) -> str:
    return "\n".join(f"{p.what} | {p.where} | {p.remedy}" for p in error.value.problems)


def test_options_are_upstreams_with_its_defaults() -> None:
    words = ["--model_name_or_path", "m", "--inference_model", "--dtype", "float16"]
    words += ["--block_attn", "true", "--max_length=16", "--temperature", "0"]
    words += ["--use_flash_attention", "--top_k", "0", "--cachekv_int8_type", "none"]
    with pytest.raises(RequestError) as caught:
        parse(PREDICT, words)
    assert "--cachekv_int8_type none is not supported" in refused(caught)
    options = parse(PREDICT, words[:-2])
    assert options.model == Path("m") and options.inference_model and options.block_attn
    assert (options.max_length, options.src_length, options.batch_size) == (16, 1024, 1)
    assert options.greedy and not parse(PREDICT, words[:-6][:7]).greedy
    assert parse(PREDICT, ["--dtype", "float32", "--decode_strategy", "greedy_search"]).greedy


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blok_attn"], 'no option --blok_attn | --blok_attn | did you mean "block_attn"?'),
        (["--batch_size", "many"], "--batch_size many is not a whole number"),
        (["--batch_size", "1.5"], "--batch_size 1.5 is not a whole number"),
        (["--batch_size", "0"], "--batch_size must be at least 1"),
        (["--block_attn", "2"], "--block_attn 2 is not true or false"),
        (["--top_p", "1.5"], "--top_p is not between 0 and 1"),
        (["--temperature", "-1"], "--temperature is below 0"),
        (["--mode", "statik"], "one of: dynamic, static"),
        (["--quant_type", "weight_only_int8"], "one of: a8w8, a8w8c8"),
        (["--lora_path", "x"], "./inv export --merge"),
        (["--top_k", "40"], "fused models only support --top_p"),
        (["--decode_strategy", "beam_search"], "one of: sampling, greedy_search"),
    ],
)
def test_options_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(PREDICT, ["--dtype", "float16", *words])
    assert message in refused(caught)


def test_prompts_of_a_data_file(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    lines: list[dict[str, Any]] = [
        {"src": "one", "tgt": "1"},
        {"src": ["a", "c"], "tgt": ["b", "d"]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = prompts.read(Options(data_file=str(path)))
    assert (first.source, first.target, first.prompt.plain) == ("one", "1", True)
    said = [(message.role, message.content) for message in second.prompt.messages]
    assert said == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert len(prompts.read(Options(batch_size=3))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "data.json:1"),
        ('{"tgt": ""}', "src is missing | "),
        ("[1]", "src is missing"),
        ('{"src": 1}', "src is neither a string nor a list of strings"),
        ('{"src": ["a", "b"], "tgt": []}', "src has 2 turns, but tgt has 0 answers"),
        ("", "no prompts"),
    ],
)
def test_prompts_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        prompts.read(Options(data_file=str(path)))
    assert message in refused(caught)
    with pytest.raises(RequestError, match="the prompts cannot be read"):
        prompts.read(Options(data_file=str(tmp_path / "missing.json")))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a model, in an image without upstream's source and with operators."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upstream, "TREE", tmp_path / "nowhere")
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", "cpu")
    (tmp_path / "operators" / "kernels").mkdir(parents=True)
    (tmp_path / "operators" / "kernels" / "x.so").touch()
    (tmp_path / "operators" / "site").mkdir()
    (tmp_path / "operators" / "site" / "paddlenlp_ops.py").touch()
    (tmp_path / "m").mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    return tmp_path


def command(workspace: Path, *line: str, **environ: str) -> upstream.Command:
    given = {operators.VARIABLE: str(workspace / "operators"), "PYTHONPATH": "/a", **environ}
    return upstream.command(parse_options(UpstreamOptions, line), given)


FUSED = ("--model_name_or_path", "m", "--dtype", "float16", "--inference_model")


def test_our_program_runs_where_upstreams_is_not(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = command(workspace, PREDICT, *FUSED, "--max_length", "12")
    line = (PREDICT, *FUSED, "--max_length", "12", "--src_length", "500")
    assert made.program == ("-m", "entrypoints.fused", *line)
    assert made.whose == "our" and not made.sends_tokens
    assert made.environment["CUSTOM_DEVICE_ROOT"] == str(workspace / "operators" / "kernels")
    assert made.environment["PYTHONPATH"] == f"{workspace}/operators/site:/a"
    log = capsys.readouterr().err
    assert "lacks upstream's source" in log and "--src_length 500" in log
    plain = command(workspace, PREDICT, *FUSED[:-1])
    assert plain.environment["CUSTOM_DEVICE_ROOT"] == made.environment["CUSTOM_DEVICE_ROOT"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ((PREDICT, *FUSED, "--quant_type", "a8w8"), "m is not quantized"),
        (("--unpatched", PREDICT, *FUSED), "leave it out"),
        (("--ranks", "2", PREDICT, *FUSED), "image's own program runs in one process"),
        ((PREDICT, *FUSED, "--blok_attn"), 'did you mean "block_attn"?'),
        ((PREDICT, *FUSED, "--mode", "static"), "m has no static graph"),
    ],
)
def test_what_our_program_is_refused(workspace: Path, line: tuple[str, ...], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        command(workspace, *line)
    assert message in refused(caught)


def test_an_image_without_operators(workspace: Path) -> None:
    with pytest.raises(MachineError, match="does not contain the CPU operators"):
        command(workspace, PREDICT, *FUSED, **{operators.VARIABLE: str(workspace / "m")})


def test_a_model_is_quantized_by_our_program(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2]
    source = root / "configs" / "jobs" / "dcu" / "quantize-a8w8.json"
    (workspace / "ptq.json").write_text(source.read_text())
    configs: list[Config] = []

    def load(arguments: Any) -> Config:
        configs.append(load_config(arguments))
        raise KeyboardInterrupt

    load_config = quantizing.load
    monkeypatch.setattr(quantizing, "load", load)
    words = ["run_finetune.py", "ptq.json", "--model_name_or_path", "m", "--output_dir", "out"]
    with pytest.raises(KeyboardInterrupt):
        upstream.main(words)
    (config,) = configs
    assert (config["model_name_or_path"], config["output_dir"]) == ("m", "out")
    assert config["smooth"] and config["smooth_all_linears"] and config["quant_type"] == "a8w8"
    assert "without smooth_piecewise_search" in capsys.readouterr().err


def test_a_training_needs_upstreams_source(workspace: Path) -> None:
    (workspace / "sft.json").write_text("{}")
    with pytest.raises(MachineError, match="do not contain PaddleNLP's programs"):
        upstream.main(["run_finetune.py", "sft.json"])
