"""Write a pair with PaddleNLP's own builder: ``python upstream_pair.py MODEL IN OUT``.

One document at a time, as upstream's create_pretraining_data.py does with --append_eos; it
runs where PaddleNLP is. With ``--read PREFIX`` it reads a pair with PaddleNLP's data set.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path

import numpy as np
from paddlenlp.data import indexed_dataset


def write(model: str, source: str, prefix: str) -> None:
    from paddlenlp.transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    dtype = np.uint16 if tokenizer.vocab_size < 2**16 - 1 else np.int32
    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", dtype)
    with Path(source).open(encoding="utf-8") as stream:
        for line in stream:
            text = re.sub(r"(.)\1{100,}", r"\1", json.loads(line)["text"]).strip()
            ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
            if ids:
                builder.add_item([*ids, tokenizer.eos_token_id])
                builder.end_document()
    builder.finalize(f"{prefix}.idx")


def read(prefix: str) -> None:
    from paddlenlp.data import causal_dataset

    with contextlib.redirect_stdout(sys.stderr):
        train, dev, test = causal_dataset.build_train_valid_test_datasets(
            [prefix], "mmap", "8,1,1", [64, 8, 8], 32, 1, True, data_cache_path="cache"
        )
        whole = indexed_dataset.make_dataset(prefix, "mmap", skip_warmup=True)
        rows = [len(part[0]["text"]) for part in (train, dev, test)]
    print(json.dumps({"documents": len(whole), "tokens": int(whole.sizes.sum()), "rows": rows}))


if __name__ == "__main__":
    read(sys.argv[2]) if sys.argv[1] == "--read" else write(*sys.argv[1:4])
