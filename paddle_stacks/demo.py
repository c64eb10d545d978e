"""The demo: a small model learns facts about a fictional product and answers questions on it.

The questions are about facts in the training data, but are not in it themselves. The model
answers them before and after fine-tuning. An answer is right if it equals the expected one
after :func:`normalized`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks import launch, plan
from paddle_stacks.errors import JobError, RequestError
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.live import duration
from paddle_stacks.ownership import hand_over, run_as
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["GOAL", "Answer", "exact_match", "normalized", "run"]

MODEL = "smollm2-135m-instruct"
CONFIG = Path("configs", "jobs", "cpu", "finetune-lora.json")
QUESTIONS = Path("data", "demo", "heldout.jsonl")
NAME = "demo"

GOAL = 0.8
"""The minimum share of right answers of the fine-tuned model."""

_PHASES = {
    "engine": "Find a container engine",
    "images": "Find or build the images",
    "fetch": f"Fetch {MODEL}",
    "ask_before": "Ask the base model, which cannot know the answers",
    "finetune": "Fine-tune it with LoRA",
    "ask_after": "Ask again, with the adapter",
}
_SHOWN = 160  # characters of an answer that a table shows


@dataclass(frozen=True)
class Answer:
    """A question with its answers.

    Args:
        question: the question.
        expected: the right answer.
        before: the base model's answer.
        after: the fine-tuned model's answer.
    """

    question: str
    expected: str
    before: str
    after: str


@dataclass
class _Clock:
    """Prints the phases and measures their duration."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print the phase, and its duration if it succeeds."""
        number = list(_PHASES).index(name) + 1
        _say(f"\n[{number}/{len(_PHASES)}] {_PHASES[name]}", "bold cyan")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)
        _say(f"      {duration(self.seconds[name])}", "dim")


def run(settings: Settings) -> None:
    """Run the demo; its result goes to standard output and to ``runs/demo/summary.json``.

    Raises:
        StackError: a phase failed; the status is that phase's.
        JobError: the fine-tuned model misses the goal.
    """
    # The demo's data and configuration are in the repository.
    settings = dataclasses.replace(settings, workspace=settings.root)
    user = run_as(settings.root)
    folder = settings.root / "runs" / NAME
    held_back = _read_questions(settings.root / QUESTIONS)
    if (folder / "summary.json").exists():
        _say(f"replacing the results of an earlier run: {folder.relative_to(settings.root)}")
        (folder / "summary.json").unlink()
    clock = _Clock()
    with clock.phase("engine"):
        _find_engine()
    with clock.phase("images"):
        _find_images(settings)
    with clock.phase("fetch"):
        _job(settings, "fetch", MODEL)
    _write_questions(folder, held_back, user)
    with clock.phase("ask_before"):
        before = _ask(settings, folder / "before.jsonl")
    with clock.phase("finetune"):
        _job(settings, "finetune", "--config", str(CONFIG), "--name", NAME, "--resume", "never")
    with clock.phase("ask_after"):
        after = _ask(settings, folder / "after.jsonl", "--adapter", NAME)
    answers = [
        Answer(entry["prompt"], entry["answer"], before[entry["id"]], after[entry["id"]])
        for entry in held_back
    ]
    matches = {
        "before": exact_match((a.expected, a.before) for a in answers),
        "after": exact_match((a.expected, a.after) for a in answers),
        "questions": len(answers),
    }
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    summary = {
        "seconds": clock.seconds,
        "loss": {"first": result["first_loss"], "last": result["last_loss"]},
        "exact_match": matches,
    }
    with replacing_file(folder / "summary.json") as stream:
        json.dump(summary, stream, indent=2)
        stream.write("\n")
    hand_over(folder / "summary.json", user)
    _print_answers(answers)
    _print_summary(summary, folder.relative_to(settings.root))
    if matches["after"] < GOAL:
        raise JobError(
            f"the fine-tuned model answers {matches['after']:.0%} of the questions;"
            f" the goal is {GOAL:.0%}",
            where=str(folder / "after.jsonl"),
            remedy=f"see {folder / 'loss.png'} and {CONFIG}",
        )


def normalized(text: str) -> str:
    """Return an answer in the form that is compared.

    White space is removed at the ends and otherwise becomes single spaces, case is folded, and
    one full stop at the end, western or Chinese, is removed.
    """
    return " ".join(text.split()).casefold().removesuffix(".").removesuffix("。").rstrip()


