"""The native engine against a Llama in plain NumPy, on every instruction set that is here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrypoints import infer
from entrypoints.inference.text import load as texts_of_model
from entrypoints.inference.weights import Weights
from entrypoints.models import int8
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.native import library, packing
from entrypoints.native.config import NativeConfig
from entrypoints.native.lora import LoraAdapter
from entrypoints.native.model import NativeModel, load
from paddle_stacks.errors import MachineError, RequestError
from tests.support.fast_tokenizer import write as write_tokenizer
from tests.support.made_once import made_once
from tests.support.native_llama import (
    CONFIG,
    Reference,
    from_bfloat16,
    random_weights,
    rounded_to_bfloat16,
    write_checkpoint,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "images" / "native"
REMEDY = "--engine dynamic"


@pytest.fixture(scope="session")
def native_library() -> Path:
    """Return the library, compiled once for its sources."""
    if not shutil.which("g++"):
        pytest.skip("the native engine is compiled with g++")
    key = "".join(path.read_text() for path in sorted(SOURCE.iterdir()) if path.is_file())

    def make(folder: Path) -> None:
        command = [sys.executable, str(SOURCE / "build.py"), str(SOURCE), str(folder / "native.so")]
        subprocess.run(command, check=True)

    return made_once("native-engine", key, make) / "native.so"


@pytest.fixture(autouse=True)
def loaded(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PADDLE_STACKS_NATIVE_LIBRARY", str(native_library))
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


INSTRUCTION_SETS = [
    name
    for name, needed in (
        ("plain", set()),
        ("avx2", {"avx2", "fma"}),
        ("avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    )
    if needed <= flags()
]


def parsed(**changes: Any) -> NativeConfig:
    return NativeConfig.parse({**CONFIG, **changes}, Path("config.json"))


def model_of(
    folder: Path,
    precision: str | None = None,
    *,
    threads: int = 2,
    instructions: str = "auto",
    adapter: LoraAdapter | None = None,
    save: bool = False,
) -> NativeModel:
    config, weights = NativeConfig.read(folder), Weights(folder)
    precision = precision or packing.stored_precision(weights)
    packed = packing.open_packed(config, weights, precision, save=save)
    return NativeModel(config, packed, adapter=adapter, threads=threads, instructions=instructions)


def checkpoint(
    folder: Path, *, dtype: str = "F32", **changes: Any
) -> tuple[Path, NativeConfig, dict[str, np.ndarray]]:
    config = parsed(**changes)
    weights = random_weights(config)
    return write_checkpoint(folder, weights, {**CONFIG, **changes}, dtype), config, weights


def texts(*lengths: int, vocabulary: int = 101) -> list[list[int]]:
    random = np.random.default_rng(7)
    return [random.integers(vocabulary, size=length).tolist() for length in lengths]


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


# ---------------------------------------------------------------------------- against NumPy

SIZES = {
    "grouped": {},
    "heads of their own": {"num_key_value_heads": 6},
    "one key head for many": {"num_attention_heads": 24, "num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "odd": {
        "vocab_size": 67,
        "hidden_size": 30,
        "intermediate_size": 41,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "less than a panel": {
        "vocab_size": 7,
        "hidden_size": 4,
        "intermediate_size": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "wide": {
        "hidden_size": 320,
        "intermediate_size": 600,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_float32_logits_are_those_of_numpy(
    tmp_path: Path, sizes: dict[str, Any], instructions: str
) -> None:
    folder, config, weights = checkpoint(tmp_path, **sizes)
    model = model_of(folder, instructions=instructions)
    prompts = texts(1, 37, 64, vocabulary=config.llama.vocab_size)
    reference = Reference(config, weights)
    decoding = model.start(prompts)
    for row, prompt in enumerate(prompts):
        assert_close(decoding.logits[row], reference.logits(prompt)[-1])
    decoding.step([0, 1, 2])
    for row, prompt in enumerate(prompts):
        assert_close(decoding.logits[row], reference.logits([*prompt, row])[-1])


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_a_text_of_several_chunks_of_attention(tmp_path: Path, instructions: str) -> None:
    folder, config, weights = checkpoint(tmp_path)
    (prompt,) = texts(1100)
    decoding = model_of(folder, instructions=instructions).begin(1)
    logits = decoding.read_all(np.array([prompt]))
    assert_close(logits, Reference(config, weights).logits(prompt))


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_compute_with_their_rounded_weights(
    tmp_path: Path, precision: str, tied: bool, instructions: str
) -> None:
    folder, config, weights = checkpoint(tmp_path, tie_word_embeddings=tied)
    rounded = {}
    for name, weight in weights.items():
        if weight.ndim == 1:
            rounded[name] = weight
        elif precision == "bf16" or (name == packing.EMBEDDING and not tied):
            rounded[name] = from_bfloat16(rounded_to_bfloat16(weight))
        elif name == packing.EMBEDDING:
            rounded[name] = in_groups(weight.T).T
        else:
            rounded[name] = in_groups(weight)
    (prompt,) = texts(37)
    decoding = model_of(folder, precision, instructions=instructions).begin(1)
    logits = decoding.read_all(np.array([prompt]))
    assert_close(logits, Reference(config, rounded).logits(prompt))
    # Rounding is seen, so that this compares more than float32 with itself.
    assert np.abs(logits - Reference(config, weights).logits(prompt)).max() > 1e-3


def in_groups(weight: np.ndarray) -> np.ndarray:
    """Return a weight rounded to eight bits with a scale for 32 inputs of an output."""
    rounded = np.empty_like(weight)
    for begin in range(0, len(weight), 32):
        part = weight[begin : begin + 32]
        steps = np.abs(part).max(axis=0) / np.float32(127)
        rounded[begin : begin + 32] = np.rint(part / steps) * steps
    return rounded


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_checkpoint_in_another_type_is_computed_in_its_own_precision(
    tmp_path: Path, dtype: str
) -> None:
    folder, config, weights = checkpoint(tmp_path, dtype=dtype)
    assert packing.stored_precision(Weights(folder)) == ("bf16" if dtype == "BF16" else "fp32")
    stored = {
        name: from_bfloat16(rounded_to_bfloat16(weight))
        if dtype == "BF16"
        else weight.astype(np.float16).astype(np.float32)
        for name, weight in weights.items()
    }
    (prompt,) = texts(20)
    assert_close(
        model_of(folder).start([prompt]).logits[0], Reference(config, stored).logits(prompt)[-1]
    )


def quantized_checkpoint(
    folder: Path, *, cache: bool
) -> tuple[Path, NativeConfig, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Write what ``quantize`` with shift, smooth and int8 caches makes; return its true weights."""
    config = parsed()
    random = np.random.default_rng(3)
    weights, stored, weight_scales = random_weights(config), {}, {}
    for name, weight in weights.items():
        stored[name] = weight
        if name.endswith("_proj.weight"):
            scales = int8.weight_scales(weight)
            stored[name] = int8.quantized(weight, scales)
            weights[name] = int8.dequantized(stored[name], scales)
            weight_scales[f"{name.removesuffix('.weight')}.weight_quanter"] = scales.tolist()
    steps, act_scales, cache_scales = {}, {}, {}
    shapes = paddle_weight_shapes(config.llama)
    for layer in range(config.llama.num_hidden_layers):
        prefix = f"llama.layers.{layer}."
        for part in ("input_layernorm", "post_attention_layernorm"):
            stored[f"{prefix}{part}.bias"] = vector(random, config.llama.hidden_size)
        for part in library.PROJECTIONS:
            wrapped = f"{part}.layer" if part in ("self_attn.o_proj", "mlp.down_proj") else part
            outputs = shapes[f"{prefix}{part}.weight"][1]
            stored[f"{prefix}{wrapped}.bias"] = vector(random, outputs)
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            inputs = shapes[f"{prefix}{part}.weight"][0]
            stored[f"{prefix}{part}.shift_bias"] = vector(random, inputs)
            stored[f"{prefix}{part}.smooth_weight"] = 1 + vector(random, inputs)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            act_scales[f"{prefix}{part}.activation_quanter"] = 4.0
            steps[f"{prefix}{part}"] = np.float32(4.0 / 127).reshape(1)
        for part in ("cachek_matmul", "cachev_matmul") if cache else ():
            scales = [2.0, 3.0]
            # Upstream repeats a head's scale for the queries of its group.
            cache_scales[f"{prefix}self_attn.{part}.activation_quanter"] = [
                scale for scale in scales for _ in range(3)
            ]
            steps[f"{prefix}self_attn.{part}"] = np.array(scales, np.float32)[:, None] / 127
    for name, array in stored.items():
        if name not in weights:
            weights[name.replace(".layer.bias", ".bias")] = array
    write_checkpoint(folder, stored, CONFIG)
    (folder / "weight_scales.json").write_text(json.dumps(weight_scales))
    (folder / "act_scales.json").write_text(json.dumps(act_scales))
    (folder / "cachekv_scales.json").write_text(json.dumps(cache_scales))
    return folder, config, weights, steps


