"""The parts of fine-tuning that need no framework."""

from __future__ import annotations

import errno
import json
import os
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from entrypoints.finetuning import batches, packing
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from entrypoints.runtime.stop import StopSignal
from entrypoints.training import checkpoints, data
from entrypoints.training.metrics import Metrics
from paddle_stacks.errors import MachineError, RequestError, Stopped
from paddle_stacks.jobs.records import Record


def example(length: int, start: int = 1) -> data.Example:
    ids = tuple(range(start, start + length))
    return data.Example(ids, (data.IGNORED, *(token + 1 for token in ids[1:])))


class Words:
    """A tokenizer whose tokens are characters, without a chat template."""

    chat_template = None
    eos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [ord(character) for character in text]}


class Template:
    """A chat template as jinja2's: renders roles and contents."""

    def render(self, messages, add_generation_prompt: bool) -> str:
        text = "".join(f"<{m['role'][0]}{m['content']}>" for m in messages)
        return text + "<a" * add_generation_prompt


class ChattingWords(Words):
    chat_template = Template()
    special_tokens_map: dict[str, str] = {}  # noqa: RUF012


def learned(found: data.Example) -> str:
    return "".join(chr(label) for label in found.labels if label > 0)


def test_without_a_template_the_answer_alone_is_learned() -> None:
    found, cut = data.Encoder(Words(), 10, 20).encode(Record("", ("ab",), ("cd",)))
    assert not cut
    assert found.input_ids == (1, ord("a"), ord("b"), ord("c"), ord("d"))
    assert found.labels == (-100, -100, ord("c"), ord("d"), 0)


def test_a_long_question_loses_its_start_and_a_long_answer_its_end() -> None:
    encoder = data.Encoder(Words(), 3, 5)
    found, cut = encoder.encode(Record("", ("abcdef",), ("wxyz",)))
    assert cut
    assert "".join(map(chr, found.input_ids)) == "defw"
    assert learned(found) == "wx"  # and no end of sequence, for it does not end there


def test_every_turns_answer_is_learned_with_its_end() -> None:
    found, cut = data.Encoder(ChattingWords(), 50, 100).encode(
        Record("", ("ab", "cd"), ("ef", "gh"))
    )
    assert not cut
    assert "".join(map(chr, found.input_ids)) == "<uab><aef><ucd><agh"
    assert learned(found) == "ef>gh>"


def test_early_turns_go_first() -> None:
    found, cut = data.Encoder(ChattingWords(), 5, 12).encode(Record("", ("ab", "cd"), ("ef", "gh")))
    assert cut
    assert "".join(map(chr, found.input_ids)) == "<ucd><agh"
    assert learned(found) == "gh>"


def test_records_without_a_label_are_left_out_and_counted() -> None:
    encoder = data.Encoder(ChattingWords(), 7, 8)
    encoded = encoder.encode_all(
        [Record("", ("abcdefgh",), ("xyz",)), Record("", ("a",), ("b",)), Record("", ("",), ("c",))]
    )
    assert encoded.cut == 1
    assert len(encoded.examples) == 3
    assert data.Encoder(ChattingWords(), 8, 8).encode_all(
        [Record("", ("abcdefgh",), ("xyz",))]
    ) == data.Encoded((), 1, 1)


def test_several_turns_without_a_template_are_faults_of_their_records() -> None:
    bad = Record("t.json:3", ("a", "b"), ("c", "d"))
    with pytest.raises(RequestError) as caught:
        data.Encoder(Words(), 8, 9).encode_all([bad, Record("", ("a",), ("b",)), bad])
    (problem,) = caught.value.problems
    assert problem.where == "t.json:3 and 1 more place: 3"


def test_a_system_message_is_in_the_example() -> None:
    record = Record("", ("ab",), ("cd",), system="s")
    found, cut = data.Encoder(ChattingWords(), 50, 100).encode(record)
    assert not cut
    assert "".join(map(chr, found.input_ids)) == "<ss><uab><acd"
    assert learned(found) == "cd>"
    in_context = Record("", ("ab",), ("cd",), {"system": "s"})
    assert data.Encoder(ChattingWords(), 50, 100).encode(in_context)[0] == found


def test_a_system_message_stays_when_early_turns_go() -> None:
    record = Record("", ("ab", "cd"), ("ef", "gh"), system="s")
    found, cut = data.Encoder(ChattingWords(), 50, 18).encode(record)
    assert cut
    assert "".join(map(chr, found.input_ids)) == "<ss><ucd><agh"


