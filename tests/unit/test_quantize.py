"""Quantization without Paddle: arithmetic, observers, scales that are read, requests."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.inference import quantized
from entrypoints.inference.weights import Weights
from entrypoints.models import int8
from entrypoints.models.llama import weight_shapes
from entrypoints.quantizing import observing, room
from entrypoints.quantizing.text import Rows, read
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs import quantizing, schema, workspace
from paddle_stacks.jobs.arguments import parse
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.jobs.options import QuantizeOptions


def weight(inputs: int = 48, outputs: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


# ------------------------------------------------------------------------------ arithmetic


def test_a_weight_is_told_to_half_a_step_of_its_output() -> None:
    values = weight() * np.logspace(-3, 3, 20, dtype=np.float32)
    scales = int8.weight_scales(values)
    np.testing.assert_array_equal(scales, np.abs(values).max(axis=0))
    whole = int8.quantized(values, scales)
    assert whole.dtype == np.int8
    assert (np.abs(whole).max(axis=0) == 127).all()  # the largest of each output
    back = int8.dequantized(whole, scales)
    assert (np.abs(back - values) <= scales / 127 / 2 * 1.0001).all()
    np.testing.assert_allclose(back, int8.fake_quantized(values, scales), rtol=1e-6)


def test_an_output_of_zeros_stays_zero() -> None:
    values = weight()
    values[:, 3] = 0
    scales = int8.weight_scales(values)
    assert scales[3] > 0
    assert not int8.quantized(values, scales)[:, 3].any()


@pytest.mark.parametrize(
    ("value", "scale", "whole"),
    [
        (0.5, 127.0, 0),  # ties go to even, as Paddle's quantize_linear has it
        (1.5, 127.0, 2),
        (2.5, 127.0, 2),
        (-1.5, 127.0, -2),
        (1000.0, 127.0, 127),
        (-1000.0, 127.0, -128),
        (1.0, 2.0, 64),
    ],
)
def test_how_one_value_is_rounded(value: float, scale: float, whole: int) -> None:
    assert int8.quantized(np.array([value], np.float32), scale).tolist() == [whole]


@given(
    st.lists(st.floats(0.0009765625, 1024, width=32), min_size=3, max_size=3),
    st.lists(st.floats(0.0009765625, 1024, width=32), min_size=3, max_size=3),
    st.floats(0, 1),
)
def test_smoothing_changes_no_product(activations: list, rows: list, alpha: float) -> None:
    factors = int8.smoothing(np.array(activations, np.float32), np.array(rows, np.float32), alpha)
    np.testing.assert_allclose(
        factors,
        np.maximum(np.power(activations, alpha) / np.power(rows, 1 - alpha), 1e-5),
        rtol=1e-3,
    )
    entering, matrix = np.array(activations), np.diag(rows) @ np.ones((3, 2))
    smoothed = (entering / factors) @ (matrix * factors[:, None])
    np.testing.assert_allclose(smoothed, entering @ matrix, rtol=1e-6)


def test_smoothing_meets_an_outlier_halfway() -> None:
    """Equation 4 of SmoothQuant: with one half, both sides of a channel become alike."""
    activations, rows = np.array([100.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32)
    factors = int8.smoothing(activations, rows)
    np.testing.assert_allclose(activations / factors, rows * factors, rtol=1e-6)


def test_smoothing_of_channels_that_are_never_used() -> None:
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    for activations, rows in ((zeros, ones), (ones, zeros), (zeros, zeros)):
        factors = int8.smoothing(activations, rows)
        assert np.isfinite(factors).all()
        assert (factors > 0).all()


def test_smoothing_helps_where_activations_have_outliers() -> None:
    random = np.random.default_rng(1)
    entering = random.normal(size=(64, 48)).astype(np.float32)
    entering[:, 5] *= 80
    matrix = weight()
    right = entering @ matrix
    factors = int8.smoothing(np.abs(entering).max(axis=0), np.abs(matrix).max(axis=1))

    def error(values: np.ndarray, weights: np.ndarray) -> float:
        whole = int8.fake_quantized(values, np.abs(values).max())
        of_weights = int8.fake_quantized(weights, int8.weight_scales(weights))
        return float(np.linalg.norm(whole @ of_weights - right) / np.linalg.norm(right))

    assert error(entering / factors, matrix * factors[:, None]) < error(entering, matrix) / 2


# ------------------------------------------------------------------------------- observers


def steps_of(shape: tuple[int, ...]) -> list[list[np.ndarray]]:
    """Two steps, of three rows and of one, in the shape of an activation or a cache."""
    random = np.random.default_rng(2)
    return [[random.normal(size=shape).astype(np.float32) for _ in range(n)] for n in (3, 1)]


def shown(observer: observing.Observer, steps: list[list[np.ndarray]], axis: int) -> Any:
    """Show each row in pieces of four tokens."""
    for step in steps:
        for row in step:
            for begin in range(0, row.shape[axis], 4):
                observer.see(np.take(row, range(begin, min(begin + 4, row.shape[axis])), axis))
            observer.end_row()
        observer.end_step()
    return observer.result()


@pytest.mark.parametrize("average", [True, False])
def test_the_scale_of_an_activation(average: bool) -> None:
    steps = steps_of((10, 6))
    largest = [[np.abs(row).max() for row in step] for step in steps]
    wanted = np.mean([np.mean(step) for step in largest]) if average else max(map(max, largest))
    assert shown(observing.Largest(average=average), steps, 0) == pytest.approx(wanted)


@pytest.mark.parametrize("average", [True, False])
def test_the_scales_of_a_cache(average: bool) -> None:
    steps = steps_of((3, 10, 4))
    largest = [np.max([np.abs(row).max(axis=(1, 2)) for row in step], axis=0) for step in steps]
    wanted = np.mean(largest, axis=0) if average else np.max(largest, axis=0)
    found = shown(observing.LargestOfHeads(average=average), steps, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_largest_of_channels() -> None:
    steps = steps_of((10, 6))
    wanted = np.abs(np.concatenate([row for step in steps for row in step])).max(axis=0)
    np.testing.assert_array_equal(shown(observing.LargestOfChannels(), steps, 0), wanted)


def test_the_middle_of_channels() -> None:
    steps = steps_of((10, 6))
    whole = [np.concatenate(step) for step in steps]
    means = [rows.mean(axis=0) for rows in whole]
    # Adam's correction: the weights of all samples add up to one.
    wanted = (0.98 * 0.02 * means[0] + 0.02 * means[1]) / (1 - 0.98**2)
    found = shown(observing.Middle(average=True), steps, 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    middles = [(rows.min(axis=0) + rows.max(axis=0)) / 2 for rows in whole]
    found = shown(observing.Middle(average=False), steps, 0)
    np.testing.assert_allclose(found, (middles[0] + middles[1]) / 2, rtol=1e-5)


# ---------------------------------------------------------------------- a model's own files


LAYER = "llama.layers.0.mlp.down_proj"


def put_model(folder: Path, **scales: object) -> np.ndarray:
    """Write a folder with one weight in eight bits, and return what it stands for."""
    values = weight(6, 4)
    largest = int8.weight_scales(values)
    whole = int8.quantized(values, largest)
    header = json.dumps(
        {f"{LAYER}.weight": {"dtype": "I8", "shape": [6, 4], "data_offsets": [0, 24]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + whole.tobytes()
    )
    told = {f"{LAYER}.weight_quanter": largest.tolist()}
    for name, content in {"weight_scales": told, "act_scales": {}, "cachekv_scales": {}}.items():
        text = scales.get(name, content)
        (folder / f"{name}.json").write_text(text if isinstance(text, str) else json.dumps(text))
    return int8.dequantized(whole, largest)


@pytest.mark.parametrize("spelling", [LAYER, f"{LAYER}.layer"])
def test_a_weight_is_read_as_what_it_stands_for(tmp_path: Path, spelling: str) -> None:
    wanted = put_model(tmp_path)
    largest = json.loads((tmp_path / "weight_scales.json").read_text()).popitem()[1]
    (tmp_path / "weight_scales.json").write_text(
        json.dumps({f"{spelling}.weight_quanter": largest})
    )
    np.testing.assert_array_equal(Weights(tmp_path)[f"{LAYER}.weight"], wanted)


def test_a_weight_is_copied_as_it_is_stored(tmp_path: Path) -> None:
    put_model(tmp_path)
    tensor = Weights(tmp_path).as_stored(f"{LAYER}.weight")
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("I8", (6, 4), 24)
    assert (tmp_path / "model.safetensors").read_bytes().endswith(tensor.values().tobytes())


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "{}", "[" * 100_000, '{"a": 1e999}'),
        *({f"{LAYER}.weight_quanter": value} for value in (None, "1", 1.0, [1, 2, 3], [[1] * 4])),
        *({f"{LAYER}.weight_quanter": [1, 1, 1, bad]} for bad in (0, -1, float("nan"), "x", None)),
        {"llama.layers.1.mlp.down_proj.weight_quanter": [1, 1, 1, 1]},
    ],
)
def test_damaged_scales_of_weights(tmp_path: Path, content: object) -> None:
    put_model(tmp_path, weight_scales=content)
    with pytest.raises(RequestError) as caught:
        Weights(tmp_path)
    assert caught.value.problems[0].where == str(tmp_path / "weight_scales.json")
    assert "--force" in caught.value.problems[0].remedy


def test_scales_that_are_not_there(tmp_path: Path) -> None:
    put_model(tmp_path)
    (tmp_path / "weight_scales.json").unlink()
    with pytest.raises(RequestError, match="the file is missing"):
        Weights(tmp_path)


@pytest.mark.parametrize(
    "scales",
    [
        {"act_scales": {f"{LAYER}.activation_quanter": value}}
        for value in (0, -1.0, None, "a", "1", True, [1, 2], [[1], [1, 2]], 10**400, 1e300)
    ]
    + [
        {"cachekv_scales": {"llama.layers.0.self_attn.cachek_matmul.activation_quanter": [1, 1]}},
        *(
            {
                "cachekv_scales": {
                    f"llama.layers.0.{cache}.activation_quanter": value
                    for cache in quantized.CACHES
                }
            }
            for value in ([], [1, 2, 3], 1.0, [[1, 1]], [1, 0])
        ),
    ],
)
def test_damaged_scales_of_activations(tmp_path: Path, scales: dict) -> None:
    put_model(tmp_path, **scales)
    with pytest.raises(RequestError) as caught:
        quantized.rounding_of(tmp_path, 1, 2)
    assert Path(caught.value.problems[0].where).name == f"{next(iter(scales))}.json"


def test_weights_alone_need_no_tap(tmp_path: Path) -> None:
    put_model(tmp_path)
    assert quantized.rounding_of(tmp_path, 1, 2) is None


def test_upstreams_names_of_wrapped_layers() -> None:
    assert quantized.upstream_name(LAYER, wrapped=True) == f"{LAYER}.layer"
    assert quantized.upstream_name(LAYER, wrapped=False) == LAYER
    q_proj = "llama.layers.0.self_attn.q_proj"
    assert quantized.upstream_name(q_proj, wrapped=True) == q_proj
    names = [f"{LAYER}.layer.bias", f"{LAYER}.smooth_weight", f"{LAYER}.weight", "lm_head.bias"]
    assert quantized.extra_weights(dict.fromkeys(names)) == {
        f"{LAYER}.bias": f"{LAYER}.layer.bias",
        f"{LAYER}.smooth_weight": f"{LAYER}.smooth_weight",
    }


# -------------------------------------------------------------------------------- requests


@pytest.fixture
def here(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "m"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (model / "model.safetensors").write_bytes(b"")
    return tmp_path


def config_of(here: Path, *words: str) -> schema.Config:
    return quantizing.load(parse(QuantizeOptions, words, "cpu"), here)


ASKED = ("--model", "m", "--output", "models/q")


def test_arguments_say_what_keys_would(here: Path) -> None:
    (here / "my.json").write_text(json.dumps({"model_name_or_path": "x", "smooth": True}))
    config = config_of(here, "--config", "my.json", *ASKED, "--set", "quant_type=WINT8".lower())
    method = quantizing.Method.of(config)
    assert config["model_name_or_path"] == "m"
    assert (method.quant_type, method.smooth, method.activations, method.cache) == (
        *("weight_only_int8", True),
        *(False, False),
    )
    assert quantizing.check(config, here) == here / "models" / "m"


def test_a_model_whose_name_is_a_number(here: Path) -> None:
    assert config_of(here, "--model", "7", "--output", "8")["model_name_or_path"] == "7"


@pytest.mark.parametrize(
    ("upstream_name", "wanted"),
    [
        ("a8w8", ("a8w8", True, False)),
        ("w8a8", ("a8w8", True, False)),
        ("a8w8c16", ("a8w8", True, False)),
        ("a8w8c8", ("a8w8c8", True, True)),
        ("w8a16", ("weight_only_int8", False, False)),
        ("wint8", ("weight_only_int8", False, False)),
    ],
)
def test_upstreams_spellings_of_a_type(here: Path, upstream_name: str, wanted: tuple) -> None:
    method = quantizing.Method.of(config_of(here, *ASKED, "--set", f"quant_type={upstream_name}"))
    assert (method.quant_type, method.activations, method.cache) == wanted


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["quant_typ=a8w8"], ['did you mean "quant_type"?']),
        (["quant_type=weight_only_int4"], ['did you mean "weight_only_int8"?']),
        (["quant_type=fp8"], ['"quant_type" cannot be "fp8"']),
        (["ptq_step=0", "smooth_step=0"], ['"ptq_step" must be at least 1', "smooth_step"]),
        (["act_quant_method=kl"], ['one of "avg", "abs_max"']),
        (["weight_quant_method=groupwise"], ['one of "abs_max_channel_wise"']),
        (["smooth=yes"], ['"smooth" must be true or false']),
        (["smooth_all_linears=true"], ['"smooth_all_linears" requires "smooth"']),
        (["shift_all_linears=true"], ['"shift_all_linears" requires "shift"']),
        (["do_ptq=false"], ["this job quantizes"]),
        (["do_gptq=true"], ["only upstream's program on a DCU"]),
        (["do_train=true"], ["this job does not train"]),
        (["lora=true"], ["the export job merges"]),
        (["skip_list_names=[1]"], ["must contain parts of names"]),
        (["max_evaluate_steps=0"], ["there is nothing to measure"]),
        (["fp16=true"], ['"fp16" cannot be true on a CPU']),
        (["src_length=600"], ["leaves no room for an answer"]),
        (["a=1", "b=2", "quant_type=3"], ['unknown key "a"', 'unknown key "b"', "quant_type"]),
    ],
)
def test_a_wrong_configuration(here: Path, changes: list[str], told: list[str]) -> None:
    words = [word for change in changes for word in ("--set", change)]
    with pytest.raises(RequestError) as caught:
        config_of(here, *ASKED, *words)
    texts = [f"{problem.what} {problem.remedy}" for problem in caught.value.problems]
    assert len(texts) == len(told)
    for text, part in zip(texts, told, strict=True):
        assert part in text


def test_what_is_missing_is_named(here: Path) -> None:
    with pytest.raises(RequestError) as caught:
        config_of(here)
    keys = [problem.what.split('"')[1] for problem in caught.value.problems]
    assert keys == ["model_name_or_path", "output_dir"]


def test_keys_of_a_training_have_no_effect(here: Path) -> None:
    notes = config_of(here, *ASKED, "--set", "learning_rate=1e-3").notes
    assert notes == ("no effect here: learning_rate (this job does not train)",)


def test_everything_that_is_wrong_with_the_workspace(here: Path) -> None:
    (here / "models" / "q").mkdir()
    (here / "data").mkdir()
    (here / "data" / "quant.json").write_text("{}\n")
    config = config_of(here, *ASKED, "--set", "dataset_name_or_path=data")
    with pytest.raises(RequestError) as caught:
        quantizing.check(config, here)
    places = [problem.where for problem in caught.value.problems]
    assert places[0] == f"{here}/data/quant.json:1"
    assert places[1:] == [f"{here}/data", f"{here}/models/q"]  # no dev.json, and it is there
    assert "--force" in caught.value.problems[-1].remedy


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, 'not "Qwen2ForCausalLM"'),
        ([], "not a model's configuration"),
    ],
)
def test_what_is_no_llama(here: Path, told: object, what: str) -> None:
    (here / "models" / "m" / "config.json").write_text(json.dumps(told))
    with pytest.raises(RequestError, match=what):
        quantizing.check(config_of(here, *ASKED), here)


def test_a_quantized_model_is_not_quantized_again(here: Path) -> None:
    (here / "models" / "m" / workspace.WEIGHT_SCALES).write_text("{}")
    with pytest.raises(RequestError, match="is quantized"):
        quantizing.check(config_of(here, *ASKED), here)


def test_an_unknown_text(here: Path) -> None:
    config = config_of(here, *ASKED, "--set", "dataset_name_or_path=text:python-stdlb")
    with pytest.raises(RequestError) as caught:
        quantizing.check(config, here)
    assert 'did you mean "python-stdlib"?' in caught.value.problems[0].remedy


def test_the_output_does_not_replace_the_model(here: Path) -> None:
    config = config_of(here, "--model", "m", "--output", "models")
    with pytest.raises(RequestError, match="replace the input"):
        quantizing.check(config, here, force=True)


@pytest.mark.parametrize(
    "words", [["--ranks", "2"], ["--nnodes", "2"], ["--name", "x"], ["--allow-bf16"]]
)
def test_what_is_for_a_card(here: Path, words: list[str]) -> None:
    with pytest.raises(RequestError, match="in one process") as caught:
        config_of(here, *ASKED, *words)
    assert caught.value.problems[0].where == words[0]


# ------------------------------------------------------------------------------------ room


CONFIG = LlamaConfig(1000, 64, 128, 2, 4, 2, tie_word_embeddings=True)
UNTIED = LlamaConfig(1000, 64, 128, 2, 4, 2)


def method_of(here: Path, *words: str) -> quantizing.Method:
    return quantizing.Method.of(config_of(here, *ASKED, *words))


def test_the_room_that_is_needed(here: Path) -> None:
    weights = sum(math.prod(size) for size in weight_shapes(CONFIG).values())
    projections = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    files = room.bytes_on_disk(CONFIG, method_of(here)) - 4 * (weights - projections)
    assert files == projections + 64 * 2**20
    skipping = method_of(here, "--set", 'skip_list_names=["proj"]')
    assert room.bytes_on_disk(CONFIG, skipping) == 4 * weights + 64 * 2**20
    more = room.bytes_of_memory(UNTIED) - room.bytes_of_memory(CONFIG)
    assert more == 2 * 4 * 64 * 1000  # a head of its own, twice


def test_what_there_is_no_room_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "proc").mkdir()
    (here / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8000000 kB\n")
    room.check(here / "models", CONFIG, method_of(here), here)
    limit = here / "sys" / "fs" / "cgroup" / "memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    room.check(here / "models", CONFIG, method_of(here), here)
    limit.write_text(f"{100 * 2**20}\n")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(MachineError) as caught:
        room.check(here / "models" / "not" / "there", CONFIG, method_of(here), here)
    disk, memory = caught.value.problems
    assert (disk.where, memory.where) == (str(here / "models"), "memory")
    assert "1 MiB are free" in disk.what
    assert "100 MiB are available" in memory.what


# ------------------------------------------------------------------------------------ text


class Tokenizer:
    """A token for each character."""

    chat_template = None
    eos_token_id = 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(character) % 90 for character in text]}


def test_a_text_is_divided_by_its_documents(here: Path) -> None:
    config = config_of(here, *ASKED, "--set", "ptq_step=5", "--set", "max_length=64")
    found = read(config, Tokenizer(), 512)
    assert found.calibration
    assert (len(found.calibration.rows), len(found.held_out.rows)) == (5, 16)
    assert all(2 <= len(row) <= 64 for row in (*found.calibration.rows, *found.held_out.rows))
    assert not set(found.calibration.rows) & set(found.held_out.rows)
    assert found == read(config, Tokenizer(), 512)
    assert read(config, Tokenizer(), 32).held_out.tokens <= 16 * 32  # the model's context
    other = config_of(here, *ASKED, "--set", "seed=1", "--set", "max_length=64")
    assert read(other, Tokenizer(), 512).held_out != found.held_out


def test_weights_alone_read_nothing_to_calibrate_on(here: Path) -> None:
    config = config_of(here, *ASKED, "--set", "quant_type=wint8")
    assert read(config, Tokenizer(), 64).calibration is None


def test_records_are_divided_by_their_files(here: Path) -> None:
    data = here / "data"
    data.mkdir()
    for split, count in (("train", 3), ("quant", 4), ("dev", 5)):
        rows = [{"src": f"{split} {n}", "tgt": str(n)} for n in range(count)]
        (data / f"{split}.json").write_text("\n".join(map(json.dumps, rows)))
    words = [f"dataset_name_or_path={data}", "ptq_step=3", "max_evaluate_steps=-1"]
    config = config_of(here, *ASKED, *(w for word in words for w in ("--set", word)))
    found = read(config, Tokenizer(), 512)
    assert found.calibration
    assert found.calibration.source == f"{data}/quant.json"
    assert (len(found.calibration.rows), len(found.held_out.rows)) == (3, 5)
    # The whole conversation, its end token too.
    assert {row[-1] for row in found.held_out.rows} == {2}
    (data / "quant.json").unlink()
    again = read(config, Tokenizer(), 512)
    assert again.calibration
    assert again.calibration.source == f"{data}/train.json"


def test_the_steps_of_rows() -> None:
    rows = Rows("x", tuple((n, n) for n in range(5)))
    assert [[row[0] for row in step] for step in rows.steps(2, 3)] == [[0, 1], [2, 3], [4]]
    assert [[row[0] for row in step] for step in rows.steps(2, 1)] == [[0, 1]]
