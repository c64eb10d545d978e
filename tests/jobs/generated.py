"""What PaddleNLP's own ``generate()`` answers: ``python generated.py MODEL PROMPTS TOKENS``.

PROMPTS is a file for ``infer``; prints a JSON object with the tokens by id.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paddle
from paddlenlp.transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, prompts: Path, count: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.eval()
    found = {}
    for line in prompts.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        ids = tokenizer.apply_chat_template(entry["prompt"])["input_ids"]
        made, _ = model.generate(
            paddle.to_tensor([ids]),
            attention_mask=paddle.ones([1, len(ids)], dtype="int64"),
            decode_strategy="greedy_search",
            max_new_tokens=count,
            eos_token_id=model.config.eos_token_id,
            pad_token_id=model.config.pad_token_id,
        )
        tokens = made[0].tolist()
        end = model.config.eos_token_id
        found[entry["id"]] = tokens[: tokens.index(end)] if end in tokens else tokens
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
