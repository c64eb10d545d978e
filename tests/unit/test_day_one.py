"""The commands of the day-one page plan on a simulated host, and its messages are real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_stacks.doctor import logs
from paddle_stacks.jobs import models
from paddle_stacks.simulated import hosts
from tests.support.doc_pages import ROOT, blocks

PAGE = ROOT / "docs" / "day-one.md"
COMMANDS = [command.words for command in blocks(PAGE)[0].commands]
JOBS = [words[1:] for words in COMMANDS if words[0] == "./inv" and words[1] in (
    "fetch", "infer", "finetune", "serve"
)]  # fmt: skip


def test_there_are_ten_commands() -> None:
    assert len(COMMANDS) == 10
    assert [words[0] for words in JOBS] == ["fetch", "infer", "finetune", "serve"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a fresh server whose model has been fetched."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "data" / "demo", tmp_path / "data" / "demo")
    folder = tmp_path / "models" / "llama-2-13b-chat"
    folder.mkdir(parents=True)
    shape = models.find("llama-2-13b-chat")
    assert shape.parameters == 13_015_864_320
    config = {"model_type": "llama", "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    root = hosts.make("ok", tmp_path / "host")
    clean = {name: v for name, v in os.environ.items() if not name.startswith("PADDLE_STACKS_")}
    return {
        **clean,
        "NO_COLOR": "1",
        "PADDLE_STACKS_BACKEND": "dcu",  # what the page's first command writes into the file
        "PADDLE_STACKS_WORKSPACE": str(tmp_path),
        "PADDLE_STACKS_HOST_ROOT": str(root),
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="creating device nodes requires root")
@pytest.mark.parametrize("words", JOBS, ids=lambda words: str(words[0]))
def test_a_job_of_the_page_has_a_plan(environment: dict[str, str], words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", *words, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # --json prints the plan, then checks the request: the model has no weights here.
    plan = json.loads(done.stdout)
    assert plan["backend"] == "dcu"
    # The model of this test has no tokenizer.
    assert [note for note in plan["notes"] if "chat template" not in note] == []
    assert plan["cards"] == ([] if words[0] == "fetch" else [0])
    assert plan["image"].endswith(":dcu")
    assert "kernel" not in done.stderr and "GiB" not in done.stderr, done.stderr


def test_the_page_sets_the_backend_where_it_is_read() -> None:
    assert COMMANDS[0] == ["echo", 'backend = "dcu"', ">", "paddle-stacks.toml"]


def test_the_messages_of_the_page_are_in_the_source() -> None:
    source = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "paddle_stacks").rglob("*.py"))
    )
    rows = re.findall(
        r"^\| `(.+?)` \| ", PAGE.read_text(encoding="utf-8").split("## If a command")[1], re.M
    )
    assert len(rows) == 12
    # Numbers and names are filled in: the words between them must be in the source.
    values = (
        r"…|\d[\w.]*|BW1000|gfx936|HIP_VISIBLE_DEVICES|/dev/kfd|/opt/hyhal|\bbf16\b|dcu\b"
        r"|full fine-tuning of|one device"
    )
    for row in rows:
        for words in re.split(values, row):
            plain = words.strip(' ",')
            if len(plain) > 5:
                assert plain in source, f"{row}: {plain}"


def test_the_page_has_the_number_of_known_failures() -> None:
    count = len(logs.known_failures())
    assert f" {count} failures" in PAGE.read_text(encoding="utf-8")
    assert f"The {count} failures" in (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert f" {count} 种" in (ROOT / "docs" / "zh" / "day-one.md").read_text(encoding="utf-8")
