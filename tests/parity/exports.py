"""Answer prompts with exported models in the tools that they are for: exports.py FILE

FILE is JSON: ``prompts``, ``new_tokens``, and the exports ``huggingface``, ``base``, ``peft`` and
``gguf``. Standard output gets JSON: greedy tokens, or texts of llama.cpp, by export.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder: str) -> tuple[Any, Any]:
    """Return a model, all of whose weights are in the folder, and its tokenizer."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, torch_dtype=torch.float32
    )
    assert not any(report.values()), report
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def tokens(model: Any, tokenizer: Any, prompts: list[str], count: int) -> list[list[int]]:
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = model.generate(input_ids=ids, max_new_tokens=count, do_sample=False)
        answers.append(output[0, ids.shape[1] :].tolist())
    return answers


def texts(path: str, prompts: list[str], count: int) -> list[str]:
    """Return the answers of llama.cpp."""
    options = xllamacpp.CommonParams()
    options.model.path = path
    options.n_ctx = 512
    options.verbosity = -1
    server = xllamacpp.Server(options)
    answers = [
        server.handle_completions({"prompt": prompt, "temperature": 0, "max_tokens": count})
        for prompt in prompts
    ]
    return [answer["choices"][0]["text"] for answer in answers]


def main(request: dict[str, Any]) -> dict[str, Any]:
    prompts, count = request["prompts"], request["new_tokens"]
    merged = tokens(*load(request["huggingface"]), prompts, count)
    base, tokenizer = load(request["base"])
    adapted = tokens(PeftModel.from_pretrained(base, request["peft"]), tokenizer, prompts, count)
    gguf = texts(request["gguf"], prompts, count)
    return {"huggingface": merged, "peft": adapted, "gguf": gguf}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
