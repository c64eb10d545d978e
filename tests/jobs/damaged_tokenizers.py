"""Damage a model's tokenizer again and again, and load it: ``damaged_tokenizers.py MODEL CASES``.

It runs in the image. A damaged tokenizer works, or is refused with what to do; any other end
ends this program too. The same cases come each time.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from entrypoints.models.tokenizer import load
from entrypoints.runtime.logging import libraries_log_to
from paddle_stacks.errors import RequestError

WORK = Path("/tmp/damaged")
PARTS = ("token", "vocab", "merges", "chat", ".model")
VALUES: list[Any] = [None, True, 0, -1, 2**31, 2**63, 1e308, "", "x", "\ud800", "\0", [], {}]
VALUES += [[[]], "a" * 100_000, {"type": "BPE"}, float("nan")]
TEXTS = ("ka lo mi tu", "你好 <s> \n")


def damage(path: Path, chance: random.Random) -> None:
    """Change a file: a value of a JSON, or bytes of any."""
    content = path.read_bytes()
    if path.suffix == ".json" and chance.random() < 0.75:
        document = json.loads(content)
        for _ in range(chance.randint(1, 3)):
            _damage_value(document, chance)
        path.write_text(json.dumps(document))
        return
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.choice(("flip", "cut", "add"))
        if kind == "flip" and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del changed[at : at + chance.randint(1, 200)]
        else:
            changed[at:at] = chance.randbytes(chance.randint(1, 20))
    end = chance.randrange(len(changed) + 1) if chance.random() < 0.2 else len(changed)
    path.write_bytes(changed[:end])


def _damage_value(document: Any, chance: random.Random) -> None:
    node = document
    while isinstance(node, (dict, list)) and node:
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        deeper = isinstance(node[key], (dict, list)) and node[key]
        if deeper and chance.random() < 0.65:
            node = node[key]
            continue
        if isinstance(node, dict) and chance.random() < 0.25:
            del node[key]
        else:
            node[key] = json.loads(json.dumps(chance.choice(VALUES)))
        return


def main(model: Path, cases: int) -> int:
    """Load so many damaged copies of a model; say how often each end came."""
    libraries_log_to(None)
    names = sorted(p.name for p in model.iterdir() if any(part in p.name for part in PARTS))
    worked = refused = 0
    for case in range(cases):
        chance = random.Random(f"{model.name} {case}")
        shutil.rmtree(WORK, ignore_errors=True)
        shutil.copytree(model, WORK)
        for name in chance.sample(names, chance.randint(1, min(2, len(names)))):
            damage(WORK / name, chance)
        print(f"case {case}", file=sys.stderr, flush=True)  # the last, if a library ends it all
        try:
            tokenizer = load(WORK)
            for text in TEXTS:
                tokenizer.decode(tokenizer(text)["input_ids"])
            worked += 1
        except RequestError as error:
            assert all(problem.remedy for problem in error.problems), error
            refused += 1
    print(json.dumps({"worked": worked, "refused": refused}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
