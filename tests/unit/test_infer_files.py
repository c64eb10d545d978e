"""Files of answers that can be gone on with, and weights that are whole."""

from __future__ import annotations

import fcntl
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from entrypoints.inference import fingerprint
from entrypoints.inference.adapter import _as_float32, check_base
from entrypoints.inference.arguments import parse
from entrypoints.inference.batch_input import batches
from entrypoints.inference.partial_output import open_partial
from entrypoints.inference.weights import Weights
from entrypoints.models.files import BASE
from entrypoints.models.files import fingerprint as weights_fingerprint
from paddle_stacks.errors import RequestError

BEGUN = {"--model": "m", "--seed": "1"}
IDS = ["a", "b", "c"]


class Killed(BaseException):
    pass


def answered(name: str) -> dict[str, str]:
    return {"id": name, "text": f"Antwort {name} 京"}


def interrupted(output: Path, *numbers: int) -> Path:
    with pytest.raises(Killed), open_partial(output, BEGUN, IDS, force=False) as part:
        for number in numbers:
            part.add(number, answered(IDS[number]))
        raise Killed
    assert not output.exists()
    return output.with_name(output.name + ".part")


def finish(output: Path, start_time: dict[str, str] = BEGUN, *, force: bool = False) -> list[int]:
    """Answer what is left; return what was there already."""
    with open_partial(output, start_time, IDS, force=force) as part:
        before = sorted(part.done)
        for number in range(3):
            if number not in part.done:
                part.add(number, answered(IDS[number]))
    return before


def test_answers_are_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out.jsonl"
    with open_partial(output, BEGUN, IDS, force=False) as part:
        for number in (2, 0, 1):
            part.add(number, answered(IDS[number]))
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert found == [answered(name) for name in IDS]
    assert list(output.parent.iterdir()) == [output]


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    interrupted(output, 2, 0)
    assert finish(output) == [0, 2]
    assert output.read_text(encoding="utf-8").count("\n") == 3


def test_a_torn_line_is_answered_again(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    part = interrupted(output, 0, 1)
    part.write_bytes(part.read_bytes()[:-4])
    assert finish(output) == [0]


def test_a_line_torn_within_a_character_is_answered_again(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    part = interrupted(output, 0)
    part.write_bytes(part.read_bytes() + '{"number": 1, "line": {"text": "水'.encode()[:-1])
    assert finish(output) == [0]


def test_killed_before_its_part_was_removed_it_is_done(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    part = interrupted(output, 0, 1, 2)
    whole = part.read_bytes()
    finish(output)
    answers = output.read_bytes()
    part.write_bytes(whole)
    assert finish(output) == [0, 1, 2]
    assert (output.read_bytes(), part.exists()) == (answers, False)


def test_a_part_beside_an_output_does_not_replace_it(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    part = interrupted(output, 0, 1)
    output.write_text("mine")
    with pytest.raises(RequestError, match="the output exists"):
        finish(output)
    assert (output.read_text(), part.exists()) == ("mine", True)


def test_other_options_are_named(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    part = interrupted(output, 0)
    before = part.read_bytes()
    with pytest.raises(RequestError, match=r"started with other values of --seed$"):
        finish(output, {"--model": "m", "--seed": "2"})
    assert part.read_bytes() == before
    assert finish(output, {"--model": "m", "--seed": "2"}, force=True) == []


@pytest.mark.parametrize("content", ["hello\n", "[]\n", '{"begun_with": 1}\n'])
def test_a_part_of_something_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "out.part").write_text(content)
    with pytest.raises(RequestError, match="not a partial output"):
        finish(tmp_path / "out")
    assert (tmp_path / "out.part").read_text() == content


@pytest.mark.parametrize(
    "entry", [{"number": 5, "line": {"id": "a"}}, {"number": 0, "line": {"id": "b"}}, {"number": 0}]
)
def test_a_part_with_an_answer_that_is_not_ours(tmp_path: Path, entry: object) -> None:
    part = interrupted(tmp_path / "out", 1)
    with part.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    with pytest.raises(RequestError, match="not a partial output"):
        finish(tmp_path / "out")


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("mine")
    with pytest.raises(RequestError, match="the output exists"):
        finish(output)
    assert output.read_text() == "mine"
    finish(output, force=True)
    assert output.read_text() != "mine"


def test_a_folder_as_output(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder"):
        finish(tmp_path)


def test_an_output_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        finish(tmp_path / "file" / "out")


def test_two_jobs_with_one_output(tmp_path: Path) -> None:
    with (tmp_path / "out.part").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another job is writing"):
            finish(tmp_path / "out")


def test_what_answers_depend_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(17 * 2**20))

    def made(*argv: str, content: bytes = b"x") -> dict[str, str]:
        options = parse(["--model", "m", "--input", "i", *argv])
        return fingerprint.of_run(options, tmp_path, None, content)

    before = made()
    assert made("--batch-size", "3", "--output", "o") == before
    assert _changed(before, made("--top-p", "0.5")) == {"--decode", "--top-p"}
    assert _changed(before, made("--seed", "3")) == {"--seed"}
    assert _changed(before, made("--stop", "a")) == {"--stop"}
    assert _changed(before, made(content=b"y")) == {"--input"}
    with weights.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\1")
    assert _changed(before, made()) == {"--model"}


def _changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one | other if one.get(name) != other.get(name)}


def test_batches_are_of_similar_length_and_the_longest_first() -> None:
    lengths = {0: 3, 1: 50, 2: 4, 3: 48, 5: 3}
    assert batches(lengths, 2) == [[1, 3], [2, 0], [5]]


def write(path: Path, dtype: str, array: np.ndarray) -> None:
    entry = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    header = json.dumps({path.stem: entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + array.tobytes())


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("F32", np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float32)),
        ("F16", np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float16)),
        ("BF16", np.array([[0x3FC0, 0xC000], [0x3E80, 0x4040]], dtype=np.uint16)),
    ],
)
def test_weights_are_float32(tmp_path: Path, dtype: str, array: np.ndarray) -> None:
    write(tmp_path / "model.safetensors", dtype, array)
    weights = Weights(tmp_path)
    assert weights["model"].dtype == np.float32
    assert weights["model"].tolist() == [[1.5, -2.0], [0.25, 3.0]]
    assert (list(weights), len(weights), weights.shape("model")) == (["model"], 1, (2, 2))


