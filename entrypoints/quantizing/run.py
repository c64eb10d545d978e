"""Execution of a quantization, and its report."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import paddle_stacks
from entrypoints.inference import model as models
from entrypoints.inference.decoding import Model
from entrypoints.inference.llama import llama_config
from entrypoints.inference.weights import Weights
from entrypoints.models import tokenizer
from entrypoints.models.files import fingerprint
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.quantizing import room, text, writing
from entrypoints.quantizing.calibration import Calibration
from entrypoints.quantizing.measuring import agreement, errors_of_products, evaluate
from entrypoints.runtime.console import note, phase
from paddle_stacks.jobs import workspace
from paddle_stacks.jobs.files import replacing_folder
from paddle_stacks.jobs.quantizing import REPORT, Method
from paddle_stacks.jobs.schema import Config

__all__ = ["FORMAT", "quantize"]

FORMAT = 1
"""Version of the report."""

_KEYS = (
    *("quant_type", "weight_quant_method", "act_quant_method", "cachekv_quant_method"),
    *("shift", "shift_all_linears", "shift_sampler", "shift_step"),
    *("smooth", "smooth_all_linears", "smooth_step", "ptq_step"),
    *("skip_list_names", "per_device_train_batch_size", "max_length", "seed"),
)
_WORST = 5


def quantize(config: Config, folder: Path, output: Path) -> dict[str, Any]:
    """Quantize a model into a folder, which is replaced atomically, and return the report.

    Args:
        config: of the job.
        folder: the model's.
        output: the destination.

    Raises:
        RequestError: the model or the data is invalid.
        MachineError: there is too little disk space or memory.
    """
    method = Method.of(config)
    clock = _Clock()
    with clock.timed("load"):
        phase("load the model")
        room.check(output.parent, llama_config(models.read_config(folder)), method)
        before: Any = models.load(folder)
        assert isinstance(before, Model)
        source = Weights(folder)
    with clock.timed("text"):
        phase("read the text")
        tokenizer_name = config["tokenizer_name_or_path"]
        tokens = tokenizer.load(workspace.find_model(tokenizer_name) if tokenizer_name else folder)
        texts = text.read(config, tokens, models.context_length(folder))
        for purpose, rows in (("calibrate on", texts.calibration), ("measure on", texts.held_out)):
            if rows:
                note(f"to {purpose}: {len(rows.rows)} rows, {rows.tokens} tokens, of {rows.source}")
    with clock.timed("measure_before"):
        phase("evaluate the model")
        right = evaluate("float32", before, texts.held_out)
    with clock.timed("calibrate"):
        phase("calibrate")
        names = paddle_weight_shapes(before.config)
        weights = {name: np.ascontiguousarray(source[name]) for name in names}
        calibration = Calibration(
            before.config, before.rotation, weights, config, texts.calibration
        )
        calibration.prepare()
        scales = calibration.scales()
        chosen = writing.projections(before.config, method)
        by_name = writing.weight_scales(calibration.weights, chosen)
        row = texts.held_out.rows[0]
        products = errors_of_products(calibration, method, scales, by_name, row)
    llama = before.config
    with replacing_folder(output) as part:
        with clock.timed("write"):
            phase("write the model")
            group = llama.num_attention_heads // llama.num_key_value_heads
            written = writing.write(
                part, source, calibration.weights, by_name, scales, method, group
            )
        del calibration, weights
        with clock.timed("measure_after"):
            phase("evaluate the quantized model")
            quantized: Any = models.load(part)
            after = evaluate(method.quant_type, quantized, texts.held_out)
        report: dict[str, Any] = {
            "format": FORMAT,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": {"folder": str(folder), "weights_sha256": fingerprint(folder)},
            "method": {**{key: config[key] for key in _KEYS}, "quant_type": method.quant_type},
            "calibration": texts.calibration and texts.calibration.described(),
            "held_out": texts.held_out.described(),
            "perplexity": {
                "before": right.perplexity,
                "after": after.perplexity,
                "ratio": after.perplexity / right.perplexity,
            },
            "agreement": agreement(right, after),
            "bytes": {"before": _bytes_of_weights(folder), "after": written},
            "products": products,
            "versions": {
                "paddle_stacks": paddle_stacks.__version__,
                "paddlepaddle": version("paddlepaddle"),
                "paddlenlp": version("paddlenlp"),
            },
            "seconds": clock.seconds,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        _write_report(part / REPORT, report)
    for line in table(report):
        note(line)
    return report


def table(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table with the main results."""
    sizes, perplexity, same = report["bytes"], report["perplexity"], report["agreement"]
    greedy = same["greedy"]
    rows = [
        ("", "before", "after"),
        ("perplexity", f"{perplexity['before']:.3f}", f"{perplexity['after']:.3f}"),
        ("weights, MiB", f"{sizes['before'] / 2**20:.0f}", f"{sizes['after'] / 2**20:.0f}"),
        ("same next token", "", f"{same['same_next_token']:.1%}"),
        ("same greedy text", "", f"{greedy['whole']} of {greedy['prompts']}"),
    ]
    lines = [f"{name:<18}{before:>10}{after:>10}" for name, before, after in rows]
    worst = sorted(report["products"], key=lambda each: -each["relative_error"])[:_WORST]
    lines += ["products with the largest relative error:"] if worst else []
    for each in worst:
        errors = f"{each['relative_error']:.4f}, largest {each['largest_error']:.3g}"
        lines.append(f"  {each['name']:<40} {errors}")
    return lines


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start_time = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start_time, 2)


def _bytes_of_weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_report(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