def vector(random: np.random.Generator, size: int) -> np.ndarray:
    return random.normal(size=size).astype(np.float32) / 8


@pytest.mark.parametrize("cache", [False, True])
def test_a_quantized_checkpoint_with_shift_and_smooth(tmp_path: Path, cache: bool) -> None:
    folder, config, weights, steps = quantized_checkpoint(tmp_path, cache=cache)
    (prompt,) = texts(23)
    logits = load(folder, save=False).begin(1).read_all(np.array([prompt]))
    expected = Reference(config, weights, steps).logits(prompt)
    # A value between two steps can go either way, so a few logits differ by a step's effect.
    assert np.median(np.abs(logits - expected)) < 1e-5 * np.abs(expected).max()
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    unrounded = Reference(config, weights).logits(prompt)
    assert np.median(np.abs(logits - unrounded)) > 1e-3


def test_values_are_rounded_half_to_even(tmp_path: Path) -> None:
    """A product's input that lies between two steps goes to the even one, as in Paddle."""
    folder, config, weights = checkpoint(tmp_path, num_hidden_layers=1)
    model = model_of(folder)
    # After the norm, whose weight is 0 but for its bias, the input is exactly 0.5, 1.5, …
    halves = (np.arange(48) - 24 + 0.5).astype(np.float32)
    weights["llama.layers.0.input_layernorm.weight"][:] = 0
    weights["llama.layers.0.input_layernorm.bias"] = halves
    write_checkpoint(tmp_path, weights, {**CONFIG, "num_hidden_layers": 1})
    steps = {"llama.layers.0.self_attn.q_proj": np.ones(1, np.float32)}
    packed = packing.open_packed(config, Weights(folder), "fp32", save=False)
    model = NativeModel(config, packed, steps, threads=1)
    (prompt,) = texts(5)
    assert_close(
        model.start([prompt]).logits[0], Reference(config, weights, steps).logits(prompt)[-1]
    )


