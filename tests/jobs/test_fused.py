"""Fused models, by the driver that an image without upstream's source has: what they compute.

All cases run in forks of one process, in one container (fused_cases.py); the tests look at what
came out.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import fused_cases
from tests.jobs.conftest import run

PREDICT, EXPORT = "predict/predictor.py", "predict/export_model.py"
MODELS = tuple(fused_cases.MODELS)
BLOCK = ("block", "dense")
SOURCES = ["ka lo mi", "tu ne sa ro vi be do fa gu hi jo kalo mitu nesa", "ro"]
GREEDY = ["--decode_strategy", "greedy_search", "--src_length", "64", "--max_length", "16"]
DATA = ["--data_file", "prompts.json", "--output_file", "out.json"]
QUANTIZED = {"a8w8": ("block", "dense"), "a8w8c8": ("block",), "smooth": ("block", "dense")}
SMOOTH = ("smooth=true", "smooth_all_linears=true", "smooth_step=4")
NEEDED = {
    "operators-without-cuda": "tied",
    "quantizing-norm": "int8",
    "rocm-layout": "int8",
    "rocm-layout-of-weights": "int8",
    "tied-head": "tied",
    "last-token": "dense",
    "operators-of-speculative-decoding": "tied",
    "padding-offsets": "tied",
    "rebuilt-padding": "tied",
    "operator-of-a-proposer": "tied",
}
"""The patches that the package needs on a CPU, and a run that fails without each."""

ROWS = str(len(fused_cases.ROW) - 1)

Case = dict[str, Any]


def words(model: str, kind: str, dtype: str, *more: str) -> list[str]:
    found = ["--model_name_or_path", model, "--inference_model", "--dtype", dtype, *GREEDY, *more]
    return [*found, "--block_attn"] if kind == "block" else found


def both(name: str, model: str, kind: str, dtype: str, *more: str) -> list[Case]:
    """Return the cases of a model as it is, and exported."""
    graph = f"graphs/{name}"
    static = words(graph, kind, dtype, *more, "--mode", "static")
    exported = [*words(model, kind, dtype, *more), "--output_path", graph]
    data = [*DATA, "--batch_size", "3"]
    return [
        {
            "name": f"{name} dynamic",
            "script": PREDICT,
            "words": [*words(model, kind, dtype, *more), *data],
        },
        {"name": f"{name} export", "script": EXPORT, "words": exported},
        {"name": f"{name} static", "script": PREDICT, "words": [*static, *data]},
    ]


def reference(model: str) -> Case:
    line = ["--model_name_or_path", f"models/{model}", "--dtype", "float32", *GREEDY, *DATA]
    return {"name": f"{model} reference", "script": PREDICT, "words": line}


def margins(model: str, of: str) -> Case:
    """Return the case that compares another one's tokens with the float32 model's logits."""
    line = [*words(f"models/{model}", "block", "float32"), *DATA]
    return {"name": f"{of} margins", "margins": f"models/{model}", "of": of, "words": line}


def float_cases() -> list[Case]:
    found = [reference(model) for model in MODELS]
    for model, kind, dtype in itertools.product(MODELS, BLOCK, ("float32", "float16")):
        found += both(f"{model} {kind} {dtype}", f"models/{model}", kind, dtype)
    for model, kind in itertools.product(MODELS, BLOCK):
        name, line = f"{model} {kind} float32", words(f"models/{model}", kind, "float32")
        found.append({"name": f"{name} alone", "script": PREDICT, "words": [*line, *DATA]})
        static = [*words(f"graphs/{name}", kind, "float32"), "--mode", "static", *DATA]
        found.append({"name": f"{name} static alone", "script": PREDICT, "words": static})
        found.append(margins(model, f"{model} {kind} float16 dynamic"))
    for kind in BLOCK:
        name = f"mha {kind} bfloat16"
        found += both(name, "models/mha", kind, "bfloat16")[:1]
    return found


def quantized_cases() -> list[Case]:
    found: list[Case] = []
    for model, (quantized, kinds) in itertools.product(MODELS, QUANTIZED.items()):
        folder = f"models/{model}-{quantized}"
        more = ["--quant_type", "a8w8"]
        more += ["--cachekv_int8_type", "static"] if quantized == "a8w8c8" else []
        for kind in kinds:
            for dtype in ("float32", "float16"):
                found += both(f"{model} {quantized} {kind} {dtype}", folder, kind, dtype, *more)
        found.append(margins(model, f"{model} {quantized} block float16 dynamic"))
        found.append({"name": f"{folder} here", "losses": folder, "words": []})
        for dtype in ("float32", "float16"):
            line = [*words(folder, "block", dtype, *more)[2:], "--batch_size", ROWS]
            found.append({"name": f"{folder} {dtype}", "losses": folder, "words": line})
    for model in MODELS:
        more = ["--cachekv_int8_type", "dynamic"]
        name = f"{model} dynamic8 block float32"
        found += both(name, f"models/{model}", "block", "float32", *more)
        found.append(margins(model, f"{name} dynamic"))
        line = [*words("", "block", "float32", *more)[2:], "--batch_size", ROWS]
        found.append({"name": f"{model} int8 cache", "losses": f"models/{model}", "words": line})
        line = [*words("", "block", "float32")[2:], "--batch_size", ROWS]
        found.append({"name": f"{model} cache", "losses": f"models/{model}", "words": line})
        found.append({"name": f"{model} here", "losses": f"models/{model}", "words": []})
    return found


@pytest.fixture(scope="session")
def fused_models(job, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with tiny Llamas, as they are and quantized, and with prompts."""
    workspace = tmp_path_factory.mktemp("fused")
    shutil.copytree(tiny_models / "tiny", workspace / "models" / "tiny")
    lines = [json.dumps({"src": text, "tgt": ""}) + "\n" for text in SOURCES]
    (workspace / "prompts.json").write_text("".join(lines))
    compute(job, workspace, [{"name": "models", "models": "models"}])
    for model, quantized in itertools.product(MODELS, QUANTIZED):
        line = ["quantize", "--model", model, "--output", f"models/{model}-{quantized}"]
        kind = "a8w8" if quantized == "smooth" else quantized
        keys = (f"quant_type={kind}", "max_length=64", "ptq_step=4")
        keys += SMOOTH if quantized == "smooth" else ()
        run(job, [*line, *(word for key in keys for word in ("--set", key))], workspace)
    return workspace


