"""A model's, an adapter's and a checkpoint's pickles that would run a command, for every job."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jobs.test_finetune import SETTINGS, write_records
from tests.support.training import PRETRAIN, cut_back

MARK = "a-pickle-ran"
ADAPTER = "lora_model_state.pdparams"
ASKED = "the pickle contains posix.system, which is not an array"

# Reads what it is given by the ways that Paddle, NumPy and PaddleNLP have, in a process that
# is none of ours; every one of them has to refuse it.
_WAYS = """
import io, pickle, sys
import numpy, paddle
from paddle.static.io_utils import _safe_load_pickle
from paddlenlp.utils.serialization import load_torch
raw = open("evil", "rb").read()
ways = {
    "paddle.load": lambda: paddle.load("evil"),
    "paddle.load of bytes": lambda: paddle.load(io.BytesIO(raw)),
    "numpy.load": lambda: numpy.load("evil", allow_pickle=True, mmap_mode="r"),
    "numpy.load of objects": lambda: numpy.load("objects.npy", allow_pickle=True),
    "pickle.load": lambda: pickle.load(open("evil", "rb")),
    "paddle.static": lambda: _safe_load_pickle(open("evil", "rb")),
    "paddlenlp of PyTorch": lambda: load_torch("pytorch_model.bin"),
    "paddle.load of a forged dtype": lambda: paddle.load("forged"),
    "paddlenlp of PyTorch with a forged dtype": lambda: load_torch("pytorch_model-2.bin"),
}
for name, way in ways.items():
    try:
        way()
    except Exception as error:
        print(f"{name}: {type(error).__name__}")
    else:
        sys.exit(f"{name} has read it")
"""

# What torch.save writes of {"weight": tensor([[0., 1.], [2., 3.]])}: a zip, with this pickle in it.
_WHOLE = """
import pickle, zipfile
import numpy, paddle
from paddlenlp.utils.serialization import load_torch
data = (
    b"\\x80\\x02ccollections\\nOrderedDict\\n)R(X\\6\\0\\0\\0weightctorch._utils\\n_rebuild_tensor_v2\\n"
    b"((X\\7\\0\\0\\0storagectorch\\nFloatStorage\\nX\\1\\0\\0\\x000X\\3\\0\\0\\0cpuK\\4tQK\\0K\\2K\\2\\x86K\\2K\\1"
    b"\\x86\\x89ccollections\\nOrderedDict\\n)RtRu."
)
with zipfile.ZipFile("pytorch_model.bin", "w") as archive:
    archive.writestr("archive/data.pkl", data)
    archive.writestr("archive/data/0", numpy.arange(4, dtype="float32").tobytes())
assert load_torch("pytorch_model.bin")["weight"].tolist() == [[0, 1], [2, 3]]
paddle.seed(5)
with open("rng.pth", "wb") as stream:
    pickle.dump(paddle.get_rng_state(), stream)
first = paddle.rand([3]).numpy()
with open("rng.pth", "rb") as stream:
    paddle.set_rng_state(pickle.load(stream))
assert (paddle.rand([3]).numpy() == first).all()
layer = paddle.nn.Linear(2, 3)
optimizer = paddle.optimizer.Adam(parameters=layer.parameters())
layer(paddle.ones([1, 2])).sum().backward()
optimizer.step()
paddle.save(layer.state_dict(), "x.pdparams")
paddle.save(optimizer.state_dict(), "x.pdopt")
assert (paddle.load("x.pdparams")["weight"].numpy() == layer.weight.numpy()).all()
optimizer.set_state_dict(paddle.load("x.pdopt"))
"""


class Asks:
    def __reduce__(self) -> Any:
        return os.system, (f"touch /workspace/{MARK}",)


def evil() -> bytes:
    return pickle.dumps({"llama.norm.weight": Asks()}, protocol=4)


class ForgedDtype:
    """A dtype whose state claims that eight bytes are an object of the interpreter."""

    def __reduce__(self) -> Any:
        return np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 63)


def forged() -> bytes:
    return pickle.dumps({"llama.norm.weight": ForgedDtype()}, protocol=4)


@pytest.fixture(scope="module")
def ready(
    job, tiny_models: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace with a model whose weights are a pickle, an adapter's, and a run of each kind."""
    workspace = tmp_path_factory.mktemp("pickles")
    shutil.copytree(tiny_models / "tiny", workspace / "models" / "tiny")
    shutil.copytree(tiny_models / "tiny", workspace / "models" / "pickled")
    (workspace / "models" / "pickled" / "model.safetensors").unlink()
    (workspace / "models" / "pickled" / "model_state.pdparams").write_bytes(evil())
    data = workspace / "data" / "questions"
    data.mkdir(parents=True)
    write_records(data / "train.json", 12)
    write_records(data / "dev.json", 4)
    shutil.copytree(small_corpus, workspace / "data", dirs_exist_ok=True)
    tuning = SETTINGS | {"dataset_name_or_path": "data/questions", "max_steps": 2, "save_steps": 1}
    (workspace / "my.json").write_text(json.dumps(tuning))
    (workspace / "pre.json").write_text(json.dumps(PRETRAIN))
    made = job(["finetune", "--config", "my.json", "--name", "done"], workspace)
    assert made.status == 0, made.stderr
    shutil.copytree(workspace / "runs" / "done" / "adapter", workspace / "runs" / "evil")
    (workspace / "runs" / "evil" / ADAPTER).write_bytes(evil())
    return workspace