# ----------------------------------------------------------------------------- bit for bit


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, _, _ = checkpoint(tmp_path_factory.mktemp("float"))
    eight, *_ = quantized_checkpoint(tmp_path_factory.mktemp("int8"), cache=True)
    return {"fp32": folder, "bf16": folder, "int8": folder, "quantized": eight}


def invariant_model(folders: dict[str, Path], kind: str, **options: Any) -> NativeModel:
    return model_of(folders[kind], None if kind == "quantized" else kind, **options)


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "quantized"])
def test_neither_batch_nor_chunks_nor_threads_change_a_bit(
    folders: dict[str, Path], kind: str, instructions: str
) -> None:
    alone = texts(3, 50, 33, 600, 1, 17, 64, 5, 8, 20, 11, 2, 31)
    one = invariant_model(folders, kind, threads=1, instructions=instructions)
    expected = [one.start([prompt]).logits[0] for prompt in alone]
    for threads in (2, 5):
        model = invariant_model(folders, kind, threads=threads, instructions=instructions)
        together = model.start(alone)
        np.testing.assert_array_equal(together.logits, expected)
        # Token by token, in a batch with others.
        decoding = model.begin(3)
        pieces = [alone[1], alone[6][:50], alone[3][:50]]
        for at in range(50):
            decoding.step([piece[at] for piece in pieces])
        np.testing.assert_array_equal(decoding.logits[0], expected[1])
        # In parts of uneven length.
        decoding = model.begin(2)
        for begin, end in ((0, 1), (1, 14), (14, 540), (540, 600)):
            decoding.append([alone[3][begin:end], alone[4] if begin == 1 else []])
        np.testing.assert_array_equal(decoding.logits, [expected[3], expected[4]])