@pytest.fixture(scope="session")
def computed(job, fused_models: Path) -> dict[str, Any]:
    """What came out of all cases, by name."""
    return compute(job, fused_models, float_cases() + quantized_cases())


@pytest.fixture(scope="session")
def composed(job, fused_models: Path) -> dict[str, Any]:
    """What comes out with the attention that a DCU has without block attention."""
    cases: list[Case] = []
    for model in MODELS:
        for dtype in ("float32", "float16"):
            cases += both(f"{model} dense {dtype}", f"models/{model}", "dense", dtype)
        more = ("--quant_type", "a8w8")
        cases += both(f"{model} a8w8", f"models/{model}-a8w8", "dense", "float32", *more)
    return compute(job, fused_models, cases, backend="dcu-sim")


@pytest.fixture(scope="session")
def unpatched(job, fused_models: Path) -> dict[str, Any]:
    """What comes out of three runs where one patch is missing, by run and patch."""
    cases = [
        *both("tied", "models/gqa-tied", "block", "float32")[:1],
        *both("dense", "models/mha", "dense", "float32")[:1],
        *both("int8", "models/mha-a8w8", "block", "float32", "--quant_type", "a8w8")[:1],
    ]
    return compute(job, fused_models, cases, without=["none", *NEEDED])


def compute(job, workspace: Path, cases: list[Case], **settings: Any) -> dict[str, Any]:
    shutil.copy(Path(fused_cases.__file__), workspace)
    (workspace / "cases.json").write_text(json.dumps({"cases": cases, **settings}))
    run(job, ["python", "fused_cases.py", "cases.json", "out-cases.json"], workspace, 1800)
    found: dict[str, Any] = json.loads((workspace / "out-cases.json").read_text())
    return found


