"""What PaddleNLP makes of a fetched model, in the same form as reference.py.

``python candidate.py FOLDER PROMPTS.json OUTPUT.npz``, in an image.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, prompts_file: Path, output: Path) -> None:
    prompts = json.loads(prompts_file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts["generate"]]
    inputs = [tokenizer.apply_chat_template(chat)["input_ids"] for chat in chats]
    model = AutoModelForCausalLM.from_pretrained(folder, low_cpu_mem_usage=True)
    model.eval()
    greedy, arrays = [], {}
    with paddle.no_grad():
        for number, ids in enumerate(inputs):
            tensor = paddle.to_tensor([ids])
            mask = paddle.ones_like(tensor)
            answer = model(tensor, attention_mask=mask)
            logits = answer[0] if isinstance(answer, tuple) else answer
            arrays[f"logits{number}"] = logits[0].numpy()
            made, _ = model.generate(
                tensor,
                attention_mask=mask,
                decode_strategy="greedy_search",
                max_new_tokens=prompts["new_tokens"],
                eos_token_id=model.config.eos_token_id,
                pad_token_id=model.config.pad_token_id,
            )
            greedy.append(made[0].tolist())
    facts = {
        "inputs": inputs,
        "greedy": greedy,
        "ids": [tokenizer(text)["input_ids"] for text in prompts["tokenize"]],
        "decoded": [
            tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False)
            for text in prompts["tokenize"]
        ],
        "chats": [tokenizer.apply_chat_template(c, tokenize=False) for c in prompts["chats"]],
        "parameters": sum(weight.size for weight in model.parameters()),
    }
    facts["parameters"] = int(facts["parameters"])
    np.savez(output, facts=json.dumps(facts), **arrays)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
