"""Create a random Llama and its tokenizer in an image: ``python random_llama.py NAME CONFIG``.

``tiny.py`` of the tests, in the same folder, creates the tokenizer. CONFIG is the model's
``config.json``; the weights are random float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tiny
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM


def main(name: str, text: str) -> None:
    """Make ``models/NAME``."""
    folder = Path("models", name)
    tiny.make(folder, "sentencepiece")
    config = LlamaConfig(
        **json.loads(text), bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype="float32"
    )
    LlamaForCausalLM(config).save_pretrained(str(folder), safe_serialization=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