def test_read_all_gives_what_reading_token_by_token_gives(folders: dict[str, Path]) -> None:
    model = model_of(folders["fp32"])
    first, second = texts(40, 40)
    every = model.begin(2).read_all(np.array([first, second]))
    decoding = model.begin(2)
    for at in range(40):
        decoding.step([first[at], second[at]])
        np.testing.assert_array_equal(decoding.logits, every[[at, 40 + at]])


def test_padding_is_not_read(folders: dict[str, Path]) -> None:
    model = model_of(folders["fp32"])
    long, short = texts(9, 4)
    tokens = np.array([long, [0] * 5 + short])
    known = np.array([[True] * 9, [False] * 5 + [True] * 4])
    decoding = model.begin(2)
    decoding.read(tokens, known)
    np.testing.assert_array_equal(decoding.logits[1], model.start([short]).logits[0])


def test_texts_leave_join_and_are_continued_more_than_once(folders: dict[str, Path]) -> None:
    model = model_of(folders["fp32"])
    first, second, third = texts(40, 5, 70)
    decoding = model.start([first, second])
    decoding.keep([1, 0, 0])  # both go on from one prompt
    decoding.join(model.start([third]))
    assert decoding.columns == 70
    new = texts(40, 40, 40, 40)
    for column in zip(*new, strict=True):  # beyond the block that two of them shared
        decoding.step(column)
    for row, prompt in enumerate((second, first, first, third)):
        history = [*prompt, *new[row]]
        np.testing.assert_array_equal(decoding.logits[row], model.start([history]).logits[0])