@pytest.mark.parametrize("mode", ["dynamic", "static", "alone", "static alone"])
@pytest.mark.parametrize("kind", BLOCK)
@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_those_of_generate(computed, model: str, kind: str, mode: str) -> None:
    """Float32: token for token, the last one too; three unequal prompts, or each alone."""
    wanted = computed[f"{model} reference"]
    assert computed[f"{model} {kind} float32 {mode}"] == wanted
    assert [len(row) for row in wanted] == [16, 16, 16]
    assert len({token for row in wanted for token in row}) > 20, "tokens that differ"


@pytest.mark.parametrize("kind", BLOCK)
@pytest.mark.parametrize("model", MODELS)
def test_float16_is_off_by_its_rounding_alone(computed, model: str, kind: str) -> None:
    """Each token is the likeliest in float32, or as good as that.

    A value of float16 is rounded by at most 2**-11 of itself, some ten times in each of the two
    layers, in either direction. So logits are off by some 2**-11 * sqrt(20) of their spread;
    eight times that, for the largest of a thousand, is 0.02.
    """
    name = f"{model} {kind} float16"
    assert max(computed[f"{name} dynamic margins"]) < 0.02
    assert computed[f"{name} static"] == computed[f"{name} dynamic"]
    assert [len(row) for row in computed[f"{name} dynamic"]] == [16, 16, 16]


@pytest.mark.parametrize("kind", BLOCK)
def test_bfloat16_computes(computed, kind: str) -> None:
    """Three digits fewer than float16: most first tokens are the same."""
    rows = computed[f"mha {kind} bfloat16 dynamic"]
    assert [len(row) for row in rows] == [16, 16, 16]
    wanted = computed["mha reference"]
    assert sum(row[0] == other[0] for row, other in zip(rows, wanted, strict=True)) >= 2