class WithoutSystem(Template):
    def render(self, messages, add_generation_prompt: bool) -> str:
        messages = [m for m in messages if m["role"] != "system"]
        return super().render(messages, add_generation_prompt)


@pytest.mark.parametrize(
    ("template", "record", "words"),
    [
        (None, Record("", ("a",), ("b",), system="s"), "a system message, but the model's"),
        (WithoutSystem(), Record("", ("a",), ("b",), system="s"), "not support system messages"),
        (Template(), Record("", ("a",), ("b",), {"name": "x"}), '"context" has "name"'),
    ],
)
def test_what_a_template_would_drop_is_refused(
    monkeypatch: pytest.MonkeyPatch, template: Template | None, record: Record, words: str
) -> None:
    monkeypatch.setattr(ChattingWords, "chat_template", template)
    with pytest.raises(RequestError, match=words):
        data.Encoder(ChattingWords(), 50, 100).encode(record)


@pytest.mark.parametrize("greedy", [False, True])
def test_packing_keeps_every_example_once_and_no_row_is_too_long(greedy: bool) -> None:
    lengths = [30, 5, 60, 64, 1, 33, 31, 20, 44, 64, 7]
    examples = [example(length, 100 * index) for index, length in enumerate(lengths)]
    packed = packing.pack(examples, 64, greedy=greedy)
    assert max(map(len, packed)) <= 64
    assert sorted(e.input_ids for row in packed for e in row.examples) == sorted(
        e.input_ids for e in examples
    )
    if greedy:
        assert len(packed) == 6  # 359 tokens need six rows of 64
    else:
        assert [e for row in packed for e in row.examples] == examples


def test_examples_in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    given = [Record("", (f"a{n} b",), ("c " * (1 + n % 5),)) for n in range(50)]
    encoder = data.Encoder(Words(), 8, 16)
    in_memory, in_file = encoder.encode_all(given), encoder.encode_all(given, tmp_path)
    assert list(in_file.examples) == list(in_memory.examples)
    assert in_file.examples[-1] == in_memory.examples[-1]
    assert list(tmp_path.iterdir()) == []  # the file has no name
    for greedy in (False, True):
        rows = [packing.pack(each.examples, 16, greedy=greedy) for each in (in_memory, in_file)]
        assert list(rows[0]) == list(rows[1])
        assert rows[1].sizes == [len(row) for row in rows[0]]
    with pytest.raises(IndexError):
        in_file.examples[50]


def test_tokens_in_a_file_are_not_in_memory(tmp_path: Path) -> None:
    store = data.ExampleFile(tmp_path)
    tracemalloc.start()
    for _ in range(200):
        store.append(data.Example(tuple(range(2000)), tuple(range(2000))))
    rows = packing.pack(store, 4000)
    assert len(rows[99]) == 4000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # of 3,200,000 bytes in the file, and tuples of many times that


def test_a_batch_has_the_places_and_tokens_of_its_labels() -> None:
    batch = batches.collate(packing.rows([example(3), example(5)]), batches.Padding(token=9))
    assert batch.input_ids.tolist() == [[1, 2, 3, 9, 9], [1, 2, 3, 4, 5]]
    assert batch.answers.tolist() == [1, 2, 6, 7, 8, 9]
    assert batch.targets.tolist() == [3, 4, 3, 4, 5, 6]
    assert batch.attention_mask is None
    assert batch.tokens == 8


def test_padding_to_a_multiple_and_to_a_length() -> None:
    rows = packing.rows([example(3)])
    assert batches.collate(rows, batches.Padding(0, multiple_of=8)).input_ids.shape == (1, 8)
    assert batches.collate(rows, batches.Padding(0, length=20)).input_ids.shape == (1, 20)