def test_several_threads_may_compute_at_once(folders: dict[str, Path]) -> None:
    prompts = texts(30, 40, 50, 60)
    models = [model_of(folders["fp32"]), model_of(folders["quantized"])]
    expected = [[m.start([prompt]).logits for prompt in prompts] for m in models]
    faults: list[str] = []

    def compute(which: int) -> None:
        for number, prompt in enumerate(prompts * 5):
            logits = models[which].start([prompt]).logits
            if not np.array_equal(logits, expected[which][number % len(prompts)]):
                faults.append(f"model {which}, prompt {number}")

    running = [threading.Thread(target=compute, args=(number % 2,)) for number in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert faults == []


def test_a_forked_process_computes_too(folders: dict[str, Path]) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom entrypoints.native.model import load\n"
        "model = load(Path(sys.argv[1]), save=False)\n"
        "before = model.start([[1, 2, 3]]).logits\n"
        "child = os.fork()\n"
        "after = model.start([[1, 2, 3]]).logits\n"
        "if not child: os._exit(0 if (before == after).all() else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    command = [sys.executable, "-c", program, str(folders["fp32"])]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)


# ------------------------------------------------------------------------------ adapters


def factors(config: NativeConfig, rank: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    return {
        name.removesuffix(".weight"): (
            random.normal(size=(shape[0], rank)).astype(np.float32) / 8,
            random.normal(size=(rank, shape[1])).astype(np.float32) / 8,
        )
        for name, shape in paddle_weight_shapes(config.llama).items()
        if name.endswith("_proj.weight")
    }


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("rank", [1, 8, 40])
def test_an_adapter_gives_what_the_merged_model_gives(
    tmp_path: Path, rank: int, instructions: str
) -> None:
    folder, config, weights = checkpoint(tmp_path)
    changes = factors(config, rank, 1)
    del changes["llama.layers.0.self_attn.k_proj"], changes["llama.layers.1.mlp.down_proj"]
    adapter = LoraAdapter(config, changes)
    model = model_of(folder, adapter=adapter, instructions=instructions)
    merged = {
        name: weight + np.matmul(*changes[layer]) if (layer := name[:-7]) in changes else weight
        for name, weight in weights.items()
    }
    prompts = texts(300, 3)
    decoding = model.start(prompts)
    for row, prompt in enumerate(prompts):
        assert_close(decoding.logits[row], Reference(config, merged).logits(prompt)[-1], 1e-4)
    np.testing.assert_array_equal(model.start(prompts[1:]).logits[0], decoding.logits[1])


def test_sequences_of_a_batch_have_adapters_of_their_own(folders: dict[str, Path]) -> None:
    config = parsed()
    first, second = (LoraAdapter(config, factors(config, 4, seed)) for seed in (1, 2))
    models = [model_of(folders["fp32"], adapter=adapter) for adapter in (first, None, second)]
    prompts = texts(7, 9, 11)
    expected = [
        model.start([prompt]).logits[0] for model, prompt in zip(models, prompts, strict=True)
    ]
    blocks = [models[0].new_block() for _ in prompts]
    counts = [len(prompt) for prompt in prompts]
    logits = models[1].step(
        np.concatenate(prompts).astype(np.int32),
        np.repeat(np.arange(3, dtype=np.int32), counts),
        np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        (np.cumsum(counts) - 1).astype(np.int32),
        np.array([[block.address] for block in blocks], np.uint64),
        adapters=[first, None, second],
    )
    np.testing.assert_array_equal(logits, expected)


# -------------------------------------------------------------------------- packed files


def test_weights_are_packed_once_and_then_mapped(tmp_path: Path) -> None:
    folder, config, _ = checkpoint(tmp_path)
    weights = Weights(folder)
    first = packing.open_packed(config, weights, "fp32")
    assert first.path == folder / ".native.fp32"
    written = first.path.stat()
    again = packing.open_packed(config, weights, "fp32")
    assert again.path is not None
    assert (again.path.stat().st_ino, again.path.stat().st_mtime_ns) == (
        written.st_ino,
        written.st_mtime_ns,
    )
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".native.fp32", "config.json", "model.safetensors")
    ]


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[:-100]
    elif how == "shorter than its header":
        content = content[:10]
    elif how == "another version":
        content[8] += 1
    elif how == "another header":
        content[60] ^= 1
    elif how == "empty":
        content = bytearray()
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["truncated", "shorter than its header", "another version", "another header", "empty"]
)
def test_a_damaged_packed_file_is_packed_again(tmp_path: Path, how: str) -> None:
    folder, _, _ = checkpoint(tmp_path)
    expected = model_of(folder, save=True).start([[1, 2]]).logits
    whole = (folder / ".native.fp32").read_bytes()
    damaged(folder / ".native.fp32", how)
    np.testing.assert_array_equal(model_of(folder, save=True).start([[1, 2]]).logits, expected)
    assert (folder / ".native.fp32").read_bytes() == whole


def test_other_weights_of_the_same_size_are_packed_again(tmp_path: Path) -> None:
    folder, config, weights = checkpoint(tmp_path)
    model_of(folder, save=True)
    weights["llama.norm.weight"] *= 2
    write_checkpoint(folder, weights, CONFIG)
    assert_close(
        model_of(folder, save=True).start([[1, 2]]).logits[0],
        Reference(config, weights).logits([1, 2])[-1],
    )


