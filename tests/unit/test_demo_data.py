"""The demo's data is whole, and its held-back questions are held back."""

import difflib
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "data" / "demo"


def _lines(name):
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def _turns(name):
    """All (question, answer) pairs; a record of several turns has several."""
    for record in _lines(name):
        src, tgt = record["src"], record["tgt"]
        yield from [(src, tgt)] if isinstance(src, str) else zip(src, tgt, strict=True)


def _plain(text):
    return re.sub(r"\W", "", text).casefold()


def _is_chinese(text):
    return any("\u4e00" <= character <= "\u9fff" for character in text)


@pytest.mark.parametrize("name", ["train.json", "dev.json"])
def test_records_have_questions_and_answers(name):
    for question, answer in _turns(name):
        assert question.strip() == question and question
        assert answer.strip() == answer and answer


def test_held_back_lines_have_three_keys_and_unique_ids():
    held = _lines("heldout.jsonl")
    assert all(set(line) == {"id", "prompt", "answer"} for line in held)
    assert len({line["id"] for line in held}) == len(held) >= 30


def test_both_languages_are_asked():
    chinese = [line for line in _lines("heldout.jsonl") if _is_chinese(line["answer"])]
    assert len(chinese) >= 10
    assert len(_lines("heldout.jsonl")) - len(chinese) >= 20


def test_several_turns_are_among_the_records():
    assert any(isinstance(record["src"], list) for record in _lines("train.json"))


def test_no_held_back_question_is_one_of_training():
    seen = {_plain(question) for name in ("train.json", "dev.json") for question, _ in _turns(name)}
    assert not [line for line in _lines("heldout.jsonl") if _plain(line["prompt"]) in seen]


def test_no_held_back_question_is_nearly_one_of_training():
    """A different mark or one different letter is not a paraphrase."""
    seen = [_plain(question) for question, _ in _turns("train.json")]
    for line in _lines("heldout.jsonl"):
        near = difflib.get_close_matches(_plain(line["prompt"]), seen, n=1, cutoff=0.9)
        assert not near, (line["prompt"], near)


def test_every_held_back_answer_is_taught_several_times():
    taught = [answer for _, answer in _turns("train.json")]
    for line in _lines("heldout.jsonl"):
        assert taught.count(line["answer"]) >= 4, line


def test_a_question_has_one_answer():
    answers = {}
    for question, answer in _turns("train.json"):
        answers.setdefault(_plain(question), set()).add(answer)
    # A follow-up question of a later turn depends on what was asked before it.
    first = {_plain(r["src"]) for r in _lines("train.json") if isinstance(r["src"], str)}
    assert not {q: a for q, a in answers.items() if q in first and len(a) > 1}


def test_the_readme_tells_the_numbers():
    text = (FOLDER / "README.md").read_text()
    for name in ("train.json", "dev.json", "heldout.jsonl"):
        assert f"| `{name}` | {len(_lines(name))} |" in text
