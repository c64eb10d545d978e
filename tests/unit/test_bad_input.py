"""Wrong requests, one a row: each has its exit status and the words that tell of it.

The container's programs check a request before they import Paddle, so these run here, on the
host, as `python -m entrypoints …` in a workspace of their own. Needs no engine.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARE = {"models/m/config.json": '{"model_type": "llama"}'}
MODEL = {**BARE, "models/m/model.safetensors": ""}
GOOD = '{"src": "a question", "tgt": "an answer"}\n'
DATA = {"data/d/train.json": GOOD, "data/d/dev.json": GOOD}
CONFIG = {
    "model_name_or_path": "m",
    "dataset_name_or_path": "data/d",
    "lora": True,
    "device": "cpu",
}


def _config(**changes):
    return {**MODEL, **DATA, "c.json": json.dumps({**CONFIG, "max_steps": 1, **changes}, indent=1)}


def _raw(content):
    return {**MODEL, **DATA, "c.json": content}


def _train(content):
    return {**_config(), "data/d/train.json": content}


TUNE = "finetune --config c.json"
ASK = "infer --model m"
ROWS = [
    # name, files, command line, status, words
    ("unknown job", {}, "finetun", 2, ["finetun", "did you mean", "finetune"]),
    ("unknown option", {}, "finetune --confg c.json", 2, ["--confg", "--config"]),
    ("no config", {}, "finetune", 2, ["--config"]),
    ("config missing", {}, TUNE, 2, ["c.json"]),
    ("config is a folder", {"c.json/x": ""}, TUNE, 2, ["c.json"]),
    ("config empty", _raw(""), TUNE, 2, ["c.json"]),
    ("config broken", _raw('{"a": 1,\n "b" 2}'), TUNE, 2, ["c.json:2"]),
    ("config cut off", _raw('{"learning_rate": 1e-4'), TUNE, 2, ["c.json:1"]),
    ("config a list", _raw("[]"), TUNE, 2, ["c.json", "object"]),
    ("config not UTF-8", _raw(b'{"a": "\xff"}'), TUNE, 2, ["c.json", "UTF-8"]),
    ("config null bytes", _raw('{"a": "\0"}'), TUNE, 2, ["c.json"]),
    ("config huge", _raw('{"a": "' + "x" * 10_000_000 + '"}'), TUNE, 2, ["c.json"]),
    ("key twice", _raw('{"seed": 1,\n"seed": 2}'), TUNE, 2, ["seed", "c.json:2"]),
    ("key misspelt", _config(learning_rat=1), TUNE, 2, ["learning_rat", "learning_rate"]),
    ("key renamed", _config(eval_step=10), TUNE, 2, ["eval_step", "eval_steps"]),
    ("key that was an alias", _config(intokens=True), TUNE, 2, ["intokens", "zero_padding"]),
    ("number as text", _config(learning_rate="1e-4"), TUNE, 2, ["learning_rate"]),
    ("bool for int", _config(max_steps=True), TUNE, 2, ["max_steps"]),
    ("negative rate", _config(learning_rate=-1), TUNE, 2, ["learning_rate"]),
    ("zero batch", _config(per_device_train_batch_size=0), TUNE, 2, ["batch_size"]),
    ("fp16 on cpu", _config(fp16=True), TUNE, 2, ["fp16"]),
    ("bf16 O2 on cpu", _config(bf16=True, fp16_opt_level="O2"), TUNE, 2, ["bf16"]),
    ("flash attention", _config(use_flash_attention=True), TUNE, 2, ["use_flash_attention"]),
    ("device gpu", _config(device="gpu"), TUNE, 2, ["device", "cpu"]),
    ("set without value", _config(), TUNE + " --set seed", 2, ["seed"]),
    ("set unknown", _config(), TUNE + " --set sed=1", 2, ["sed", "seed"]),
    ("several faults", _config(a_key=1, b_key=2), TUNE, 2, ["a_key", "b_key"]),
    ("model missing", {**DATA, "c.json": _config()["c.json"]}, TUNE, 2, ["m", "fetch"]),
    ("data missing", _config(dataset_name_or_path="data/x"), TUNE, 2, ["data/x"]),
    ("data empty", _train(""), TUNE, 2, ["train.json"]),
    ("data not JSON", _train(GOOD + "oops\n"), TUNE, 2, ["train.json:2"]),
    ("data a list", _train('["a"]\n'), TUNE, 2, ["train.json:1"]),
    ("no tgt", _train('{"src": "a"}\n'), TUNE, 2, ["train.json:1", "tgt"]),
    ("tgt a number", _train('{"src": "a", "tgt": 1}\n'), TUNE, 2, ["train.json:1", "tgt"]),
    ("turns differ", _train('{"src": ["a", "b"], "tgt": ["c"]}\n'), TUNE, 2, ["train.json:1"]),
    ("data null bytes", _train('{"src": "a\0", "tgt": "b"}\n'), TUNE, 2, ["train.json:1"]),
    ("data not UTF-8", _train(b'{"src": "\xff", "tgt": "b"}\n'), TUNE, 2, ["json:1", "UTF-8"]),
    ("a 10 MB line", _train('{"src": "' + "x" * 10_000_000 + '"}\n'), TUNE, 2, ["train.json:1"]),
    ("25 bad lines", _train("oops\n" * 25), TUNE, 2, ["train.json:1 and 24 more places"]),
    ("no model", {}, "infer --prompt hi", 2, ["--model"]),
    ("unknown model", MODEL, "infer --model n --prompt hi", 2, ["n", "fetch"]),
    ("not a model", {"models/m/x": ""}, ASK + " --prompt hi", 2, ["config.json"]),
    ("no weights", BARE, ASK + " --prompt hi", 2, ["pretrain it first"]),
    ("no weights to tune", {**DATA, **BARE, "c.json": _config()["c.json"]}, TUNE, 2, ["weights"]),
    ("no question", MODEL, ASK, 2, ["--prompt"]),
    ("two questions", MODEL, ASK + " --prompt a --chat", 2, ["--prompt"]),
    ("negative tokens", MODEL, ASK + " --prompt a --max-new-tokens -1", 2, ["--max-new-tokens"]),
    ("top-p of 2", MODEL, ASK + " --prompt a --top-p 2", 2, ["--top-p"]),
    ("unknown decode", MODEL, ASK + " --prompt a --decode beam", 2, ["--decode"]),
    ("input empty", {**MODEL, "i": ""}, ASK + " --input i --output o", 2, ["no prompts"]),
    ("input missing", MODEL, ASK + " --input i --output o", 2, ["i"]),
    ("prompt missing", {**MODEL, "i": '{"id": 1}\n'}, ASK + " --input i --output o", 2, ["i:1"]),
    ("unknown role", {**MODEL, "i": '{"id": 1, "messages": [{"role": "x", "content": "y"}]}\n'},
     ASK + " --input i --output o", 2, ["i:1", "role"]),
    ("fetch unknown", {}, "fetch smollm", 2, ["smollm", "smollm2-135m-instruct"]),
    ("fetch no GGUF", {"x.gguf": "nothing"}, "fetch n --from gguf:x.gguf", 2, ["x.gguf"]),
    ("fetch cut GGUF", {"x.gguf": b"GGUF\3\0\0\0"}, "fetch n --from x.gguf", 2, ["x.gguf"]),
    ("fetch odd source", {}, "fetch n --from ftp:x", 2, ["ftp:x"]),
    ("merge of nothing", MODEL, "export --model m --adapter x --merge --output models/o", 2, ["x"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "line", "status", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_bad_input(tmp_path, files, line, status, words):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = _named(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints", *line.split()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert re.search("^error: ", done.stderr, re.MULTILINE), done.stderr[:2000]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr[:2000]
    assert len(done.stderr) < 20_000
    assert _named(tmp_path) == before, "something was left behind"


def _named(folder):
    """What stands under a final name: locks and parts begin with a dot."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(p.startswith(".") for p in path.parts))


def test_the_table_is_long_enough():
    assert len(ROWS) >= 40