def test_a_read_only_folder_is_packed_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config, weights = checkpoint(tmp_path)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(packing, "replacing_file", refused)
    model = model_of(folder, save=True)
    assert_close(model.start([[1, 2]]).logits[0], Reference(config, weights).logits([1, 2])[-1])
    assert not (folder / ".native.fp32").exists()
    assert "packed in memory" in capsys.readouterr().err


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = checkpoint(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing.os, "posix_fallocate", full)
    model_of(folder, save=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


# ---------------------------------------------------------------------------- refusals


def refusal(folder: Path) -> RequestError:
    with pytest.raises(RequestError) as error:
        load(folder, save=False)
    return error.value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "does not support the architecture Qwen2"),
        ({"architectures": None}, "does not support the architecture unknown"),
        ({"hidden_act": "gelu"}, "does not support hidden_act: 'gelu'"),
        ({"alibi": True}, "does not support alibi: True"),
        ({"fuse_attention_qkv": True}, "does not support fuse_attention_qkv: True"),
        ({"attention_bias": True}, "does not support attention_bias: True"),
        ({"sliding_window": 16}, "does not support sliding_window: 16"),
        ({"head_dim": 16}, "does not support a head_dim of 16 with 6 heads"),
        ({"hidden_size": 18}, "does not support a head_dim of 3 with 6 heads"),
        ({"rope_scaling_type": "yarn"}, "does not support rope_scaling_type: 'yarn'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "does not support rope_scaling"),
        ({"rope_scaling": [1]}, "does not support rope_scaling"),
    ],
)
def test_what_the_engine_does_not_implement_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_checkpoint(tmp_path, {}, {**CONFIG, **changes})
    error = refusal(tmp_path)
    assert message in error.problems[0].what
    assert error.problems[0].remedy == REMEDY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "48"}, "\"hidden_size\" is '48', not a whole number"),
        ({"vocab_size": 0}, '"vocab_size" is 0'),
        ({"max_position_embeddings": "long"}, '"max_position_embeddings" is'),
        ({"rms_norm_eps": -1}, '"rms_norm_eps" is -1'),
        ({"rope_theta": 0}, '"rope_theta" is 0, not a positive number'),
        ({"num_key_value_heads": 4}, "num_attention_heads 6 is not divisible by"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": "8"}},
            "\"factor\" is '8', not a positive number",
        ),
    ],
)
def test_a_damaged_configuration_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_checkpoint(tmp_path, {}, {**CONFIG, **changes})
    assert message in refusal(tmp_path).problems[0].what


def test_several_faults_are_named_at_once() -> None:
    with pytest.raises(RequestError) as error:
        parsed(hidden_act="gelu", alibi=True, vocab_size=-1)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "llama.layers.1.mlp.up_proj.weight is missing"),
        ("shape", "llama.norm.weight is [47], and config.json makes it [48]"),
        (
            "unknown",
            "llama.layers.0.self_attn.rotary.weight is not one that the native engine uses",
        ),
        ("bias", "llama.layers.0.self_attn.q_proj.bias is [47], not [48]"),
        ("input", "llama.layers.0.self_attn.k_proj.shift_bias is not one"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, fault: str, message: str) -> None:
    weights = random_weights(parsed())
    if fault == "missing":
        del weights["llama.layers.1.mlp.up_proj.weight"]
    elif fault == "shape":
        weights["llama.norm.weight"] = np.ones(47, np.float32)
    elif fault == "unknown":
        weights["llama.layers.0.self_attn.rotary.weight"] = np.ones(1, np.float32)
    elif fault == "bias":
        weights["llama.layers.0.self_attn.q_proj.bias"] = np.ones(47, np.float32)
    else:
        weights["llama.layers.0.self_attn.k_proj.shift_bias"] = np.ones(48, np.float32)
    write_checkpoint(tmp_path, weights, CONFIG)
    assert message in refusal(tmp_path).problems[0].what


def test_a_missing_library_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDLE_STACKS_NATIVE_LIBRARY", str(tmp_path / "none.so"))
    library.load.cache_clear()
    with pytest.raises(MachineError, match="cannot be loaded") as error:
        library.load()
    assert "./inv build infer" in error.value.problems[0].remedy


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"tokens": [101]}, "a token is not in the vocabulary"),
        ({"tokens": [-1]}, "a token is not in the vocabulary"),
        ({"sequences": [1]}, "not next to each other"),
        ({"tokens": [1] * 3, "sequences": [0, 1, 0], "positions": [0, 0, 1]}, "not next to each"),
        ({"positions": [32]}, "a position is not in the context"),
        ({"positions": [-1]}, "a position is not in the context"),
        ({"tokens": [1, 1], "sequences": [0, 0], "positions": [0, 2]}, "a position is not in"),
        ({"outputs": [1]}, "logits of a token that is not in the batch"),
        ({"outputs": [-1]}, "logits of a token that is not in the batch"),
        ({"tokens": [], "sequences": [], "positions": []}, "an empty batch"),
        ({"blocks": [[0]]}, "its block is missing"),
    ],
)
def test_a_batch_that_is_not_valid_is_refused(
    folders: dict[str, Path], batch: dict[str, Any], message: str
) -> None:
    model = model_of(folders["fp32"])
    block = model.new_block()
    count = 2 if batch.get("tokens") == [1] * 3 else 1
    arrays = {"tokens": [1], "sequences": [0], "positions": [0], "outputs": [0]}
    addresses = np.array([[block.address]] * count, np.uint64)
    addresses = np.array(batch["blocks"], np.uint64) if "blocks" in batch else addresses
    numbers = [np.array(batch.get(key, value), np.int32) for key, value in arrays.items()]
    with pytest.raises(ValueError, match=message):
        model.step(*numbers, addresses)


