"""A model's folder that would run code or write elsewhere, if it were asked to the way it hopes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

MARK = "a-model-ran"
CODE = f"open('/workspace/{MARK}', 'w')\n"

# Writes a tensor to a file of its own choice, as an operation of the program.
PROGRAM = f"""
from paddle.base import core, framework
program = framework.Program()
block = program.desc.block(0)
kinds = core.VarDesc.VarType
for name, kind in (("feed", kinds.FEED_MINIBATCH), ("fetch", kinds.FETCH_LIST)):
    block.var(name.encode()).set_type(kind)
tensor = block.var(b"x")
tensor.set_type(kinds.LOD_TENSOR)
tensor.set_dtype(kinds.FP32)
tensor.set_shape([1])
save = block.append_op()
save.set_type("save_combine")
save.set_input("X", ["x"])
save._set_attr("file_path", "/workspace/{MARK}")
open("exported/m/static.pdmodel", "wb").write(program.desc.serialize_to_string())
"""

# Every way out of jinja's sandbox starts with an attribute of this kind.
TEMPLATE = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    "{{ cycler.__init__.__globals__.os.system('touch /workspace/" + MARK + "') }}"
)


@pytest.fixture
def hostile(workspace: Path) -> Path:
    """A model that works, with code beside it that its configurations name."""
    folder = workspace / "models" / "hostile"
    shutil.copytree(workspace / "models" / "tiny-fast", folder)
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (folder / name).write_text(CODE)
    names = {
        "AutoConfig": "configuration_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.Evil",
        "AutoTokenizer": ["tokenization_evil.Evil", None],
    }
    change(
        folder / "config.json",
        auto_map=names,
        trust_remote_code=True,
        _name_or_path="/workspace/models/../../../etc",
    )
    change(folder / "tokenizer_config.json", auto_map=names, trust_remote_code=True)
    return workspace


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_code_beside_a_model_is_not_run(job, hostile: Path) -> None:
    done = job(["infer", "--model", "hostile", "--prompt", "ka", "--max-new-tokens", "4"], hostile)
    assert done.status == 0, done.stderr
    assert not (hostile / MARK).exists()


@pytest.mark.parametrize("name", ["tokenization_evil.Evil", "../../../workspace/evil", "os"])
def test_a_tokenizer_of_another_module(job, hostile: Path, name: str) -> None:
    change(hostile / "models" / "hostile" / "tokenizer_config.json", tokenizer_class=name)
    done = job(["infer", "--model", "hostile", "--prompt", "ka"], hostile)
    assert done.status == 2 and "tokenizer cannot be loaded" in done.stderr, done.stderr
    assert not (hostile / MARK).exists()


def test_an_architecture_that_is_no_model(job, hostile: Path) -> None:
    change(hostile / "models" / "hostile" / "config.json", architectures=["importlib"])
    done = job(["infer", "--model", "hostile", "--prompt", "ka"], hostile)
    assert done.status == 2 and "importlib" in done.stderr, done.stderr
    assert not (hostile / MARK).exists()


def test_a_chat_template_stays_in_its_sandbox(job, hostile: Path) -> None:
    change(hostile / "models" / "hostile" / "tokenizer_config.json", chat_template=TEMPLATE)
    done = job(["infer", "--model", "hostile", "--prompt", "ka"], hostile)
    assert done.status == 2 and "chat template fails" in done.stderr, done.stderr
    assert not (hostile / MARK).exists()


def test_a_program_that_writes_a_file(job, workspace: Path) -> None:
    line = ["export", "--model", "tiny", "--static", "--output", "exported/m"]
    assert job(line, workspace).status == 0
    asked = ["infer", "--engine", "static", "--model", "exported/m", "--prompt", "ka"]
    assert job([*asked, "--max-new-tokens", "4"], workspace).status == 0
    (workspace / "evil.py").write_text(PROGRAM)
    assert job(["python", "evil.py"], workspace).status == 0
    folder = workspace / "exported" / "m"
    program = (folder / "static.pdmodel").read_bytes()
    manifest = json.loads((folder / "static.json").read_text())
    sums = {"size": len(program), "sha256": hashlib.sha256(program).hexdigest()}
    manifest["files"]["static.pdmodel"] = sums
    (folder / "static.json").write_text(json.dumps(manifest))
    done = job(asked, workspace)
    assert done.status == 2 and "an export never contains: save_combine" in done.stderr, done.stderr
    assert not (workspace / MARK).exists()


def test_shards_outside_of_the_folder(job, hostile: Path) -> None:
    folder = hostile / "models" / "hostile"
    shutil.copy(folder / "model.safetensors", hostile / "elsewhere.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    body = {"metadata": {}, "weight_map": {"llama.norm.weight": "../../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(body))
    for line in (
        ["infer", "--model", "hostile", "--prompt", "ka"],
        ["export", "--model", "hostile", "--static", "--output", "exported/m"],
    ):
        done = job(line, hostile)
        assert done.status == 2 and "outside of its folder" in done.stderr, done.stderr


@pytest.mark.parametrize("output", ["/etc/m", "../m", "/opt/venv/m"])
def test_a_name_that_leads_out_of_the_workspace(job, workspace: Path, output: str) -> None:
    line = ["export", "--model", "tiny", "--static", "--output", output]
    done = job(line, workspace)
    assert done.status in (2, 3), done.stderr
    assert "Traceback" not in done.stderr and "ead-only" in done.stderr, done.stderr
