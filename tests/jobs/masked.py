"""Show what is learned of a conversation of two turns: ``python masked.py MODEL``."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

from entrypoints.models.tokenizer import load_tokenizer
from entrypoints.training.data import IGNORED, Encoder
from paddle_stacks.jobs.records import Record

tokenizer = load_tokenizer(Path(sys.argv[1]))
record = Record("here:1", ("ka lo", "lo ne"), ("mi tu", "ka"))
example, cut = Encoder(tokenizer, 96, 128).encode(record)
_, cut_short = Encoder(tokenizer, 8, 30).encode(record)
labels = [
    tokenizer.decode(list(run), skip_special_tokens=False)
    for learned, run in groupby(example.labels, key=lambda label: label != IGNORED)
    if learned
]
# A label is the next token: where there is one, the token before it was read.
for place, label in enumerate(example.labels[:-1]):
    assert label in (IGNORED, example.input_ids[place + 1])
text = tokenizer.decode(list(example.input_ids), skip_special_tokens=False)
print(json.dumps({"labels": labels, "text": text, "cut": [cut, cut_short]}))
