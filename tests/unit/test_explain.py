"""``explain``: every name of the project is explained from the file that defines it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from paddle_stacks.cli import explain as command
from paddle_stacks.errors import RequestError
from paddle_stacks.explain import answers, configuration, page, pins
from paddle_stacks.jobs.schema.keys import GROUPS, SCHEMAS
from tests.support.doc_pages import blocks

ROOT = Path(__file__).parents[2]


def test_the_page_of_keys_is_made_from_the_sources() -> None:
    made = page.keys_as_markdown(configuration.key_rows())
    there = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    assert there == made, "./inv keys --markdown > docs/keys.md"


@pytest.mark.parametrize("query", ["", "  \n", "\x00", "(" * 1000, "x" * 100_000, "no such words"])
def test_what_has_no_name_is_refused(query: str) -> None:
    with pytest.raises(RequestError) as caught:
        answers.answer(query, ROOT)
    assert "./inv" in caught.value.problems[0].remedy


def test_the_answer_is_one_document() -> None:
    document = json.loads(json.dumps(answers.answer("pyarrow", ROOT).to_json()))
    assert document["asked"] == "pyarrow"
    assert document["topics"][0]["kind"] == "pin"


def explained(word: str) -> list[answers.Topic]:
    return list(answers.answer(word, ROOT, *command.tasks_and_options()).topics)


def facts(word: str, kind: str) -> dict[str, list[str]]:
    (topic,) = (topic for topic in explained(word) if topic.kind == kind)
    found: dict[str, list[str]] = topic.to_json()["facts"]
    return found


def test_every_pin_says_why() -> None:
    found = list(pins.pins(ROOT))
    assert len(found) > 60
    assert [f"{p.path}:{p.line}: {p.text}" for p in found if not p.why] == [], (
        "a pin needs a reason: a comment behind it, or above its group"
    )


def test_what_is_pinned_is_in_the_locks_that_it_is_for() -> None:
    known = {topic.name: topic for topic in pins.topics(ROOT)}
    assert known["pyarrow"].facts[-1][1].startswith("18.0.0 in ")
    versions = known["paddlenlp"].facts[-1][1]
    for image in ("framework:cpu", "infer:dcu", "train:cpu"):
        assert image in versions
    assert known["onnx"].facts[-1] == ("locked", "in no image")


@pytest.mark.parametrize(
    ("word", "kind", "part"),
    [
        ("framework", "image", "Paddle, PaddleNLP"),
        ("base-dtk", "stage", "env.sh"),
        ("paddle-stacks.backend", "label", ""),
        ("DTK_IMAGE", "build variable", "a DCU's images"),
        ("pyarrow==18.0.0", "pin", "NumPy 2"),
        ("urllib3", "package", "another package"),
        ("--devices", "option", "Devices"),
        ("learning-rate", "key", "--config"),
        ("lora_rank", "key", "Rank of the LoRA matrices"),
        ("merge", "key", "upstream does not have it"),
        ("ca_bundle", "setting", "certificates"),
        ("PADDLE_STACKS_DEBUG", "variable", "traceback"),
        ("HSA_FORCE_FINE_GRAIN_PCIE", "variable", "hangs"),
        ("https_proxy", "variable", "https_proxy"),
        ("MPLCONFIGDIR", "variable", "read-only"),
        ("ROCM_PATH", "variable", "env.sh"),
        ("dcu-sim", "backend", "simulated"),
        ("shm_mib", "backend's key", "/dev/shm"),
        ("infer", "job", "answer a prompt"),
        ("doctor", "task", "machine"),
        ("lora-13b", "recipe", "LoRA"),
        ("llama-2-13b", "model", ""),
        ("driver-dtk", "check", "driver"),
        ("hyhal-mismatch", "failure", "/opt/hyhal"),
        ("4", "exit status", "build"),
        ("status 137", "exit status", "SIGKILL"),
        ("libgalaxyhip.so.5: cannot open shared object file", "failure", "DTK"),
    ],
)
def test_what_has_a_name_is_explained(word: str, kind: str, part: str) -> None:
    found = [topic for topic in explained(word) if topic.kind == kind]
    assert found, [topic.kind for topic in explained(word)]
    assert part in found[0].says
    assert found[0].says or found[0].facts


def test_an_image_says_where_it_stands() -> None:
    found = facts("framework", "image")
    assert found["starts from"] == ["base"]
    assert found["starts"] == ["code, ops-cpu"]
    assert "paddle-stacks/framework:${BACKEND}" in found["tag"]


def test_an_option_that_means_several_things_is_explained_for_each() -> None:
    found = [topic.to_json()["facts"]["of"][0] for topic in explained("--output")]
    assert len(found) > 2
    assert any("infer" in of for of in found)
    assert any("export" in of for of in found)


def test_a_check_says_what_it_looks_at() -> None:
    assert facts("driver", "check")["worst"] == ["error"]


def test_everything_with_a_name_says_something() -> None:
    for topic in answers.everything(ROOT, *command.tasks_and_options()):
        assert topic.name
        assert topic.says or topic.facts, topic
        json.dumps(topic.to_json())


def test_a_word_that_is_nothing_is_told_what_is_near() -> None:
    with pytest.raises(RequestError) as caught:
        explained("trian")
    assert "`train`" in caught.value.problems[0].remedy


def test_every_task_has_a_sentence() -> None:
    summaries, options = command.tasks_and_options()
    assert set(summaries) == set(tasks.namespace.task_names)
    assert all(summaries.values())
    assert [f"{o.task} {o.name}" for o in options if not o.help] == []


@pytest.mark.slow
def test_the_commands_of_the_page_are_run() -> None:
    (block,) = blocks(ROOT / "docs" / "keys.md")
    inv = f"{sys.executable} -m paddle_stacks.cli"
    for line in block.commands:
        done = subprocess.run(
            ["sh", "-c", line.text.replace("./inv", inv)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_every_key_that_has_an_effect_has_a_help_and_no_other() -> None:
    keys = [key for schema in SCHEMAS.values() for key in schema.keys.values()]
    helps = {key.name: key.help for key in keys if key.help}
    assert set(helps) == {key.name for key in keys if key.acts}
    assert sorted(helps) == sorted(key.name for group in GROUPS.values() for key in group)
    for name, text in helps.items():
        assert text[0].isupper() and text.endswith("."), name