def test_packed_conversations_do_not_see_each_other() -> None:
    row = packing.Row((example(2), example(3)))
    batch = batches.collate([row, packing.Row((example(6),))], batches.Padding(0))
    assert batch.position_ids is not None
    assert batch.attention_mask is not None
    assert batch.position_ids[0].tolist() == [0, 1, 0, 1, 2, 0]
    assert batch.attention_mask[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert (batch.attention_mask[1] == np.tri(6, dtype=bool)).all()


def order_of(count: int, **settings) -> batches.Batches:
    return batches.Batches(
        packing.rows([example(1 + number % 9) for number in range(count)]),
        4,
        batches.Padding(0),
        **settings,
    )


def test_an_epochs_order_is_decided_by_seed_and_number() -> None:
    made = order_of(50, seed=1)
    assert made.order(3) == order_of(50, seed=1).order(3)
    assert made.order(3) != made.order(4)
    assert made.order(3) != order_of(50, seed=2).order(3)
    assert sorted(number for batch in made.order(3) for number in batch) == list(range(50))


def test_rows_of_like_length_come_together() -> None:
    made = order_of(64, seed=1)
    spread = [
        max(len(made.rows[n]) for n in batch) - min(len(made.rows[n]) for n in batch)
        for batch in made.order(0)
    ]
    assert max(spread) <= 1


def test_an_epoch_has_whole_steps() -> None:
    assert len(order_of(30, seed=1, accumulation=3)) == 6  # of eight batches
    assert len(list(order_of(30, seed=1, accumulation=3))) == 6
    assert len(order_of(6, seed=1, accumulation=3)) == 2  # fewer than a step takes
    assert len(order_of(30)) == 8


def write_checkpoint(run: Path, step: int) -> Path:
    with checkpoints.saving(run, step, {"train": "abc"}) as below:
        (below / f"checkpoint-{step}" / "deep").mkdir(parents=True)
        (below / f"checkpoint-{step}" / "weights").write_bytes(b"weights")
        (below / f"checkpoint-{step}" / "deep" / "state").write_bytes(b"state")
    return run / f"checkpoint-{step}"


def test_a_checkpoint_is_whole_when_its_name_appears(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 10)
    assert checkpoints.damage(folder) == ""
    assert checkpoints.open_complete(folder) == checkpoints.Checkpoint(folder, 10, {"train": "abc"})
    write_checkpoint(tmp_path, 9)
    assert [path.name for path in checkpoints.find_all(tmp_path)] == [
        "checkpoint-10",
        "checkpoint-9",
    ]
    assert not (tmp_path / ".saving").exists()


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 1)
    with pytest.raises(OSError, match="full"), checkpoints.saving(tmp_path, 1, {}) as below:
        (below / "checkpoint-1").mkdir()
        raise OSError("full")
    assert checkpoints.damage(folder) == ""
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "weights").unlink(), "weights is missing"),
        (lambda folder: (folder / "weights").write_bytes(b"w"), "has 1 bytes, expected 7"),
        (lambda folder: (folder / "weights").write_bytes(b"weighty"), "has changed"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "writing did not finish"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "checkpoint.json").write_text("[]"), "cannot be read"),
    ],
)
def test_damage_is_seen(tmp_path: Path, harm, words: str) -> None:
    folder = write_checkpoint(tmp_path, 2)
    harm(folder)
    assert words in checkpoints.damage(folder)


def test_metrics_of_lost_steps_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    for step in range(1, 6):
        metrics.append({"step": step, "loss": 1 / step})
    with path.open("a") as stream:
        stream.write('{"step": 6, "lo')  # a process that was killed
    resumed = Metrics(path, 3)
    resumed.append({"step": 4, "loss": 0.5})
    assert [entry["step"] for entry in resumed.entries()] == [1, 2, 3, 4]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert Metrics(path, 0).entries() == []


def test_a_folder_is_held_once(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with pytest.raises(RequestError, match=f"process {os.getpid()}"), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_is_the_machines_fault(tmp_path: Path, number: int) -> None:
    with pytest.raises(MachineError, match="cannot write") as caught, writing_below(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.status == 3
    assert caught.value.problems[0].where == str(tmp_path)
    with pytest.raises(FileNotFoundError), writing_below(tmp_path):
        (tmp_path / "nothing").read_text()


def test_a_signal_stops_at_once_until_it_is_deferred() -> None:
    with StopSignal(grace=30) as stop:
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.status == 143
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_launcher_says_it_three_times_and_means_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopSignal(grace=30) as stop:
        stop.defer()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        monkeypatch.setattr("entrypoints.runtime.stop._SAME_SECONDS", 0)  # and later
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_another_process_told_of_is_no_second_one() -> None:
    with StopSignal(grace=30) as stop:
        stop.defer()
        stop.report(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_that_was_learnt_has_its_grace_time_too() -> None:
    with StopSignal(grace=1) as stop:
        stop.defer()
        stop.report(signal.SIGTERM)
        with pytest.raises(Stopped, match="longer than 1 s"):
            signal.pause()


def test_the_grace_time_ends() -> None:
    with StopSignal(grace=1) as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="longer than 1 s") as caught:
            signal.pause()
        assert caught.value.status == 143


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