def test_changing_weights_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, "F32", np.zeros(4, dtype=np.float32))
    before = path.read_bytes()
    Weights(tmp_path)["model"][:] = 1.0
    assert path.read_bytes() == before


def test_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", "F32", np.ones(2, dtype=np.float32))
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(Weights(tmp_path)) == ["a", "b"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(RequestError, match=r"b\.safetensors is missing"):
        Weights(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, "F32", np.zeros(100, dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RequestError, match="truncated") as caught:
        Weights(tmp_path)
    assert caught.value.problems[0].where == str(path)


@pytest.mark.parametrize("index", ["{", "{}", "[]", '{"weight_map": 3}'])
def test_a_damaged_index(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(RequestError, match="index of the shards is damaged"):
        Weights(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no weights"):
        Weights(tmp_path)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", "I32", np.zeros(1, dtype=np.int32))
    with pytest.raises(RequestError, match="has the unsupported type I32"):
        Weights(tmp_path)


def test_an_adapter_of_another_base(tmp_path: Path) -> None:
    base, other, adapter = (tmp_path / name for name in ("base", "other", "adapter"))
    for folder, value in ((base, 0), (other, 1)):
        folder.mkdir()
        write(folder / "model.safetensors", "F32", np.full(3, value, dtype=np.float32))
    adapter.mkdir()
    check_base(adapter, other)  # made elsewhere: it is not recorded
    told = {"model": "models/base", "weights_sha256": weights_fingerprint(base)}
    (adapter / BASE).write_text(json.dumps(told))
    check_base(adapter, base)
    with pytest.raises(RequestError, match="was trained on base"):
        check_base(adapter, other)
    base.rename(tmp_path / "renamed")
    check_base(adapter, tmp_path / "renamed")
    (adapter / BASE).write_text("[]")
    with pytest.raises(RequestError, match="is not recorded"):
        check_base(adapter, other)


def test_an_adapter_in_bfloat16_is_read_as_numbers() -> None:
    halves = np.array([0x3F80, 0xC000, 0x0000], dtype=np.uint16)  # as Paddle hands them over
    assert _as_float32(halves).tolist() == [1.0, -2.0, 0.0]
    assert _as_float32(np.array([1.5], dtype=np.float16)).dtype == np.float32
