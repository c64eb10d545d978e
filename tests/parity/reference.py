"""What Hugging Face transformers makes of a GGUF file: ids, chats, greedy tokens, logits.

``python reference.py MODEL.gguf PROMPTS.json OUTPUT.npz``, in the environment of
requirements.txt. It reads nothing that this project wrote. transformers' own
conversion of a GGUF tokenizer does not split digits, so ids come from the rules of
llama.cpp, carried out here step by step.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: one after the other.
RULES = (r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
CONTROL = 3


class Tokenizer:
    """Byte-level BPE as it is defined: merge the best pair until none is left."""

    def __init__(self, fields: dict[str, Any]) -> None:
        tokens = fields["tokenizer.ggml.tokens"]
        types = fields["tokenizer.ggml.token_type"]
        merges = fields["tokenizer.ggml.merges"]
        self.ids = {token: number for number, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
        self.special = regex.compile("|".join(map(regex.escape, sorted(special, reverse=True))))
        self.bytes = bytes_to_unicode()

    def encode(self, text: str) -> list[int]:
        ids, end = [], 0
        for found in self.special.finditer(text):
            ids += self._plain(text[end : found.start()])
            ids.append(self.ids[found[0]])
            end = found.end()
        return ids + self._plain(text[end:])

    def _plain(self, text: str) -> list[int]:
        pieces = [text]
        for rule in RULES:
            pieces = [part for piece in pieces for part in _split(rule, piece)]
        return [self.ids[token] for piece in pieces for token in self._merged(piece)]

    def _merged(self, piece: str) -> list[str]:
        word = [self.bytes[byte] for byte in piece.encode()]
        while len(word) > 1:
            pairs = list(itertools.pairwise(word))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            at = pairs.index(best)
            word[at : at + 2] = ["".join(best)]
        return word


def _split(rule: str, text: str) -> list[str]:
    parts, end = [], 0
    for found in regex.finditer(rule, text):
        parts += [text[end : found.start()], found[0]]
        end = found.end()
    return [part for part in (*parts, text[end:]) if part]


def main(source: Path, prompts_file: Path, output: Path) -> None:
    reader = GGUFReader(source)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    tokenizer = Tokenizer(fields)
    prompts = json.loads(prompts_file.read_text(encoding="utf-8"))
    renderer = PreTrainedTokenizerFast(tokenizer_object=_empty_tokenizer())
    renderer.chat_template = fields["tokenizer.chat_template"]

    def rendered(chat: list[dict[str, str]]) -> str:
        return renderer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    chats = [[{"role": "user", "content": prompt}] for prompt in prompts["generate"]]
    inputs = [tokenizer.encode(rendered(chat)) for chat in chats]
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, torch_dtype=torch.float32
    ).eval()
    if not any(tensor.name == "output.weight" for tensor in reader.tensors):
        # transformers 4.46 leaves the head of a GGUF file with tied embeddings random.
        model.config.tie_word_embeddings = True
        model.tie_weights()
    greedy, arrays = [], {}
    with torch.no_grad():
        for number, ids in enumerate(inputs):
            tensor = torch.tensor([ids])
            arrays[f"logits{number}"] = model(tensor).logits[0].numpy()
            made = model.generate(
                tensor,
                attention_mask=torch.ones_like(tensor),
                do_sample=False,
                max_new_tokens=prompts["new_tokens"],
                eos_token_id=fields["tokenizer.ggml.eos_token_id"],
                pad_token_id=fields["tokenizer.ggml.padding_token_id"],
            )
            greedy.append(made[0, len(ids) :].tolist())
    facts = {
        "inputs": inputs,
        "greedy": greedy,
        "ids": [tokenizer.encode(text) for text in prompts["tokenize"]],
        "chats": [rendered(chat) for chat in prompts["chats"]],
    }
    np.savez(output, facts=json.dumps(facts), **arrays)


def _empty_tokenizer() -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    return Backend(BPE())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