@pytest.mark.parametrize("quantized", ["a8w8", "smooth"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("model", MODELS)
def test_eight_bits_without_blocks_are_those_with_blocks(
    computed, model: str, dtype: str, quantized: str
) -> None:
    name = f"{model} {quantized} {{}} {dtype}"
    first = computed[f"{name.format('block')} dynamic"]
    assert computed[f"{name.format('block')} static"] == first
    assert computed[f"{name.format('dense')} static"] == computed[f"{name.format('dense')} dynamic"]
    if dtype == "float32":
        assert computed[f"{name.format('dense')} dynamic"] == first
    assert (
        computed[f"{model} a8w8c8 block {dtype} static"]
        == (computed[f"{model} a8w8c8 block {dtype} dynamic"])
    )


@pytest.mark.parametrize("quantized", QUANTIZED)
@pytest.mark.parametrize("model", MODELS)
def test_eight_bits_predict_as_our_own_engine_does(computed, model: str, quantized: str) -> None:
    """The same checkpoint, in integers here and in rounded floats there, token for token.

    Both round what enters a product to the same grid. Sums differ in the last bits of a float,
    so that now and then a value falls on the other side of a half: one step of 127 of one input.
    Our engine reads a prompt through its cache in eight bits, and a fused model does not. The
    losses of different tokens are 1.3 nats apart.
    """
    folder = f"models/{model}-{quantized}"
    ours = computed[f"{folder} here"]
    close = 0.15 if quantized == "a8w8c8" else 0.1
    for dtype in ("float32", "float16"):
        fused = computed[f"{folder} {dtype}"]
        assert len(fused) == len(ours) == len(fused_cases.ROW) - 1
        assert perplexity(fused) == pytest.approx(perplexity(ours), rel=0.03)
        assert statistics.fmean(abs(a - b) for a, b in zip(fused, ours, strict=True)) < close
        assert fused != pytest.approx(computed[f"{model} here"], abs=1e-2), "it is quantized"
    # What is generated sees the cache: tokens of eight bits are near the likeliest of float32.
    assert max(computed[f"{model} {quantized} block float16 dynamic margins"]) < 1


@pytest.mark.parametrize("model", MODELS)
def test_a_cache_in_eight_bits_that_scales_itself(computed, model: str) -> None:
    """A prompt's attention is not rounded; what is generated sees the rounded cache."""
    plain, rounded = computed[f"{model} cache"], computed[f"{model} int8 cache"]
    assert plain == pytest.approx(computed[f"{model} here"], abs=1e-3)
    assert rounded == pytest.approx(plain, abs=1e-6)
    name = f"{model} dynamic8 block float32"
    assert computed[f"{name} static"] == computed[f"{name} dynamic"]
    assert [row[:1] for row in computed[f"{name} dynamic"]] == [
        row[:1] for row in computed[f"{model} reference"]
    ]
    assert max(computed[f"{name} dynamic margins"]) < 0.3


@pytest.mark.parametrize("model", MODELS)
def test_tokens_with_the_attention_of_a_dcu(computed, composed, model: str) -> None:
    """Composed of operators that a ROCm build has; kernels of the CPU compute the same."""
    for mode in ("dynamic", "static"):
        assert composed[f"{model} dense float32 {mode}"] == computed[f"{model} reference"]
        assert (
            composed[f"{model} dense float16 {mode}"] == (computed[f"{model} dense float16 {mode}"])
        )
        assert composed[f"{model} a8w8 {mode}"] == computed[f"{model} a8w8 dense float32 {mode}"]


@pytest.mark.parametrize("name", NEEDED)
def test_the_package_needs_every_patch(unpatched, name: str) -> None:
    case = f"{NEEDED[name]} dynamic"
    right = unpatched[f"{case} none"]
    assert [len(row) for row in right] == [16, 16, 16]
    assert unpatched[f"{case} {name}"] != right


def test_the_job_answers_with_and_without_fused_operators(
    job, fused_models: Path, tmp_path: Path
) -> None:
    """As recipes call it: a model as it is, its static graph with blocks, and the benchmark."""
    shutil.copytree(fused_models / "models" / "mha", tmp_path / "models" / "mha")
    shutil.copy(fused_models / "prompts.json", tmp_path)
    plain = ["--model_name_or_path", "models/mha", "--dtype", "float16", *GREEDY, *DATA]
    done = job(["upstream", PREDICT, *plain], tmp_path)
    assert done.status == 0, done.stderr
    assert "unfused models have no float16 kernels" in done.stderr
    wanted = (tmp_path / "out.json").read_text()
    assert [json.loads(line)["src"] for line in wanted.splitlines()] == SOURCES
    (tmp_path / "out.json").unlink()
    line = words("models/mha", "block", "float32")
    run(job, ["upstream", EXPORT, *line, "--output_path", "graph"], tmp_path)
    line = [*words("graph", "block", "float32"), "--mode", "static", *DATA, "--benchmark"]
    done = job(["upstream", PREDICT, *line, "--batch_size", "3"], tmp_path)
    assert done.status == 0, done.stderr
    assert (tmp_path / "out.json").read_text() == wanted
    # Three rounds of three rows that no end token ends.
    assert "Output tokens is:  144" in done.stdout
    assert "Input length is: 64, Output length is: 16, bs is: 3, IPS: " in done.stdout
    assert json.loads((tmp_path / "runs" / "predictor" / "result.json").read_text())


def test_an_operator_that_is_missing_is_an_import_error(job, fused_models: Path) -> None:
    (fused_models / "missing.py").write_text(MISSING)
    run(job, ["python", "missing.py"], fused_models)


MISSING = """
import importlib.machinery
import sys
import types
from entrypoints.fused import __main__ as program

operators = types.ModuleType("paddlenlp_ops")
operators.__spec__ = importlib.machinery.ModuleSpec("paddlenlp_ops", None)
operators.__spec__.has_location = True
operators.rebuild_padding_v2 = operators.dequant_int8 = None
sys.modules["paddlenlp_ops"] = operators
program.prepare()
try:
    import paddlenlp.experimental.transformers.fused_transformer_layers
except ImportError as error:
    assert "encode_rotary_qk" in str(error), error
else:
    raise AssertionError("it is imported without its operators")
"""


def perplexity(losses: list[float]) -> float:
    return math.exp(sum(losses) / len(losses))
