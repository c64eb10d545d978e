"""The documents, followed as they are written: a copy of the repository, a page, its commands.

A page's blocks that name this file are run in order, in a copy that has what the pages take
for granted (a model, a configuration, some text) and nothing of another page. Exit statuses
have to be 0 or what the page says, and output that a page shows has to come, its numbers aside.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.doc_pages import ROOT, Block, Command, blocks, pages

THIS = "tests/docs/test_commands.py"
SECONDS = 1800  # for one command, which hangs then
TYPED = "Hello\n/exit\n"  # what a person types where a command asks
MODEL = "smollm2-135m-instruct"
# README.zh-CN.md has the commands of README.md, which tests/unit/test_docs.py holds it to.
FOLLOWED = [
    page
    for page in pages()
    if page.name != "README.zh-CN.md" and any(THIS in block.runs for block in blocks(page))
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(command: str, folder: Path, status: int = 0) -> str:
    """Run a line as a person's shell does; return all that it says."""
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(TYPED, SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as ended:
            # As Ctrl-C does, so that ./inv takes its container with it.
            os.killpg(process.pid, signal.SIGINT)
            said, _ = process.communicate()
            if isinstance(ended, KeyboardInterrupt):
                raise
    assert process.returncode == status, f"{command}\nstatus {process.returncode}\n{said[-4000:]}"
    return said


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a model and what else the pages take for granted."""
    folder = tmp_path_factory.mktemp("prepared")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    write_small_things(folder)
    run(f"./inv fetch {MODEL}", folder)
    # What the recipes' data is on a DCU server, in the same place.
    corpus = "--input data/raw/some.jsonl --output data/openwebtext/llama"
    run(f"./inv prepare {corpus} --model {MODEL}", folder)
    return folder


def write_small_things(folder: Path) -> None:
    """Write ``my.json`` and its data, prompts, texts and a log: what is the reader's own."""
    config = json.loads((ROOT / "configs" / "jobs" / "cpu" / "finetune-lora.json").read_text())
    config |= {"dataset_name_or_path": "data/mine", "max_steps": 2, "lora_rank": 2}
    config |= {"evaluation_strategy": "no", "save_strategy": "no", "do_eval": False}
    del config["output_dir"], config["num_train_epochs"]
    (folder / "my.json").write_text(json.dumps(config))
    lines = [{"src": f"Who is number {n}?", "tgt": f"Number {n}."} for n in range(8)]
    for data in (folder / "data" / "mine", folder / "data" / "alpaca"):
        data.mkdir()
        for name in ("train.json", "dev.json"):
            (data / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = "".join(f"Who is number {n}?,Number {n}.\n" for n in range(8))
    (folder / "tickets.csv").write_text("question,answer\n" + table)
    prompts = [{"id": n, "prompt": "Count to three.", "max_new_tokens": 8} for n in range(2)]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    text = [json.dumps({"text": f"Document {n} says little."}) + "\n" for n in range(50)]
    (folder / "data" / "raw").mkdir()
    (folder / "data" / "raw" / "some.jsonl").write_text("".join(text))
    (folder / "big.gz").write_bytes(gzip.compress("".join(text).encode()))
    (folder / "log").mkdir()
    said = "[ROCT-Thunk-Interface/src/hymgr.c:344, WARNING]: Version mismatch"
    (folder / "log" / "workerlog.0").write_text(f"begin\n{said}\n")


@pytest.fixture(scope="session")
def trained(prepared: Path) -> Path:
    """The run ``try1``, which pages that do not make it speak of."""
    run("./inv finetune --config my.json --set learning_rate=1e-4 --name try1", prepared)
    return prepared / "runs"


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of one's own, whose name Compose takes for its project's."""
    folder = tmp_path / f"docs-{os.getpid()}-{tmp_path.name[-8:].strip('_[]').lower()}"
    folder.mkdir()
    for made in prepared.iterdir():
        if made.name == "runs":  # of the page before
            continue
        # Nothing writes into a model that is whole, and a copy takes half a gigabyte.
        how = os.link if made.name == "models" else shutil.copy2
        if made.is_dir() and not made.is_symlink():
            shutil.copytree(made, folder / made.name, copy_function=how)
        else:
            shutil.copy2(made, folder / made.name, follow_symlinks=False)
    (folder / "runs").mkdir()
    yield folder
    down = ["docker", "compose", "--profile", "*", "down", "--remove-orphans", "--timeout", "1"]
    subprocess.run(down, cwd=folder, capture_output=True, check=True)
    shutil.rmtree(folder)


def follow(page: Path, folder: Path) -> tuple[str, list[str]]:
    """Do what a page says; return what its last command said, and which blocks were left out."""
    said, left = "", []
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text)
        if THIS not in block.runs:
            continue
        if "root" in block.needs and os.geteuid() != 0:
            left.append(block.where)
            continue
        for command in block.commands:
            said = run(command.text, folder, command.status)
            compare(block, command, said)
    return said, left


def compare(block: Block, command: Command, said: str) -> None:
    """Compare what a command said with the lines that the page shows of it, in their order."""
    rest = said.splitlines()
    for shown in command.output:
        while rest and not re.fullmatch(shape(shown), rest[0].rstrip()):
            rest.pop(0)
        assert rest, f"{block.where}: {command.text} did not say {shown!r}, but:\n{said}"


def shape(line: str) -> str:
    """Return a pattern: any numbers in place of the line's, and anything for an ellipsis."""
    pattern = re.sub(r"\d+(\\\.\d+)?", r"\\d+(\\.\\d+)?", re.escape(line.rstrip()))
    return pattern.replace("…", ".*")


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_a_page_is_true(page: Path, copy: Path, request: pytest.FixtureRequest) -> None:
    text = "".join(block.text for block in blocks(page) if THIS in block.runs)
    if "try1" in text and "--name try1" not in text:
        shutil.copytree(request.getfixturevalue("trained"), copy / "runs", dirs_exist_ok=True)
    said, left = follow(page, copy)
    if check := LEAVES.get(name_of(page)):
        check(copy, said)
    if left:
        pytest.skip(f"the rest of the page is true; only root can try {', '.join(left)}")


def answered(folder: Path, said: str) -> None:
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [0, 1] and all(line["token_ids"] for line in lines)


def merged(folder: Path, said: str) -> None:
    assert (folder / "models" / "mine" / "model.safetensors").stat().st_size > 400_000_000


def pretrained(folder: Path, said: str) -> None:
    assert "PaddleJob" in said, "the last one rendered is for Kubernetes"
    for name, steps in (("nano", 40), ("halves", 8), ("twice", 8)):
        result = json.loads((folder / "runs" / name / "result.json").read_text())
        assert result["steps"] == steps and result["last_loss"] < result["first_loss"]


def quantized(folder: Path, said: str) -> None:
    report = json.loads((folder / "models" / "small" / "quantize.json").read_text())
    assert report["perplexity"]["ratio"] < 1.02
    assert "Paris" in said


LEAVES: dict[str, Callable[[Path, str], None]] = {
    "README.md": answered,
    "docs/finetuning.md": merged,
    "docs/inference.md": answered,
    "docs/pretraining.md": pretrained,
    "docs/quantization.md": quantized,
}


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ("built in 116.0 s: 4 steps", "built in 3 s: 12 steps", True),
        ("  fix: mount /opt/hyhal; …", "  fix: mount /opt/hyhal; or not", True),
        ("line 2", "line two", False),
        ("a.b", "aXb", False),
    ],
)
def test_output_is_compared_by_its_shape(shown: str, said: str, same: bool) -> None:
    assert bool(re.fullmatch(shape(shown), said)) is same
