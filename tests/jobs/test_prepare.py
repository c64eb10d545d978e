"""The prepare and inspect jobs in a real container, on the tokenizers of tiny models."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from paddle_stacks.jobs import corpus

WORDS = ["ka", "lo", "mitu", "nesa", "rovi", "hello", "水传", "é", "e\u0301", "😀", "12", "</s>"]


def write_lines(path: Path, count: int, seed: int = 1) -> None:
    pick = random.Random(seed)
    with path.open("w") as stream:
        for number in range(count):
            text = pick.choice(["", " ", "\n"]).join(["", *pick.choices(WORDS, k=1 + number % 90)])
            text += "x" * 150 if number % 50 == 0 else ""
            row = {"id": number, "text": " ".join([text, *pick.choices(WORDS, k=40)])}
            stream.write(json.dumps(row, ensure_ascii=bool(number % 2)) + "\n")


def prepare(job, workspace: Path, *arguments: str, model: str = "tiny", stdin: str | None = None):
    line = ["prepare", "--output", "data/out", "--model", model, *arguments]
    return job(line, workspace, stdin=stdin)


def pair(workspace: Path, name: str = "out") -> tuple[bytes, bytes]:
    prefix = workspace / "data" / name
    return corpus.tokens_path(prefix).read_bytes(), corpus.index_path(prefix).read_bytes()


def manifest(workspace: Path) -> dict:
    return json.loads((workspace / "data" / "out.manifest.json").read_text())


@pytest.mark.parametrize("model", ["tiny", "tiny-bytes", "tiny-merged", "tiny-fast"])
def test_the_bytes_are_those_of_paddlenlps_own_builder(job, workspace: Path, model: str) -> None:
    write_lines(workspace / "data" / "in.jsonl", 400)
    done = prepare(job, workspace, "--input", "data/in.jsonl", "--append-eos", model=model)
    assert (done.status, done.stdout) == (0, "data/out\n"), done.stderr
    assert "differs" not in done.stderr, "the tokens are made in batches"
    shutil.copy(Path(__file__).with_name("upstream_pair.py"), workspace)
    line = ["python", "upstream_pair.py", f"models/{model}", "data/in.jsonl", "data/theirs"]
    theirs = job(line, workspace)
    assert theirs.status == 0, theirs.stderr
    assert pair(workspace) == pair(workspace, "theirs")


def test_the_data_set_of_training_reads_it(job, workspace: Path) -> None:
    write_lines(workspace / "data" / "in.jsonl", 300)
    done = prepare(job, workspace, "--input", "data/in.jsonl")
    assert done.status == 0, done.stderr
    shutil.copy(Path(__file__).with_name("upstream_pair.py"), workspace)
    read = job(["python", "upstream_pair.py", "--read", "data/out"], workspace)
    assert read.status == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    assert found["documents"] == manifest(workspace)["documents"] == 300
    assert found["tokens"] == manifest(workspace)["tokens"]
    assert found["rows"] == [33, 33, 33]


def test_neither_workers_nor_packing_nor_a_pipe_matter(job, workspace: Path) -> None:
    data = workspace / "data"
    write_lines(data / "in.jsonl", 9000)
    wanted = None
    content = (data / "in.jsonl").read_bytes()
    assert len(content) > 8 * 256 * 1024, "many blocks"
    for workers in ("1", "2", "3"):
        done = prepare(job, workspace, "--input", "data/in.jsonl", "--workers", workers, "--force")
        assert done.status == 0, done.stderr
        wanted = wanted or pair(workspace)
        assert pair(workspace) == wanted
    (data / "in.jsonl.gz").write_bytes(gzip.compress(content))
    code = "import pyarrow, sys; d = open('data/in.jsonl', 'rb').read()"
    code += "; f = open('data/in.jsonl.zst', 'wb'); s = pyarrow.CompressedOutputStream(f, 'zstd')"
    assert job(["python", "-c", f"{code}; s.write(d); s.close()"], workspace).status == 0
    for name in ("in.jsonl.gz", "in.jsonl.zst"):
        done = prepare(job, workspace, "--input", f"data/{name}", "--force")
        assert done.status == 0, done.stderr
        assert pair(workspace) == wanted
    done = prepare(job, workspace, "--input", "-", "--force", stdin=content.decode())
    assert done.status == 0, done.stderr
    assert pair(workspace) == wanted


def test_text_and_the_manifest(job, workspace: Path) -> None:
    folder = workspace / "data" / "raw"
    folder.mkdir()
    (folder / "b.txt").write_text("ka lo\nmitu\n\n \nnesa\n")
    (folder / "a.txt").write_text("rovi\r\n\r\nhello")
    (folder / "c.jsonl").write_text('{"text": "ka"}\n')
    done = prepare(job, workspace, "--input", "data/raw", "--split", "2,1,1")
    assert done.status == 0, done.stderr
    found = manifest(workspace)
    assert (found["documents"], found["dtype"], found["bad"]["by_reason"]) == (5, "uint16", {})
    assert [entry["path"] for entry in found["inputs"]] == [f"data/raw/{n}" for n in ("a.txt", "b.txt", "c.jsonl")]  # fmt: skip # noqa: E501
    assert "to train on" in done.stderr
    for unit, documents in (("line", 6), ("file", 3)):
        options = ("--input", "data/raw", "--document", unit, "--force")
        assert prepare(job, workspace, *options).status == 0
        assert manifest(workspace)["documents"] == documents


def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(job, workspace: Path) -> None:
    write_lines(workspace / "data" / "a.jsonl", 40_000, seed=2)
    write_lines(workspace / "data" / "b.jsonl", 20_000, seed=3)
    line = ["--input", "data/a.jsonl", "--input", "data/b.jsonl", "--save-every", "0.05"]
    assert prepare(job, workspace, *line).status == 0
    wanted = pair(workspace)
    for name in ("out.bin", "out.idx", "out.manifest.json"):
        (workspace / "data" / name).unlink()
    pick = random.Random(4)
    went_on = 0
    journal = workspace / "data" / ".out.partial" / "journal.json"
    command = ["prepare", "--output", "data/out", "--model", "tiny", *line]
    for _ in range(6):
        running = job.start(command, workspace)
        before = journal.read_bytes() if journal.exists() else b""
        end = time.monotonic() + 60
        while time.monotonic() < end and running.process.poll() is None:
            if journal.exists() and journal.read_bytes() != before:
                break
            time.sleep(0.01)
        time.sleep(pick.uniform(0, 0.5))
        if running.process.poll() is None:
            running.send(signal.SIGKILL)
        killed = running.wait()
        went_on += "resuming:" in killed.stderr
        assert not (workspace / "data" / "out.idx").exists() or pair(workspace) == wanted
    done = prepare(job, workspace, *line)
    assert done.status == 0, done.stderr
    assert went_on or "resuming:" in done.stderr
    assert pair(workspace) == wanted
    assert not journal.parent.exists()
    again = prepare(job, workspace, *line)
    assert again.status == 0 and "already exists, complete" in again.stderr


def test_killed_while_its_files_get_their_names(job, workspace: Path) -> None:
    write_lines(workspace / "data" / "in.jsonl", 300)
    shutil.copy(Path(__file__).with_name("killed_naming.py"), workspace)
    done = job(["python", "killed_naming.py"], workspace)
    assert done.status == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 12, "before and after each of three names, over nothing and over another"
    for row in rows:
        assert row["killed"] == -signal.SIGKILL, row
        # An index that can be seen belongs to a whole pair, and the same command ends well.
        assert row["seen"] == ("new" if row["moment"].startswith("after .idx") else "none"), row
        assert (row["status"], row["whole"], row["left"]) == (0, True, []), row


def test_what_a_killed_one_left_is_verified(job, workspace: Path) -> None:
    write_lines(workspace / "data" / "in.jsonl", 6_000)
    line = ["--input", "data/in.jsonl", "--save-every", "0.001"]
    command = ["prepare", "--output", "data/out", "--model", "tiny", *line]
    partial = workspace / "data" / ".out.partial"
    moment = "rename 2 journal.json"
    running = job.start(command, workspace, hold_at=moment)
    running.wait_for(moment)
    running.send(signal.SIGKILL)
    assert running.wait().status == 137
    tokens = partial / "tokens"
    tokens.write_bytes(b"\xff\xff" + tokens.read_bytes()[2:])
    done = prepare(job, workspace, *line)
    assert done.status == 0 and "damaged: from the beginning" in done.stderr, done.stderr
    first = pair(workspace)
    done = prepare(job, workspace, *line, "--force")
    assert done.status == 0 and pair(workspace) == first


def test_stopped_it_says_so_and_goes_on(job, workspace: Path) -> None:
    write_lines(workspace / "data" / "in.jsonl", 40_000)
    command = ["prepare", "--output", "data/out", "--model", "tiny", "--input", "data/in.jsonl"]
    command += ["--save-every", "0.05"]
    running = job.start(command, workspace, hold_at="read and make tokens")
    running.wait_for("read and make tokens")
    running.send(signal.SIGTERM)
    assert running.wait().status == 143
    assert not (workspace / "data" / "out.bin").exists()
    done = job(command, workspace)
    assert done.status == 0, done.stderr


GOOD = '{"text": "ka lo"}\n'
BAD_INPUT = [
    ("no such file", {}, "--input data/gone.jsonl", "no such file"),
    ("no match", {}, "--input data/*.jsonl.gz", "no file matches the pattern"),
    ("empty folder", {}, "--input data", "the folder has no text"),
    ("unknown suffix", {"a.md": "x"}, "--input data/a.md", "--format"),
    ("twice", {"a.jsonl": GOOD}, "--input data/a.jsonl --input data/a.jsonl", "twice"),
    ("nothing in it", {"a.jsonl": ""}, "--input data/a.jsonl", "no documents"),
    ("only blank lines", {"a.jsonl": "\n \n"}, "--input data/a.jsonl", "no documents"),
    ("only bad records", {"a.jsonl": "x\n" * 30}, "--input data/a.jsonl", "30 of them: not JSON"),
    ("truncated", {"a.jsonl.gz": gzip.compress(GOOD.encode())[:-9]}, "--input data/a.jsonl.gz", "gzip -t"),  # noqa: E501
    ("truncated zstd", {"a.jsonl.zst": b"\x28\xb5\x2f\xfd\x04"}, "--input data/a.jsonl.zst", "zstd -t"),  # noqa: E501
    ("bzip2", {"a.jsonl": b"BZh91AY&SY"}, "--input data/a.jsonl", "bzip2"),
    ("not JSON", {"a.jsonl": GOOD + "{\n"}, "--input data/a.jsonl --on-bad fail", "a.jsonl:2"),
    ("no key", {"a.jsonl": GOOD}, "--input data/a.jsonl --json-key x --on-bad fail", 'no key "x"'),
    ("not UTF-8", {"a.txt": b"ka\n\n\xff"}, "--input data/a.txt --on-bad fail", "a.txt:3"),
    ("empty text", {"a.jsonl": '{"text": ""}'}, "--input data/a.jsonl --on-bad fail", "empty"),
    ("no model", {"a.jsonl": GOOD}, "--input data/a.jsonl --model gone", 'no model "gone"'),
    ("no tokenizer", {"a.jsonl": GOOD}, "--input data/a.jsonl --model bare", "no tokenizer"),
    ("bad tokenizer", {"a.jsonl": GOOD}, "--input data/a.jsonl --model broken", "tokenizer_config.json"),  # noqa: E501
    ("split", {"a.jsonl": GOOD}, "--input data/a.jsonl --split 0,0", "not a split"),
    ("output is a folder", {"a.jsonl": GOOD}, "--input data/a.jsonl --output data", "a folder"),
    ("output with suffix", {"a.jsonl": GOOD}, "--input data/a.jsonl --output d/x.bin", "end in .bin"),  # noqa: E501
    ("workers", {"a.jsonl": GOOD}, "--input data/a.jsonl --workers 0", "at least 1"),
    ("already exists", {"a.jsonl": GOOD, "out.bin": "x"}, "--input data/a.jsonl", "--force"),
    ("another corpus", {"a.jsonl": GOOD, "out.idx": "x"}, "--input data/a.jsonl", "another corpus"),
    ("a typo", {"a.jsonl": GOOD}, "--input data/a.jsonl --append-oes", 'did you mean "--append-eos"'),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "line", "said"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT]
)
def test_bad_input(job, workspace: Path, files: dict, line: str, said: str) -> None:
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (workspace / "data" / name).write_bytes(content)
    for name in ("bare", "broken"):
        (workspace / "models" / name).mkdir()
        (workspace / "models" / name / "config.json").write_text("{}")
    (workspace / "models" / "broken" / "tokenizer_config.json").write_text("{")
    before = {path.name for path in (workspace / "data").glob("*.*") if path.suffix != ".partial"}
    done = prepare(job, workspace, *line.split())
    assert done.status == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    after = {path.name for path in (workspace / "data").glob("*.*") if path.suffix != ".partial"}
    assert after == before, "nothing under a final name"


def test_bad_records_are_counted_and_named(job, workspace: Path) -> None:
    rows = ['{"text": "ka"}', "x", '{"t": 1}', '{"text": ""}'] * 10
    (workspace / "data" / "in.jsonl").write_text("\n".join(rows))
    done = prepare(job, workspace, "--input", "data/in.jsonl")
    assert done.status == 0, done.stderr
    found = manifest(workspace)
    assert found["documents"] == 10
    assert found["bad"]["by_reason"] == {"not JSON": 10, 'no key "text"': 10, "empty": 10}
    assert [where for where, _ in found["bad"]["first"][:3]] == [
        "data/in.jsonl:2", "data/in.jsonl:3", "data/in.jsonl:4",
    ]  # fmt: skip
    assert "skipped: data/in.jsonl:2: not JSON" in done.stderr
    assert "30 bad records were skipped; the first 20" in done.stderr


def test_inspect_shows_a_blend(job, workspace: Path) -> None:
    write_lines(workspace / "data" / "in.jsonl", 200)
    assert prepare(job, workspace, "--input", "data/in.jsonl").status == 0
    more = ["prepare", "--input", "data/in.jsonl", "--output", "data/b", "--model", "tiny-bytes"]
    assert job(more, workspace).status == 0
    done = job(["inspect", "3 data/out 1 data/b", "--samples", "2"], workspace)
    assert done.status == 0, done.stderr
    assert "data/out  weight 0.75" in done.stdout and "documents 200" in done.stdout
    assert done.stdout.count("document 100 (") == 2 and "hello" in done.stdout
    picture = (workspace / "data" / "out.lengths.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    wrong = job(["inspect", "3 data/out x data/gone"], workspace)
    assert wrong.status == 2 and 'got "x"' in wrong.stderr
