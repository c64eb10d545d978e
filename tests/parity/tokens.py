"""Ask transformers and PEFT for the answers of the models in ``hugging_face_cases``.

Run from the repository's root when a case is added, with an interpreter that has
transformers 5.24, PEFT 0.21, torch and gguf: ``python -m tests.parity.tokens``. It writes
``tests/parity/tokens.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import hugging_face_cases as cases
from tests.support import hugging_face_files


def answers(folder: Path, adapter: Path | None = None) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    made: dict[str, Any] = {"raw": [], "chat": []}
    for prompt in cases.PROMPTS:
        message = [{"role": "user", "content": prompt}]
        chat = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        for kind, ids in (("raw", tokenizer(prompt)["input_ids"]), ("chat", chat)):
            with torch.no_grad():
                (row,) = model.generate(
                    input_ids=torch.tensor([ids]),
                    do_sample=False,
                    max_new_tokens=cases.NEW_TOKENS,
                )
            made[kind].append(row[len(ids) :].tolist())
    return made


def main() -> None:
    body: dict[str, Any] = {"models": {}, "adapters": {}}
    with TemporaryDirectory() as place:
        for name in cases.MODELS:
            cases.write_model(Path(place, name), name)
            body["models"][name] = answers(Path(place, name))
        for name, options in cases.ADAPTERS.items():
            adapter = Path(place, "adapters", name)
            hugging_face_files.write_adapter(adapter, **options)
            body["adapters"][name] = answers(Path(place, "plain"), adapter)
    lines = [
        f' "{kind}": {{\n'
        + ",\n".join(f'  "{name}": {json.dumps(each)}' for name, each in parts.items())
        + "\n }"
        for kind, parts in body.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    Path(__file__).with_name("tokens.json").write_text(text)


if __name__ == "__main__":
    main()
