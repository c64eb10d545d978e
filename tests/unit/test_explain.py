"""``explain`` and the index of errors: read from the sources, whole, and found by a message."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from paddle_stacks import settings, toml
from paddle_stacks.cli import explain as command
from paddle_stacks.doctor import CHECKS, logs
from paddle_stacks.errors import RequestError, StackError
from paddle_stacks.explain import answers, configuration, errors, page, pins, sources
from paddle_stacks.explain.templates import Hole, Template
from paddle_stacks.jobs import corpus, models, prompts, records, schema, workspace
from paddle_stacks.jobs.schema.keys import SCHEMAS
from paddle_stacks.plan import backend
from tests.support.doc_pages import blocks

ROOT = Path(__file__).parents[2]
INDEX = errors.load(ROOT)


def collect(source: str) -> dict[str, errors.Entry]:
    module = sources.Module("paddle_stacks/doctor/x.py", ast.parse(source))
    return {str(entry.what): entry for entry in errors.collect([module])}


# ------------------------------------------------------------------ the project's own index


def test_every_error_says_what_to_do() -> None:
    # Those too that say what another program said.
    every = errors.collect(sources.load(ROOT), least=0)
    assert len(every) > len(INDEX) > 700
    without = [
        f"{entry.path}:{entry.line}: {entry.what}"
        for entry in every
        if entry.kind != "answer" and not all(remedy.parts for remedy in entry.remedies)
    ]
    assert without == [], "these errors need a remedy: what does the person who reads it do?"


def test_the_page_is_made_from_the_sources() -> None:
    abouts = sources.abouts(sources.load(ROOT))
    made = page.as_markdown(INDEX, abouts, CHECKS, logs.known())
    there = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert there == made, "./inv errors --markdown > docs/errors.md"


def test_the_page_of_keys_is_made_from_the_sources() -> None:
    made = page.keys_as_markdown(configuration.key_rows(ROOT))
    there = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    assert there == made, "./inv keys --markdown > docs/keys.md"


def test_the_page_has_every_check_and_every_known_failure() -> None:
    there = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name in (*(c.name for c in CHECKS), *(f.name for f in logs.known())):
        assert f"| `{name}` |" in there


def test_an_error_has_the_status_that_its_class_has() -> None:
    def status(message: str) -> str:
        return errors.who_says(message, INDEX)[0].status

    assert status('no suite is named "x"') == "2"
    assert status("no docker command") == "3"
    assert status("paddle is not in the lock") == "4"
    assert status("there is no evaluation data") == "5"
    assert status("stopped by signal 2") == "128+n"


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paddle-stacks.toml").write_text('regsitry = "x"\nbackend = 3\n')
    (tmp_path / "bad.json").write_text('{"learning_rate": "x", "lora_rank": 0, "epochs": 1,}')
    (tmp_path / "good.json").write_text(
        '{"learning_rate": "x", "lora_rank": 0, "do_train": false, "max_step": 3, "fp16": 2}'
    )
    (tmp_path / "train.json").write_text('{"src": 1}\n\n[]\n{"src": "a", "tgt": ""}\n{')
    return tmp_path


@pytest.mark.parametrize(
    "fails",
    [
        lambda here: settings.load(here),
        lambda here: settings.load(here.parent, {"workspace": "nowhere"}),
        lambda here: settings.load(here.parent, environ={"PADDLE_STACKS_BACKENDS": "cpu"}),
        lambda here: backend.load("gpu", ROOT),
        lambda here: backend.load("cpu", ROOT, "all"),
        lambda here: schema.load(here / "bad.json"),
        lambda here: schema.load(here / "good.json"),
        lambda here: schema.load(here / "none.json"),
        lambda here: records.check(here),
        lambda here: prompts.parse(b'{"id": 1}\n{"id": 1, "prompt": "a"}\n\xff\n[]', "x"),
        lambda here: prompts.parse(b'{"id": [], "prompt": 1}\n{"id": 2, "promt": "a"}', "x"),
        lambda here: models.parse_source("floppy:x"),
        lambda here: workspace.find_run("x"),
        lambda here: corpus.sources(["nowhere"], None),
    ],
)
def test_what_is_said_is_found(workshop: Path, fails: object) -> None:
    assert callable(fails)
    with pytest.raises(StackError) as caught:
        fails(workshop)
    for problem in caught.value.problems:
        found = errors.who_says(errors.message_of(problem.what), INDEX)
        assert found, problem.what
        assert problem.remedy, problem.what
        fixes = [remedy for entry in found for remedy in entry.remedies]
        # A suggestion in front may be empty, and the blank behind it stripped.
        told = (problem.remedy, f" {problem.remedy}")
        assert any(fix.fits(text) for fix in fixes for text in told), problem


# ------------------------------------------------------------------ reading sources


@pytest.mark.parametrize(
    ("source", "what", "remedies"),
    [
        ('raise RequestError("too bad", remedy="be good")', "too bad", ["be good"]),
        ('raise RequestError("a" "bcde", where="x")', "abcde", [""]),
        ('raise RequestError(f"no {x.name}, no {y!r} here")', "no {name}, no {y} here", [""]),
        ('MAX = 3\nraise RequestError(f"more than {MAX} lines")', "more than 3 lines", [""]),
        ('MAX = 0.3\nraise RequestError(f"more than {MAX:.0%} bad")', "more than {max} bad", [""]),
        (
            'def f(a):\n if a:\n  what, fix = "one thing", "do one"\n else:\n'
            '  what = "another"\n  fix = "do two"\n raise RequestError(what, remedy=fix)',
            "another",
            ["do two"],
        ),
        (
            'def f(what, fix=""):\n return RequestError(what, remedy=fix)\n'
            'raise f("first thing", "do one")',
            "first thing",
            ["do one"],
        ),
        (
            "class _Bad(ValueError):\n def __init__(self, why, fix=''):\n  self.why = why\n"
            "def f():\n raise _Bad('so bad', 'mend it')\n"
            "def g():\n try:\n  f()\n except _Bad as bad:\n"
            "  raise RequestError(bad.why, remedy=bad.fix or 'see below')",
            "so bad",
            ["mend it"],
        ),
        (
            'def f():\n checks = (("--a", 1, "above"), ("--b", 2, "below"))\n'
            ' return [Problem(f"{a}: has to be {right}", "", right) for a, _, right in checks]',
            "--b: has to be below",
            ["below"],
        ),
        (
            'def faults():\n if x:\n  yield "this thing"\n yield f"that {thing}"\n'
            'def f():\n for fault in faults():\n  raise RequestError(fault, remedy="mend")',
            "that {thing}",
            ["mend"],
        ),
        (
            'def f():\n told = f"of {n} things"\n raise RequestError(f"one {told}", remedy="do")',
            "one of {n} things",
            ["do"],
        ),
        (
            'def f():\n for told in ("begun",):\n  pass\n told = "done"\n'
            ' raise RequestError(f"it is {told}", remedy="do")',
            "it is {told}",
            ["do"],
        ),
        (
            'def f():\n faults = []\n faults += [f"{x} is odd" for x in found]\n'
            ' raise RequestError([Problem(fault, "", "mend") for fault in faults])',
            "{x} is odd",
            ["mend"],
        ),
        (
            'def f():\n hint = did_you_mean(a, b)\n raise RequestError("nothing", remedy=hint)',
            "nothing",
            ['did you mean "{word}"?', ""],
        ),
    ],
)
def test_a_message_is_read_with_what_to_do(source: str, what: str, remedies: list[str]) -> None:
    found = collect(source)
    assert what in found, sorted(found)
    assert [str(remedy) for remedy in found[what].remedies] == remedies


def test_findings_and_answers_are_read_too() -> None:
    found = collect('error("no card", "buy one")\nraise ApiError(404, f"no model {x}")')
    assert (found["no card"].kind, found["no card"].status) == ("finding", "3")
    assert found["no model {x}"].status == "HTTP 404"


def test_a_problem_has_the_status_of_the_error_that_carries_it() -> None:
    source = (
        "def a():\n return [Problem('of the machine')]\n"
        "def b():\n problems = a()\n raise MachineError(problems)\n"
        "def c():\n raise BuildError([Problem('of a build')])\n"
        "def d():\n raise RequestError([])\n"
    )
    found = collect(source)
    assert found["of the machine"].status == "3"
    assert found["of a build"].status == "4"


# ------------------------------------------------------------------ finding


def test_a_hole_holds_anything_and_its_content_is_told() -> None:
    template = Template(("no ", Hole("kind"), ' is named "', Hole("name"), '"'))
    assert template.values('no image is named ""') == {"kind": "image", "name": ""}
    assert template.filled({"name": "x"}) == 'no {kind} is named "x"'
    assert not template.fits('no image is named "x" here')


A, B = Hole("a"), Hole("b")


@pytest.mark.parametrize(
    ("parts", "text", "held"),
    [
        (("x",), "x", {}),
        (("x",), "xx", None),
        (("x",), "", None),
        ((A,), "", {"a": ""}),
        ((A,), "x\ny", {"a": "x\ny"}),
        ((A, B), "xy", {"a": "", "b": "xy"}),
        ((A, "x"), "xxx", {"a": "xx"}),
        ((A, "x"), "xxy", None),
        (("x", A), "yx", None),
        (("x", A, "y", B, "z"), "x1y2y3z", {"a": "1", "b": "2y3"}),
        (("ab", A, "bc"), "abc", None),
        ((A, ": ", B), "x: y: z", {"a": "x", "b": "y: z"}),
    ],
)
def test_holes_are_filled_from_left_to_right(
    parts: tuple[str | Hole, ...], text: str, held: dict[str, str] | None
) -> None:
    template = Template(parts)
    assert template.fits(text) == (held is not None)
    assert template.values(text) == (held or {})


def test_a_long_text_takes_no_longer_for_its_holes() -> None:
    template = Template((A, ": ", A, ": ", A, ": ", A, ": ", A, ": ", A, " end"))
    assert not template.fits(": " * 100_000)  # a backtracking search would not come back


@pytest.mark.parametrize(
    "pasted",
    [
        'no suite is named "fast"',
        'error: no suite is named "fast"',
        '\x1b[31m\x1b[1merror:\x1b[0m no suite is named "fast"\n   at: --suite\n  fix: x',
        'Making .venv\nerror: no suite is named "fast"\nerror: another\n',
    ],
)
def test_a_message_is_found_with_whatever_stands_around_it(pasted: str) -> None:
    (topic,) = answers.answer(pasted, ROOT).topics
    assert topic.name == 'no suite is named "{suite}"'
    assert ("said in", topic.to_json()["facts"]["said in"][0]) in topic.facts
    assert topic.to_json()["facts"]["status"] == [
        "2: the request is wrong: arguments, configuration or data"
    ]


def test_the_closest_message_wins() -> None:
    found = errors.who_says("the GGUF file is damaged or truncated: a string is not UTF-8", INDEX)
    assert [str(entry.what) for entry in found] == ["the GGUF file is damaged or truncated: {what}"]


def test_an_unknown_message_is_told_what_it_resembles() -> None:
    with pytest.raises(RequestError) as caught:
        answers.answer("no suite was named x", ROOT)
    assert 'no suite is named "{suite}"' in caught.value.problems[0].remedy


@pytest.mark.parametrize("asked", ["", "  \n", "error:", "\x00", "(" * 1000, "x" * 100_000])
def test_nonsense_is_refused(asked: str) -> None:
    with pytest.raises(RequestError):
        answers.answer(asked, ROOT)


def test_the_answer_is_one_document() -> None:
    document = json.loads(json.dumps(answers.answer("no docker command", ROOT).to_json()))
    assert document["asked"] == "no docker command"
    assert document["topics"][0]["kind"] == "error"


# ------------------------------------------------------------------ everything else that has a name


def explained(word: str) -> list[answers.Topic]:
    return list(answers.answer(word, ROOT, *command.tasks_and_options()).topics)


def facts(word: str, kind: str) -> dict[str, list[str]]:
    (topic,) = (topic for topic in explained(word) if topic.kind == kind)
    found: dict[str, list[str]] = topic.to_json()["facts"]
    return found


def test_every_pin_says_why() -> None:
    found = list(pins.pins(ROOT))
    assert len(found) > 60
    assert [f"{p.path}:{p.line}: {p.text}" for p in found if not p.why] == [], (
        "a pin needs a reason: a comment behind it, or above its group"
    )


def test_what_is_pinned_is_in_the_locks_that_it_is_for() -> None:
    known = {topic.name: topic for topic in pins.topics(ROOT)}
    assert known["pyarrow"].facts[-1][1].startswith("18.0.0 in ")
    versions = known["paddlenlp"].facts[-1][1]
    for image in ("framework:cpu", "infer:dcu", "train:cpu"):
        assert image in versions
    assert known["onnx"].facts[-1] == ("locked", "in no image")


@pytest.mark.parametrize(
    ("word", "kind", "part"),
    [
        ("framework", "image", "Paddle, PaddleNLP"),
        ("base-dtk", "stage", "env.sh"),
        ("paddle-stacks.backend", "label", ""),
        ("DTK_IMAGE", "build variable", "a DCU's images"),
        ("pyarrow==18.0.0", "pin", "NumPy 2"),
        ("urllib3", "package", "another package"),
        ("--devices", "option", "cards"),
        ("learning-rate", "key", "--config"),
        ("lora_rank", "key", "The rank of LoRA's matrices"),
        ("merge", "key", "upstream does not have it"),
        ("ca_bundle", "setting", "certificates"),
        ("PADDLE_STACKS_DEBUG", "variable", "traceback"),
        ("HSA_FORCE_FINE_GRAIN_PCIE", "variable", "hangs"),
        ("https_proxy", "variable", "https_proxy"),
        ("MPLCONFIGDIR", "variable", "read-only"),
        ("ROCM_PATH", "variable", "env.sh"),
        ("dcu-sim", "backend", "simulated"),
        ("shm_mib", "backend's key", "/dev/shm"),
        ("infer", "job", "answer a prompt"),
        ("doctor", "task", "machine"),
        ("lora-13b", "recipe", "LoRA"),
        ("llama-2-13b", "model", ""),
        ("driver-dtk", "check", "driver"),
        ("hyhal-mismatch", "failure", "/opt/hyhal"),
        ("4", "exit status", "build"),
        ("status 137", "exit status", "SIGKILL"),
        ("libgalaxyhip.so.5: cannot open shared object file", "failure", "DTK"),
    ],
)
def test_what_has_a_name_is_explained(word: str, kind: str, part: str) -> None:
    found = [topic for topic in explained(word) if topic.kind == kind]
    assert found, [topic.kind for topic in explained(word)]
    assert part in found[0].says
    assert found[0].says or found[0].facts


def test_an_image_says_where_it_stands() -> None:
    found = facts("framework", "image")
    assert found["starts from"] == ["base"]
    assert found["starts"] == ["code, ops-cpu, ops-dcu"]
    assert "paddle-stacks/framework:${BACKEND}" in found["tag"]


def test_an_option_that_means_several_things_is_explained_for_each() -> None:
    found = [topic.to_json()["facts"]["of"][0] for topic in explained("--output")]
    assert len(found) > 2
    assert any("infer" in of for of in found)
    assert any("export" in of for of in found)


def test_a_check_says_what_it_can_find() -> None:
    assert any("modprobe" in said for said in facts("driver", "check")["can say"])


def test_everything_with_a_name_says_something() -> None:
    for topic in answers.everything(ROOT, *command.tasks_and_options()):
        assert topic.name
        assert topic.says or topic.facts, topic
        json.dumps(topic.to_json())


def test_a_word_that_is_nothing_is_told_what_is_near() -> None:
    with pytest.raises(RequestError) as caught:
        explained("trian")
    assert "`train`" in caught.value.problems[0].remedy


def test_every_task_has_a_sentence() -> None:
    summaries, options = command.tasks_and_options()
    assert set(summaries) == set(tasks.namespace.task_names)
    assert all(summaries.values())
    assert [f"{o.task} {o.name}" for o in options if not o.help] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["errors.md", "keys.md"])
def test_the_commands_of_the_page_are_run(tmp_path: Path, name: str) -> None:
    message = tmp_path / "message.txt"
    message.write_text('error: no backend is named "gpu"\n   at: x\n')
    (block,) = blocks(ROOT / "docs" / name)
    inv = f"{sys.executable} -m paddle_stacks.cli"
    for line in block.commands:
        done = subprocess.run(
            ["sh", "-c", line.text.replace("./inv", inv).replace("message.txt", str(message))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_every_key_that_has_an_effect_has_a_meaning_and_no_other() -> None:
    meanings = toml.read(ROOT / configuration.MEANINGS)
    keys = [key for schema in SCHEMAS.values() for key in schema.keys.values()]
    acting = {key.name for key in keys if key.acts}
    assert set(meanings) == acting
    for name, said in meanings.items():
        assert said[0].isupper() and said.endswith("."), name
