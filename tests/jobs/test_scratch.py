"""A model to begin from scratch, and the text that every image has, in real containers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from paddle_stacks import launch
from paddle_stacks.jobs import corpus
from paddle_stacks.settings import Settings

REPOSITORY = Path(__file__).parents[2]

ROW = """
source = "scratch:data/raw"
[architecture]
vocab_size = 400
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 64
"""
TEXT = "def ka(lo):\n    if mi:\n        return tu + '水'\n\n"
LOADED = """
import json
from paddlenlp.transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
tokenizer = AutoTokenizer.from_pretrained("models/{name}")
text = "def f(x):\\n        return 123 # 水\\n"
ids = tokenizer(text)["input_ids"]
config = LlamaConfig.from_pretrained("models/{name}")
model = LlamaForCausalLM.from_config(config)
print(json.dumps({{
    "round trip": tokenizer.decode(ids) == text,
    "pieces": tokenizer.convert_ids_to_tokens(ids),
    "vocabulary": tokenizer.vocab_size,
    "parameters": sum(weight.size for weight in model.parameters()),
}}))
"""


def sums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "paddle-stacks.json"  # it has the time
    }


def test_the_small_model_and_its_text(job, tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = job(["fetch", "llama-nano", "--output", f"models/{name}"], tmp_path)
        assert (made.status, made.stdout) == (0, f"models/{name}\n"), made.stderr
        assert "has no weights yet: pretrain it" in made.stderr
    assert sums(tmp_path / "models" / "a") == sums(tmp_path / "models" / "b")
    kept = job(["fetch", "llama-nano", "--output", "models/a"], tmp_path)
    assert kept.status == 0 and "already exists, complete" in kept.stderr

    loaded = job(["python", "-c", LOADED.format(name="a")], tmp_path)
    assert loaded.status == 0, loaded.stderr
    found = json.loads(loaded.stdout.splitlines()[-1])
    assert found["round trip"] and found["vocabulary"] == 4096
    assert found["parameters"] == 5_261_568, "what the row counts"
    assert {"▁def", "▁▁▁▁▁▁▁▁", "return", "1", "2", "3", "<0x0A>"} <= set(found["pieces"])

    line = ["prepare", "--input", "text:python-stdlib", "--model", "a", "--append-eos"]
    for output in (["--output", "data/one", "--workers", "1"], ["--output", "data/two"]):
        done = job([*line, *output], tmp_path)
        assert done.status == 0, done.stderr
    one, two = (corpus.look(tmp_path / "data" / name) for name in ("one", "two"))
    assert one.documents == two.documents > 300 and one.tokens > 1_500_000
    for path in (corpus.tokens_path, corpus.index_path):
        assert path(one.prefix).read_bytes() == path(two.prefix).read_bytes()
    manifest = json.loads(corpus.manifest_path(one.prefix).read_text())
    assert manifest["bad"]["by_reason"] == {}
    modules = [entry for entry in manifest["inputs"] if entry["bytes"]]
    assert len(modules) == one.documents, "a module is a document"


def test_the_recipe_from_a_text_to_an_answer(job, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "configs" / "jobs", tmp_path / "configs" / "jobs")
    few = ("max_steps=6", "logging_steps=1", "eval_steps=6", "save_steps=6", "eval_iters=1")
    steps = launch.make_steps(
        "pretrain",
        (),
        Settings(root=REPOSITORY, workspace=tmp_path),
        launch.Choices(recipe="pretrain-demo", changes=few),
    )
    for plan in (*(step.plan for step in steps.before), steps.plan):
        done = job(plan.argv, tmp_path)
        assert done.status == 0, done.stderr
    result = json.loads((tmp_path / "runs" / "pretrain-demo" / "result.json").read_text())
    assert result["tokens"] == 6 * 8 * 256
    assert result["last_loss"] < result["first_loss"] < 9, "8.3 is what guessing costs"
    line = ["infer", "--model", "runs/pretrain-demo", "--raw", "--prompt", "def f("]
    answered = job([*line, "--max-new-tokens", "4"], tmp_path)
    assert answered.status == 0, answered.stderr


def test_what_has_no_weights_answers_nothing(job, tmp_path: Path) -> None:
    (tmp_path / "models" / "bare").mkdir(parents=True)
    (tmp_path / "models" / "bare" / "config.json").write_text("{}")
    done = job(["infer", "--model", "bare", "--prompt", "x"], tmp_path)
    assert done.status == 2
    assert "models/bare has no weights: pretrain it first" in done.stderr


def test_a_shape_and_a_text_of_ones_own(job, tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "mine.toml").write_text(ROW)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "a.txt").write_text(TEXT * 20)
    refused = job(["fetch", "mine"], tmp_path)
    assert refused.status == 2, "fifty lines have no four hundred pieces"
    assert "a tokenizer with 400 pieces cannot be trained" in refused.stderr
    assert not (tmp_path / "models" / "mine").exists()

    (tmp_path / "configs" / "models" / "mine.toml").write_text(ROW.replace("400", "300"))
    made = job(["fetch", "mine"], tmp_path)
    assert made.status == 0, made.stderr
    loaded = job(["python", "-c", LOADED.format(name="mine")], tmp_path)
    assert json.loads(loaded.stdout.splitlines()[-1])["round trip"], loaded.stderr

    (tmp_path / "configs" / "models" / "mine.toml").write_text(ROW.replace("400", "301"))
    other = job(["fetch", "mine"], tmp_path)
    assert other.status == 2 and "--force replaces it" in other.stderr, "it has another shape"
