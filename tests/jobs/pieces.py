"""A GGUF file with a sentencepiece vocabulary: ``python pieces.py make`` and ``… compare``.

``make`` trains a sentencepiece model and writes it into a GGUF file as llama.cpp does;
``compare`` prints the ids that the model and the fetched tokenizer give, as JSON.
"""

from __future__ import annotations

import json
import sys

import sentencepiece

TEXTS = [
    "The quick brown fox",
    "  two  spaces ",
    "12345 67",
    "unseen: 你好 😀 é",
    "line\nbreak\ttab",
    "",
    "a",
]
SENTENCES = [
    f"the quick brown fox number {n} jumps over {n * 7} lazy dogs and {word} cats"
    for n, word in enumerate(["red", "green", "blue", "black", "white"] * 40)
]


def make() -> None:
    import gguf
    import numpy as np

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix="pieces",
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file="pieces.model")
    size = model.get_piece_size()
    kinds = [
        2 if model.is_unknown(n) else 3 if model.is_control(n) else 6 if model.is_byte(n) else 1
        for n in range(size)
    ]
    writer = gguf.GGUFWriter("pieces.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(n) for n in range(size)])
    writer.add_token_scores([model.get_score(n) for n in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    shapes = {"token_embd": (size, 8), "output_norm": (8,), "output": (size, 8)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{name}"] = (8, 8)
    shapes |= {"blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare() -> None:
    from paddlenlp.transformers import AutoTokenizer

    model = sentencepiece.SentencePieceProcessor(model_file="pieces.model")
    tokenizer = AutoTokenizer.from_pretrained("models/pieces")
    wanted = [[1, *model.encode(text)] for text in TEXTS]
    found = [tokenizer(text)["input_ids"] for text in TEXTS]
    print(json.dumps({"wanted": wanted, "found": found, "kind": type(tokenizer).__name__}))


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]]()
