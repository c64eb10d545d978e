"""Jobs that the devices cannot run are rejected before a container starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paddle_stacks import feasibility, launch, preflight
from paddle_stacks.dcu import capability, smi
from paddle_stacks.dcu.capability import Devices, detect
from paddle_stacks.dcu.cards import card_types
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.upstream import Options, faults
from paddle_stacks.memory import Workload, plan
from paddle_stacks.memory.shapes import find
from paddle_stacks.plan import backend
from paddle_stacks.request import from_words
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
K100_AI = Devices((card_types()["K100_AI"],), 8, 65520)
BW1000 = Devices((card_types()["BW1000"],), 8, 65520)
LLAMA_2_70B: dict[str, Any] = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "intermediate_size": 28672,
    "vocab_size": 32000,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
SFT = {"model_name_or_path": "llama-2-13b", "fp16": True, "fp16_opt_level": "O2"}


def messages(
    values: Mapping[str, Any],
    cards: Devices = K100_AI,
    *,
    per_node: int = 1,
    nodes: int = 1,
    training: bool = True,
    workspace: Path = Path("/nowhere"),
) -> str:
    problems = capability.problems(
        Options("x", values),
        cards,
        per_node=per_node,
        nodes=nodes,
        training=training,
        workspace=workspace,
    )
    return "\n".join(f"{p.what} | {p.remedy}" for p in problems)


@pytest.mark.parametrize(
    ("change", "cards", "gib"),
    [
        ({}, 1, 194.0),
        ({"amp_master_grad": True}, 1, 218.2),
        ({"fp16": False}, 1, 194.0),
        ({"tensor_parallel_degree": 8}, 8, 24.2),
        ({"pipeline_parallel_degree": 4, "tensor_parallel_degree": 2}, 8, 24.2),
        ({"sharding": "stage1"}, 8, 66.7),
        ({"sharding": "stage2"}, 8, 45.5),
        ({"sharding": "stage3"}, 8, 24.2),
        ({"sharding": "stage1", "sharding_parallel_degree": 4}, 8, 84.9),
        ({"lora": True}, 1, 24.2),
        ({"lora": True, "fp16": False}, 1, 48.5),
        ({"lora": True, "model_name_or_path": "llama-2-7b"}, 1, 12.6),
    ],
)
def test_the_memory_of_a_device(change: dict[str, Any], cards: int, gib: float) -> None:
    options = Options("x", {**SFT, **change})
    size = capability.parameters(str(options.values["model_name_or_path"]), Path("/nowhere"))
    need = capability.bytes_per_device(options, size, Layout.of(options, cards), training=True)
    assert round(need / 2**30, 1) == gib
    assert bool(messages({**SFT, **change}, per_node=cards)) == (gib > 64)


@pytest.mark.parametrize("change", [{}, {"amp_master_grad": True}, {"sharding": "stage2"}])
def test_the_memory_plan_counts_the_same(change: dict[str, Any]) -> None:
    options = Options("x", {**SFT, **change})
    layout = Layout.of(options, 4)
    model = find("llama-2-13b")
    work = Workload("full", master_gradients=options.on("amp_master_grad"))
    sizes = {line.name: line.size for line in plan(model, work, layout)[0].lines}
    names = ("parameters", "gradients", "master weights", "AdamW's two moments")
    need = capability.bytes_per_device(options, model.parameters, layout, training=True)
    assert sum(sizes[name] for name in names) == pytest.approx(need, abs=4)


def test_inference_needs_only_the_weights() -> None:
    values = {"model_name_or_path": "models/llama-2-13b-chat-a8w8", "dtype": "float16"}
    options = Options("predict/predictor.py", values)
    size = capability.parameters(str(values["model_name_or_path"]), Path("/nowhere"))
    assert size == 13_015_864_320, "derived from a known model"
    assert capability.bytes_per_device(options, size, Layout(), training=False) == 2 * size
    quantized = Options("predict/predictor.py", {**values, "quant_type": "a8w8"})
    assert capability.bytes_per_device(quantized, size, Layout(), training=False) == size


def test_the_parameters_of_a_model_in_the_workspace(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    config = LLAMA_2_70B
    (folder / "config.json").write_text(json.dumps(config))
    assert capability.parameters("mine", tmp_path) == 68_976_648_192, "Llama-2-70b"
    # For another model type it is a lower bound; what cannot be counted is not guessed.
    other = config | {"model_type": "qwen2", "tie_word_embeddings": None}
    (folder / "config.json").write_text(json.dumps(other))
    assert capability.parameters("mine", tmp_path) == 68_976_648_192
    replacements: list[Any] = [{"hidden_size": "8192"}, {"num_hidden_layers": None}, []]
    for wrong in replacements:
        broken = json.dumps(config | wrong if isinstance(wrong, dict) else wrong)
        (folder / "config.json").write_text(broken)
        assert capability.parameters("mine", tmp_path) == 0
    (folder / "config.json").write_text(json.dumps(config))
    message = messages(
        {"model_name_or_path": "mine", "lora": True, **SFT} | {"model_name_or_path": "models/mine"},
        workspace=tmp_path,
    )
    assert "LoRA on mine needs 128.5 GiB on one device" in message
    assert messages({**SFT, "model_name_or_path": "unknown"}) == "", "its size is unknown"


def test_the_message_has_the_numbers_and_the_remedy() -> None:
    message = messages(SFT)
    for words in ("194.0 GiB on one device", "13.0 billion", "16 bytes", "K100_AI has 64.0 GiB"):
        assert words in message
    assert '"lora": true' in message


@pytest.mark.parametrize("value", [True, 1, "true", "yes"])
def test_bfloat16_which_the_wheel_lacks_and_the_card_has(value: object) -> None:
    message = messages({"bf16": value, "lora": True})
    assert "which the DCU kernels of Paddle 3.0.0b2 lack; K100_AI has it" in message
    assert '"fp16": true; to try bfloat16 anyway: --allow-bf16' in message
    old = Devices((card_types()["Z100L"],), 8, 32752)
    message = messages({"bf16": value, "lora": True}, old)
    assert "Paddle 3.0.0b2 lack | " in message, "nothing is known of the card"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flash_mask": True}, 'set "flash_mask" to false'),
        ({"flash_mask": False}, ""),
        ({"lora": True, "weight_quantize_algo": "weight_only_int8"}, "no ROCm kernel"),
        ({"lora": True, "weight_quantize_algo": "nf4"}, "LoRA on float16 weights"),
        ({"lora": True, "weight_quantize_algo": None}, ""),
    ],
)
def test_kernels_that_a_dcu_lacks(values: dict[str, Any], message: str) -> None:
    problems = messages(values)
    assert message in problems and bool(problems) == bool(message)


def test_bfloat16_in_inference() -> None:
    assert "--dtype float16" in messages({"dtype": "bfloat16"}, training=False)


def test_fewer_devices_than_required() -> None:
    four = Devices(K100_AI.types, 4, 65520)
    assert "the job needs 8 devices; 4 are available" in messages({}, four, per_node=8)
    undetected = Devices(K100_AI.types, None, 65520)
    assert messages({}, undetected, per_node=8) == "", "a plan for another machine"


@pytest.mark.parametrize(
    ("values", "world", "layout"),
    [
        ({}, 8, "dp=8"),
        ({"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}, 8, "dp=2,tp=2,pp=2"),
        ({"pipeline_parallel_degree": 4, "virtual_pp_degree": 2}, 4, "pp=4,vpp=2"),
        ({"sharding": "stage2"}, 8, "sharding=8,stage=2"),
        (
            {"sharding": "stage1", "sharding_parallel_degree": 2, "tensor_parallel_degree": 2},
            8,
            "dp=2,tp=2,sharding=2,stage=1",
        ),
        ({"sharding": "stage3"}, 1, "dp=1"),
        ({"sharding_parallel_degree": 4}, 8, "dp=8"),
        ({"tensor_parallel_degree": 2, "sequence_parallel": True}, 2, "tp=2,sp=1"),
        ({"tensor_parallel_degree": -1, "pipeline_parallel_degree": -1}, 1, "dp=1"),
    ],
)
def test_the_layout_of_upstreams_options(values: dict[str, Any], world: int, layout: str) -> None:
    actual = Layout.of(Options("x", values), world)
    assert str(actual) == layout and actual.world == world


@pytest.mark.parametrize(
    ("values", "world", "message"),
    [
        ({"pipeline_parallel_degree": 8}, 1, "pipeline 8 requires 8 devices, got 1"),
        (
            {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 4},
            4,
            "tensor 2 x pipeline 4 requires 8 devices, got 4",
        ),
        ({"tensor_parallel_degree": 3}, 8, "8 devices cannot be divided into groups of 3"),
        (
            {"tensor_parallel_degree": 2, "sharding": "stage1", "sharding_parallel_degree": 8},
            8,
            "tensor 2 x sharding 8 requires 16 devices",
        ),
        ({"tensor_parallel_degree": 4}, 8, ""),
        ({"tensor_parallel_degree": -1, "pipeline_parallel_degree": 8}, 16, ""),
        ({"sharding": "stage1", "sharding_parallel_degree": -1}, 3, ""),
    ],
)
def test_layouts(values: dict[str, Any], world: int, message: str) -> None:
    problems = faults(Options("run_pretrain.py", values), (), world=world)
    assert (message in problems[0].what) if message else problems == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"pipeline_parallel_degree": 2, "do_eval": True},
            "cannot be combined with",
        ),
        (
            {"pipeline_parallel_degree": 2, "evaluation_strategy": "steps"},
            "cannot be combined with",
        ),
        ({"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}, "eval_accuracy"),
        ({"load_best_model_at_end": True, "metric_for_best_model": "rougel"}, ""),
        ({"pipeline_parallel_degree": 2}, ""),
    ],
)
def test_evaluating_by_generating(values: dict[str, Any], message: str) -> None:
    generating = {"eval_with_do_generation": True, **values}
    problems = faults(Options("run_finetune.py", generating), (), world=2)
    assert (message in problems[0].what) if message else problems == []
    assert faults(Options("run_finetune.py", values), (), world=2) == []


def test_architectures() -> None:
    assert capability.architecture_problems("gfx906;gfx926;gfx928", K100_AI, "i") == []
    assert capability.architecture_problems("", K100_AI, "i") == [], "an image without the label"
    (problem,) = capability.architecture_problems("gfx906, gfx926,gfx928", BW1000, "i")
    assert "not compiled for gfx936 (BW1000)" in problem.what


def test_the_host_s_own_cards_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [smi.Card(i, name="BW1000", vram_total_mib=65520 - i) for i in range(4)]
    monkeypatch.setattr(smi, "read", lambda root: tuple(cards))
    assert detect(Path("/")) == Devices((card_types()["BW1000"],), 4, 65517)
    assert detect(Path("/"), (0, 1)) == Devices((card_types()["BW1000"],), 2, 65519)


def test_without_cards_the_default_card_is_assumed(tmp_path: Path) -> None:
    assert detect(tmp_path) == Devices((card_types()["K100_AI"],), None, 65520)


def check(tmp_path: Path, platform: str, *line: str) -> None:
    settings = Settings(root=ROOT, workspace=tmp_path, backend=platform, host_root=tmp_path)
    loaded = backend.load(platform, ROOT)
    request = from_words("upstream", line, tmp_path, platform, devices=bool(loaded.devices))
    feasibility.check(request, settings, loaded)


def test_a_run_of_upstreams_program_is_checked_on_the_host(tmp_path: Path) -> None:
    values = {**SFT, "bf16": True, "eval_step": 5, "tensor_parallel_degree": 2}
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(RequestError) as caught:
        check(tmp_path, "dcu", "run_finetune.py", "x.json", "--save_step", "3")
    reports = [problem.what for problem in caught.value.problems]
    for words in (
        "--save_step",
        '"eval_step"',
        "tensor 2 requires 2 devices",
        "bfloat16",
        "97.0 GiB",
    ):
        assert any(words in report for report in reports), (words, reports)


def test_checks_of_devices_are_skipped_on_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**SFT, "bf16": True}))
    check(tmp_path, "dcu-sim", "run_finetune.py", "x.json")
    check(tmp_path, "dcu", "--allow-bf16", "run_finetune.py", "x.json", "--lora", "true")


@pytest.mark.parametrize(
    "line",
    [
        ["predict/predictor.py", "--dtype", "bfloat16"],
        ["run_finetune.py", "x.json", "--lora", "true"],
    ],
)
def test_bfloat16_can_be_tried_as_the_message_says(tmp_path: Path, line: list[str]) -> None:
    values = {**SFT, "fp16": False, "bf16": True}
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(RequestError) as caught:
        check(tmp_path, "dcu", *line)
    assert [p.remedy.rpartition(": ")[2] for p in caught.value.problems] == ["--allow-bf16"]
    check(tmp_path, "dcu", "--allow-bf16", *line)


def test_bfloat16_that_is_tried_counts_as_half_precision(tmp_path: Path) -> None:
    values = {**SFT, "fp16": False, "bf16": True, "model_name_or_path": "models/mine"}
    (tmp_path / "x.json").write_text(json.dumps(values))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").write_text(json.dumps(LLAMA_2_70B))
    with pytest.raises(RequestError, match=r"needs 128\.5 GiB on one device"):
        check(tmp_path, "dcu", "--allow-bf16", "run_finetune.py", "x.json", "--lora", "true")


def test_a_finetune_job_is_checked_too(tmp_path: Path) -> None:
    values = {**SFT, "dataset_name_or_path": "d", "lora": True, "fp16": False, "bf16": True}
    (tmp_path / "x.json").write_text(json.dumps(values))
    settings = Settings(root=ROOT, workspace=tmp_path, backend="dcu", host_root=tmp_path)
    with pytest.raises(RequestError, match="bfloat16"):
        launch.make_plan("finetune", ["--config", "x.json"], settings)
    # Parallel degrees do not help: the job is a single process.
    line = ["--config", "x.json", "--set", "lora=false", "--set", "tensor_parallel_degree=8"]
    with pytest.raises(RequestError, match=r"194\.0 GiB on one device"):
        launch.make_plan("finetune", [*line, "--set", "bf16=false", "--set", "fp16=true"], settings)


def engine_with(label: str) -> Any:
    image = SimpleNamespace(labels={preflight.ARCHITECTURES: label} if label else None)
    return cast(Any, SimpleNamespace(images=SimpleNamespace(get=lambda name: image)))


@pytest.mark.parametrize(
    ("platform", "label", "right"),
    [
        ("dcu", "gfx906;gfx928", True),
        ("dcu", "", True),
        ("dcu", "gfx906", False),
        ("dcu-sim", "gfx906", True),
        ("cpu", "", True),
    ],
)
def test_operators_not_compiled_for_the_card(
    tmp_path: Path, platform: str, label: str, right: bool
) -> None:
    settings = Settings(root=ROOT, workspace=tmp_path, backend=platform, host_root=tmp_path)
    plan = launch.make_plan("infer", ["--model", "m", "--chat"], settings)
    if right:
        preflight.check_operators(plan, settings, engine_with(label))
        return
    with pytest.raises(MachineError, match="not compiled for gfx928"):
        preflight.check_operators(plan, settings, engine_with(label))


def test_the_doctors_errors_and_cards_in_use_end_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddle_stacks import doctor

    settings = Settings(root=ROOT, workspace=tmp_path, backend="dcu", host_root=tmp_path)
    choices = launch.Choices(cards=(0, 1))
    plan = launch.make_plan("infer", ["--model", "m", "--chat"], settings, choices)
    with pytest.raises(MachineError) as caught:
        preflight.check_machine(plan, settings)
    message = " ".join(f"{p.what} {p.where}" for p in caught.value.problems)
    assert "./inv doctor: device-nodes" in message and "hy-smi" in message
    monkeypatch.setattr(doctor, "problems", lambda machine, checks: list[Problem]())
    cards = (smi.Card(0), smi.Card(1, use_percent=90.0))
    monkeypatch.setattr(doctor.Machine, "cards", cards)
    with pytest.raises(MachineError, match="device 1 is in use"):
        preflight.check_machine(plan, settings)
    cpu = Settings(root=ROOT, workspace=tmp_path, host_root=tmp_path)
    preflight.check_machine(launch.make_plan("infer", ["--model", "m", "--chat"], cpu), cpu)