def test_a_text_beyond_the_context_is_refused(tmp_path: Path) -> None:
    folder, _, _ = checkpoint(tmp_path, max_position_embeddings=8)
    decoding = model_of(folder).start([[1] * 8])
    with pytest.raises(ValueError, match="not in the context"):
        decoding.step([1])


# -------------------------------------------------------------------------------- the job


def test_infer_answers_a_prompt_where_there_is_no_paddle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = checkpoint(tmp_path / "models" / "m", vocab_size=260)
    write_tokenizer(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "paddle", None)  # an import of it fails
    monkeypatch.setitem(sys.modules, "paddlenlp", None)
    line = ["--model", "m", "--prompt", "hello", "--max-new-tokens", "5", "--raw"]
    assert infer.main([*line, "--engine", "native"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert "start PaddlePaddle" not in captured.err
    model = model_of(folder)
    text = texts_of_model(folder, 1600, raw=True)
    tokens = text.encode("hello", add_special_tokens=True)
    decoding, answer = model.start([tokens]), []
    for _ in range(5):
        answer.append(int(decoding.logits[0].argmax()))
        if answer[-1] in text.ends:
            break
        decoding.step(answer[-1:])
    assert captured.out.rstrip("\n") in text.decode(answer)


# ------------------------------------------------------------------------- configuration


def test_rotary_tables_are_those_of_every_scaling() -> None:
    angles = np.arange(1600)[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(parsed().rotary_tables()[0], np.cos(angles), atol=2e-4)
    linear = parsed(rope_scaling_type="linear", rope_scaling_factor=4.0)
    np.testing.assert_allclose(linear.rotary_tables()[1], np.sin(angles / 4), atol=2e-4)
    ntk = parsed(rope_scaling_type="ntk", rope_scaling_factor=4.0)
    base = 10000.0 * 4 ** (8 / 6)
    expected = np.sin(np.arange(1600)[:, None] * base ** (-np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(ntk.rotary_tables()[1], expected, atol=2e-4)
    dynamic = parsed(rope_scaling_type="dynamic_ntk", rope_scaling_factor=4.0)
    np.testing.assert_array_equal(dynamic.rotary_tables(), parsed().rotary_tables())


def test_llama3_divides_the_low_frequencies() -> None:
    section = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    cos, sin = parsed(rope_scaling=section).rotary_tables()
    frequencies = np.arctan2(sin[1], cos[1])
    plain = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    assert frequencies[0] == pytest.approx(plain[0])  # a wave of 6 tokens stays
    # 63 tokens are between a quarter of 256 and 256, and 628 and 6283 beyond.
    smooth = (256 / (2 * np.pi / plain[1]) - 1) / 3
    assert frequencies[1] == pytest.approx(plain[1] * min(1, (1 - smooth) / 8 + smooth))
    np.testing.assert_allclose(frequencies[2:], plain[2:] / 8, rtol=1e-5)


def test_shapes_are_those_of_the_checkpoint() -> None:
    config = parsed()
    assert paddle_weight_shapes(config.llama)["llama.layers.0.self_attn.k_proj.weight"] == (48, 16)
    assert paddle_weight_shapes(config.llama)["lm_head.weight"] == (48, 101)