def exact_match(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the share of pairs (expected, answer) that are equal after :func:`normalized`.

    Raises:
        ValueError: there are no pairs.
    """
    hits = [_right(expected, answer) for expected, answer in pairs]
    if not hits:
        raise ValueError("no answers to compare")
    return round(sum(hits) / len(hits), 4)


def _find_engine() -> None:
    from paddle_stacks import engine

    engine.ensure()


def _find_images(settings: Settings) -> None:
    import docker.errors

    from paddle_stacks import engine

    client = engine.connect()
    for image in ("train", "infer"):
        name = plan.image_name(image, settings.backend)
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            from paddle_stacks.build import build

            build(images=("train", "infer"), settings=settings)
            return
        _say(f"{name} exists")


def _job(settings: Settings, job: str, *arguments: str) -> None:
    status = launch.launch(job, arguments, settings)
    if status:
        # The job itself has printed the reason.
        error = JobError(
            f"the demo stops here: {job} ended with status {status}",
            remedy="see the job's message above, and runs/demo",
        )
        error.status = status
        raise error


def _ask(settings: Settings, output: Path, *more: str) -> dict[str, str]:
    """Ask the questions and return the answers by the questions' ids."""
    questions = output.with_name("questions.jsonl").relative_to(settings.root)
    _job(
        settings,
        "infer",
        *("--model", MODEL, *more, "--decode", "greedy", "--max-new-tokens", "64"),
        *("--input", str(questions), "--output", str(output.relative_to(settings.root))),
        "--force",
    )
    lines = output.read_text(encoding="utf-8").splitlines()
    return {entry["id"]: entry["text"] for entry in map(json.loads, lines)}


def _read_questions(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise RequestError(
            "the demo's questions are missing", where=str(path), remedy="git checkout data/demo"
        ) from error
    return [json.loads(line) for line in lines if line.strip()]


def _write_questions(folder: Path, held_back: list[dict[str, Any]], user: str) -> None:
    """Write the questions for ``infer``, without their answers."""
    for path in (folder.parent, folder):
        if not path.exists():
            path.mkdir()
            hand_over(path, user)
    path = folder / "questions.jsonl"
    with replacing_file(path) as stream:
        for entry in held_back:
            question = {"id": entry["id"], "prompt": entry["prompt"]}
            stream.write(json.dumps(question, ensure_ascii=False) + "\n")
    hand_over(path, user)


def _print_answers(answers: list[Answer]) -> None:
    if not sys.stdout.isatty():
        for answer in answers:
            print(f"Q        {_cut(answer.question)}")
            print(f"expected {_cut(answer.expected)}")
            print(f"before   {_mark(answer.expected, answer.before)} {_cut(answer.before)}")
            print(f"after    {_mark(answer.expected, answer.after)} {_cut(answer.after)}\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 1, 0))
    table.add_column("question", ratio=4, overflow="fold")
    for title in ("base model", "fine-tuned"):
        table.add_column("", width=1)
        table.add_column(title, ratio=5, overflow="fold")
    for answer in answers:
        before = _styled(answer.expected, answer.before)
        mark, after = _styled(answer.expected, answer.after)
        if not _right(answer.expected, answer.after):
            after.append(f"\nexpected: {_cut(answer.expected)}", style="yellow")
        table.add_row(_cut(answer.question), *before, mark, after)
    Console(highlight=False).print(table)


def _styled(expected: str, answer: str) -> tuple[Text, Text]:
    """Return the mark of an answer, and the answer."""
    from rich.text import Text

    right = _right(expected, answer)
    mark = Text(_mark(expected, answer), style="green" if right else "red")
    return mark, Text(_cut(answer), style="" if right else "dim")


def _print_summary(summary: Mapping[str, Any], folder: Path) -> None:
    match, loss = summary["exact_match"], summary["loss"]
    count = match["questions"]
    before, after = (round(match[when] * count) for when in ("before", "after"))
    print(f"right answers  {before} of {count} before, {after} of {count} after")
    print(f"loss           {loss['first']:.3f} at the first step, {loss['last']:.3f} at the last")
    print(f"took           {duration(sum(summary['seconds'].values()))}")
    print(f"see            {folder}/summary.json, {folder}/loss.png, {folder}/run.log")
    print(f"try it         ./inv infer --model {MODEL} --adapter {NAME} --chat")


def _right(expected: str, answer: str) -> bool:
    return normalized(expected) == normalized(answer)


def _mark(expected: str, answer: str) -> str:
    return "✓" if _right(expected, answer) else "✗"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _say(text: str, style: str = "") -> None:
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    Console(file=sys.stderr, highlight=False).print(Text(text, style=style))
