"""Make tiny random Llamas and their tokenizers in seconds: ``python tiny.py FOLDER KIND …``.

A KIND is a tokenizer, and the name of the model's folder in FOLDER:
``sentencepiece`` (1,000 pieces trained on the spot, with a chat template in
PaddleNLP's format), ``plain`` (the same without a template), ``deep`` (as plain, with
eight layers), ``bytes`` (Qwen2's class, byte level), ``merged`` (the same with merges that
were trained on the spot) or ``fast`` (a ``tokenizer.json`` with a jinja template);
``qwen2`` is no Llama, with the tokenizer of ``bytes``. It runs where PaddleNLP is: in the
images.
"""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

SYLLABLES = ["ka", "lo", "mi", "tu", "ne", "sa", "ro", "vi", "be", "do", "fa", "gu", "hi", "jo"]
CHAT = {
    "system": "",
    "conversation": ["<s>user: {{user}}\nbot:", " {{bot}}</s>"],
    "query": "<s>user: {{query}}\nbot:",
}
JINJA = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)


def make(folder: Path, kind: str) -> None:
    import paddle
    from paddlenlp import transformers

    folder.mkdir(parents=True)
    tokenizers = {"bytes": _bytes, "qwen2": _bytes, "merged": _merged, "fast": _fast}
    tokenizers.get(kind, _pieces)(folder)
    if kind == "sentencepiece":
        (folder / "chat_template.json").write_text(json.dumps(CHAT))
    paddle.seed(1)
    family = "Qwen2" if kind == "qwen2" else "Llama"
    config = getattr(transformers, family + "Config")(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=8 if kind == "deep" else 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="float32",
    )
    model = getattr(transformers, family + "ForCausalLM")(config)
    model.save_pretrained(str(folder), safe_serialization=True)


def _sentences() -> list[str]:
    pick = random.Random(1)
    word = lambda: "".join(pick.choices(SYLLABLES, k=pick.randint(1, 4)))  # noqa: E731
    return [" ".join(word() for _ in range(8)) for _ in range(4000)]


def _pieces(folder: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*_sentences(), "user: bot: assistant: 0 1 2 3 4 5 6 7 8 9 ?"]),
        model_writer=model,
        vocab_size=1000,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    _config(folder, tokenizer_class="LlamaTokenizer", add_bos_token=True)


def _bytes(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(_byte_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "chat_template.json").write_text(json.dumps(CHAT))
    _config(
        folder, tokenizer_class="Qwen2Tokenizer", additional_special_tokens=["<pad>", "<s>", "</s>"]
    )


def _merged(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    # The words of the tests, and those of a text that somebody has written.
    tokenizer.train_from_iterator(
        [*_sentences()[:500], *[Path(__file__).read_text()] * 20], trainer
    )
    tokenizer.model.save(str(folder))
    _config(folder, tokenizer_class="Qwen2Tokenizer", additional_special_tokens=special)


def _fast(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=_byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<pad>", "<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    _config(
        folder,
        tokenizer_class="PretrainedTokenizerFast",
        chat_template=JINJA,
        model_input_names=["input_ids", "attention_mask"],
    )


def _byte_vocabulary() -> dict[str, int]:
    """Every byte as GPT-2 spells it, after the special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelt = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    return {piece: index for index, piece in enumerate(["<pad>", "<s>", "</s>", *spelt])}


def _config(folder: Path, **entries: object) -> None:
    common = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>", "pad_token": "<pad>"}
    if entries["tokenizer_class"] == "LlamaTokenizer":
        common |= {"unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(common | entries))


if __name__ == "__main__":
    for name in sys.argv[2:]:
        make(Path(sys.argv[1], name), name)
