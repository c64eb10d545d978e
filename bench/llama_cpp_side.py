"""llama.cpp in bench/infer.py: the same weights and prompts, through its own server.

``python llama_cpp_side.py convert GGUF FOLDER`` writes ``f32.gguf``, ``bf16.gguf`` and
``q8_0.gguf`` with the weights that GGUF stands for.
``python llama_cpp_side.py MODEL BATCH SOURCE OUTPUT ROUNDS`` prints what ``infer --benchmark``
measures. The times are llama.cpp's own: of the prompt, and of a token after the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp

VOCABULARY = 49152  # of SmolLM2
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def convert(source: Path, folder: Path) -> None:
    """Write a model in every type that is measured; vectors stay float32, as llama.cpp's own."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)
    for name, kind in TYPES.items():
        partial = folder / f"{name}.part"
        writer = gguf.GGUFWriter(partial, "llama")
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name in (
                *("general.architecture", "general.file_type", "general.quantization_version"),
            ):
                continue
            types = field.types
            element = types[-1] if types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), types[0], sub_type=element)
        for tensor in reader.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            raw = values if values.ndim == 1 else gguf.quantize(values, kind)
            raw_type = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else kind
            writer.add_tensor(tensor.name, raw, raw_dtype=raw_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.rename(folder / f"{name}.gguf")


def measure(model: str, batch: int, source: int, output: int, rounds: int) -> dict[str, Any]:
    """Do as ``entrypoints/inference/benchmark.py``, with a request for each text of a batch."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = batch
    params.n_ctx = batch * (source + output + 64)
    params.n_batch = max(2048, batch * source)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    size = (batch, source)
    prompts = np.random.default_rng(0).integers(VOCABULARY, size=size).tolist()
    request = {"max_tokens": output, "temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def complete(prompt: list[int], **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = server.handle_completions({**request, "prompt": prompt, **more})
        return answer

    first, steps = [], []
    with ThreadPoolExecutor(batch) as pool:
        # The round that is not counted tells the tokens, which takes longer.
        answers = list(pool.map(lambda prompt: complete(prompt, logprobs=1), prompts))
        rows = [
            [token["id"] for token in answer["choices"][0]["logprobs"]["content"]]
            for answer in answers
        ]
        for _ in range(rounds):
            timings = [answer["timings"] for answer in pool.map(complete, prompts)]
            # Texts of a batch wait for each other: the slowest prompt is the batch's.
            first.append(max(each["prompt_ms"] for each in timings) / 1000)
            # The first token comes with the prompt.
            steps += [each["predicted_ms"] / (each["predicted_n"] - 1) / 1000 for each in timings]
    digest = hashlib.sha256(json.dumps(list(zip(*rows, strict=True))).encode()).hexdigest()
    return {"first": first, "steps": steps, "tokens_sha256": digest}


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:6]))))
