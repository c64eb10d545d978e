"""What ``export`` and the static engine refuse, before Paddle is imported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrypoints import export
from entrypoints.exporting.request import check_architecture
from entrypoints.inference import exported
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.arguments import parse
from paddle_stacks.jobs.options import ExportOptions


def parsed(*argv: str, backend: str = "cpu") -> ExportOptions:
    return parse(ExportOptions, ["--model", "m", "--output", "o", *argv], backend)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RequestError) as caught:
        call()
    return "\n".join(f"{p.what} | {p.where} | {p.remedy}" for p in caught.value.problems)


@pytest.mark.parametrize(
    "argv",
    [["--static"], ["--adapter", "a", "--merge"], ["--adapter", "a", "--static"]],
)
def test_what_makes_something(argv: list[str]) -> None:
    assert parsed(*argv).output == "o"


@pytest.mark.parametrize(
    ("argv", "backend", "words"),
    [
        (
            [],
            "cpu",
            "--merge, --static or --format is required | export | --merge merges an adapter",
        ),
        (["--adapter", "a"], "cpu", "--merge, --static or --format is required"),
        (["--merge"], "cpu", "--merge requires --adapter"),
        (["--merge", "--static"], "cpu", "--merge requires --adapter"),
        (["--static"], "dcu", "--recipe export-block-fp16"),
        (["--static", "--output", " "], "cpu", "--output is empty"),
    ],
)
def test_arguments_that_make_nothing(argv: list[str], backend: str, words: str) -> None:
    assert words in refused(lambda: parsed(*argv, backend=backend))


def test_all_faults_at_once() -> None:
    found = refused(lambda: parsed("--merge", "--static", "--output", "", backend="dcu"))
    assert len(found.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the file is missing"),
        ("{", "not a model's configuration: Expecting"),
        ("[]", "not a model's configuration: it is not an object"),
        ("{}", 'not "None"'),
        ('{"architectures": []}', 'not ""'),
        ('{"architectures": ["Qwen2ForCausalLM"]}', 'not "Qwen2ForCausalLM"'),
        ('{"architectures": "LlamaForCausalLM"}', "static graphs require LlamaForCausalLM"),
    ],
)
def test_models_of_which_no_graph_is_made(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert words in refused(lambda: check_architecture(tmp_path))


@pytest.mark.parametrize(
    ("told", "is_refused"),
    [
        ({}, False),
        ({"quant_type": "weight_only_int8"}, False),
        ({"quant_type": "weight_only_int8", "smooth": True}, False),  # in norms and weights
        ({"quant_type": "weight_only_int8", "shift": True}, True),
        ({"quant_type": "weight_only_int8", "shift_smooth_all_linears": True}, True),
        ({"quant_type": "a8w8"}, True),
        ({"quant_type": "a8w8c8", "smooth": True}, True),
    ],
)
def test_what_a_static_graph_has_no_place_for(
    tmp_path: Path, told: dict[str, Any], is_refused: bool
) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": told}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if is_refused:
        assert "--engine dynamic" in refused(lambda: check_architecture(tmp_path))
    else:
        check_architecture(tmp_path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder as ``export --static`` leaves it, with other contents."""
    contents = {"config.json": b"{}", "model.safetensors": b"weights", exported.PROGRAM: b"graph"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    write(tmp_path, {"format": exported.FORMAT, "files": files})
    return tmp_path


def write(folder: Path, manifest: Any) -> None:
    (folder / exported.MANIFEST).write_text(json.dumps(manifest))


def changed(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / exported.MANIFEST).read_text())
    write(folder, manifest | changes)


def without_program(folder: Path) -> None:
    manifest = json.loads((folder / exported.MANIFEST).read_text())
    del manifest["files"][exported.PROGRAM]
    write(folder, manifest)


def test_a_whole_export_is_taken(whole: Path) -> None:
    exported.check(whole)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / exported.MANIFEST).unlink(), "has no static graph: static.json is missing"),
        (lambda f: (f / exported.MANIFEST).write_text("{"), "not an export's manifest: Expecting"),
        (lambda f: (f / exported.MANIFEST).write_bytes(b"\xff"), "manifest: 'utf-8' codec"),
        (lambda f: write(f, []), "not an export's manifest: it is not an object"),
        (lambda f: write(f, {"format": 1}), "not an export's manifest: KeyError: 'files'"),
        (lambda f: changed(f, files=3), "not an export's manifest: TypeError"),
        (lambda f: changed(f, files={"x": {}}), "not an export's manifest: KeyError: 'size'"),
        (lambda f: changed(f, files={"x": {"size": "?", "sha256": ""}}), "manifest: ValueError"),
        (lambda f: changed(f, format=2), "has format 2, expected 1"),
        (lambda f: changed(f, format=None), "has format None"),
        (lambda f: changed(f, files={}), "static.pdmodel is missing in the manifest"),
        (without_program, "static.pdmodel is missing in the manifest"),
        (lambda f: (f / exported.PROGRAM).unlink(), "the file is missing"),
        (lambda f: (f / exported.PROGRAM).write_bytes(b"grap"), "4 bytes, expected 5"),
        (lambda f: (f / exported.PROGRAM).write_bytes(b"grapf"), "its SHA-256 does not match"),
        (lambda f: (f / "config.json").write_text("[]"), "its SHA-256 does not match"),
        (lambda f: (f / "model.safetensors").unlink(), "the file is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"weight"), "6 bytes, expected 7"),
    ],
)
def test_an_export_that_is_not_whole(
    whole: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(whole)
    found = refused(lambda: exported.check(whole))
    assert words in found
    assert "--static" in found


def test_an_output_that_would_replace_its_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "m").mkdir(parents=True)
    text = '{"architectures": ["LlamaForCausalLM"]}'
    (tmp_path / "models" / "m" / "config.json").write_text(text)
    (tmp_path / "models" / "m" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "file").write_text("mine")
    for output, words in (
        ("models/m", "would replace the input"),
        ("models", "would replace the input"),
        ("file", "the output is a file"),
    ):
        line = ["--model", "m", "--static", "--output", output, "--force"]
        assert words in refused(lambda line=line: export.main(line))
    assert (tmp_path / "file").read_text() == "mine"