def refused(job, workspace: Path, argv: list[str], said: str) -> None:
    done = job(argv, workspace)
    assert done.status == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (workspace / MARK).exists(), "the pickle has run"


@pytest.mark.parametrize(
    "argv",
    [
        ["finetune", "--config", "my.json", "--set", "model_name_or_path=pickled", "--name", "a"],
        ["pretrain", "--config", "pre.json", "--set", "model_name_or_path=pickled", "--name", "b"],
        ["export", "--model", "pickled", "--adapter", "done", "--merge", "--output", "models/c"],
    ],
    ids=lambda argv: argv[0],
)
def test_weights_that_are_a_pickle(job, ready: Path, argv: list[str]) -> None:
    refused(job, ready, argv, "--allow-pickle model_state.pdparams")
    asked_for = [*argv, "--allow-pickle", "model_state.pdparams"]
    # The adapter was made for other weights, which is told before they are loaded.
    if argv[0] == "export":
        (ready / "runs" / "done" / "adapter" / "base.json").unlink()
    refused(job, ready, asked_for, ASKED)


@pytest.mark.parametrize(
    "argv",
    [
        ["finetune", "--config", "my.json", "--set", "lora_path=evil", "--name", "d"],
        ["export", "--model", "tiny", "--adapter", "evil", "--merge", "--output", "models/e"],
        ["infer", "--model", "tiny", "--adapter", "evil", "--prompt", "ka"],
        ["serve", "--model", "tiny", "--adapter", "evil"],
    ],
    ids=lambda argv: argv[0],
)
def test_an_adapter_that_is_a_pickle(job, ready: Path, argv: list[str]) -> None:
    refused(job, ready, argv, ASKED)
    state = ready / "runs" / "evil" / ADAPTER
    state.write_bytes(forged())
    try:
        refused(job, ready, argv, "sets the state of a dtype")
    finally:
        state.write_bytes(evil())


@pytest.mark.parametrize("name", ["optimizer.pdopt", "rng_state.pth", ADAPTER])
def test_a_checkpoint_with_a_pickle_and_a_seal_that_fits(job, ready: Path, name: str) -> None:
    run = ready / "runs" / f"from-{name}"
    shutil.copytree(ready / "runs" / "done", run)
    cut_back(run, 1)
    checkpoint = run / "checkpoint-1"
    (checkpoint / name).write_bytes(evil())
    seal = json.loads((checkpoint / "checkpoint.json").read_text())
    seal["files"][name] = {"bytes": len(evil()), "sha256": hashlib.sha256(evil()).hexdigest()}
    (checkpoint / "checkpoint.json").write_text(json.dumps(seal))
    refused(job, ready, ["finetune", "--config", "my.json", "--name", run.name], ASKED)


def test_every_way_of_reading_one_in_any_process(job, tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(evil())
    (tmp_path / "forged").write_bytes(forged())
    (tmp_path / "ways.py").write_text(_WAYS)
    np.save(tmp_path / "objects.npy", np.array([Asks()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", evil())
    with zipfile.ZipFile(tmp_path / "pytorch_model-2.bin", "w") as archive:
        archive.writestr("archive/data.pkl", forged())
    done = job(["python", "ways.py"], tmp_path)
    assert done.status == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9
    assert not (tmp_path / MARK).exists()


def test_what_paddle_and_pytorch_write_is_read(job, tmp_path: Path) -> None:
    """PyTorch's names are rebuilt by PaddleNLP, and states of generators by Paddle."""
    (tmp_path / "make.py").write_text(_WHOLE)
    done = job(["python", "make.py"], tmp_path)
    assert done.status == 0, done.stderr


def test_the_same_pickle_runs_where_nothing_keeps_it_from_it(job, tmp_path: Path) -> None:
    """Without this one, the others could pass with a pickle that does nothing."""
    (tmp_path / "evil").write_bytes(evil())
    code = "import pickle; pickle.loads(open('evil', 'rb').read())"
    assert job(["python", "-c", code], tmp_path).status == 0
    assert (tmp_path / MARK).exists()
