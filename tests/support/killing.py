"""Signal a job repeatedly, and check its outputs each time."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.completeness import left_over
from tests.support.job_containers import STATUS, TIMEOUT, Stamped, hurt, start
from tests.support.kill_at_change import COUNTED
from tests.support.runner import Finished
from tests.support.scenarios import Scenario

_MORE_OFTEN = 4  # a second of saving gets as many kills as this many of anything else
_MOST_STARTS = 4  # for each kill that is wanted; some kills come after a job's end
# Every eighth start is a container of its own, which Docker signals; the others are forks.
_CONTAINER_EVERY = 8


@dataclass(frozen=True)
class Undisturbed:
    """An uninterrupted run.

    Args:
        complete: its outputs, by name.
        lines: from its start to its first line, from each line to the next, and to its end,
            in seconds, and whether it was saving then.
        changes: of the file system.
    """

    complete: dict[str, str]
    lines: tuple[tuple[float, bool], ...]
    changes: int


@dataclass(frozen=True)
class Moment:
    """When a job is killed: before a change of the file system, or a while after a line.

    Args:
        change: its number, from 1; 0: at a line.
        line: the number of lines before it.
        delay: seconds after the last line.
    """

    change: int = 0
    line: int = 0
    delay: float = 0.0


@dataclass
class Outcomes:
    """Statistics of the signals to a job.

    Args:
        hit: number of signals by the job's phase.
        followed: number of runs after a kill by how they handled existing outputs.
        containers: number of signals to separate containers.
    """

    hit: Counter[str] = field(default_factory=Counter)
    followed: Counter[str] = field(default_factory=Counter)
    containers: int = 0

    def __iadd__(self, other: Outcomes) -> Outcomes:
        self.hit += other.hit
        self.followed += other.followed
        self.containers += other.containers
        return self

    def __str__(self) -> str:
        hit = [f"{n} {when}" for when, n in sorted(self.hit.items()) if when != AFTER]
        followed = [f"{n} {how}" for how, n in sorted(self.followed.items())]
        late = f"{self.hit[AFTER]} came too late"
        containers = f"{self.containers} of containers"
        return f"{', '.join(hit)} ({containers}); then {', '.join(followed)}; {late}"

    @property
    def hits(self) -> int:
        """Return the number of signals that reached a running job."""
        return sum(count for when, count in self.hit.items() if when != AFTER)


BEFORE, WORKING, SAVING, AFTER = "before its work", "at work", "while saving", "after its end"
ON, ANEW, KEPT = "went on", "began anew", "was whole"


def watch(scenario: Scenario, workspace: Path) -> Undisturbed:
    """Run a job to its end, and record its outputs and the times of its phases."""
    argv = [*scenario.argv, *scenario.reference]
    running = start(argv, workspace, environ=scenario.environ, change=0, forks=_can_fork(scenario))
    began = time.monotonic()  # the first fork waits for its server
    done = running.wait()
    ended = time.monotonic()
    assert done.status == 0, done.stderr
    assert isinstance(running.lines, Stamped)
    counted = int(running.lines.pop().removeprefix(COUNTED))
    times = [began, *running.lines.times[: len(running.lines)], ended]
    saving = [False, *_saving(running.lines, scenario)]
    lengths = [later - earlier for earlier, later in itertools.pairwise(times)]
    return Undisturbed(
        scenario.complete(workspace), tuple(zip(lengths, saving, strict=True)), counted
    )


def _can_fork(scenario: Scenario) -> bool:
    """Return whether forks can run it; libraries read the hub's address when they are imported."""
    return not scenario.environ


def _saving(lines: Sequence[str], scenario: Scenario) -> list[bool]:
    """Return for each line whether the job saves after it."""
    steps, phase = [], ""
    for index, line in enumerate(lines):
        phase = line.removeprefix("== ").strip() if line.startswith("== ") else phase
        follows = lines[index + 1] if index + 1 < len(lines) else ""
        steps.append(phase in scenario.saving or follows.startswith("saved "))
    return steps


def pick(undisturbed: Undisturbed, chance: random.Random, *, by: signal.Signals) -> Moment:
    """Choose a moment in time, or, for half of all kills, a change of the file system."""
    if by == signal.SIGKILL and chance.random() < 0.5:
        return Moment(change=chance.randint(1, undisturbed.changes))
    weights = [length * (_MORE_OFTEN if saves else 1) for length, saves in undisturbed.lines]
    [line] = chance.choices(range(len(weights)), weights)
    return Moment(line=line, delay=chance.uniform(0, undisturbed.lines[line][0]))


class Chain:
    """A job that is signalled until one of its runs completes, then starts over.

    Args:
        scenario: the job.
        fresh: the initial workspace, which is copied.
        folder: for the copies.
        undisturbed: an uninterrupted run.
        chance: chooses the moments.
        by: the signal.
    """

    def __init__(
        self,
        scenario: Scenario,
        fresh: Path,
        folder: Path,
        undisturbed: Undisturbed,
        chance: random.Random,
        by: signal.Signals,
    ) -> None:
        self._scenario = scenario
        self._fresh = fresh
        self._folder = folder
        self._undisturbed = undisturbed
        self._chance = chance
        self._by = by
        self.outcomes = Outcomes()
        self._starts = 0

    def run(self, kills: int) -> Outcomes:
        """Interrupt the job a number of times, and check what follows each time."""
        while self.outcomes.hits < kills:
            workspace = self._workspace()
            older = self._scenario.complete(workspace)
            was_hurt = False
            while True:
                assert self._starts < _MOST_STARTS * kills, (
                    f"{self.outcomes}: jobs end before kills"
                )
                enough = self.outcomes.hits >= kills
                moment = None if enough else pick(self._undisturbed, self._chance, by=self._by)
                if not self._start(workspace, moment, older, was_hurt):
                    break
                was_hurt = True
            shutil.rmtree(workspace)
        return self.outcomes

    def _workspace(self) -> Path:
        workspace = self._folder / "workspace"
        shutil.copytree(self._fresh, workspace)
        return workspace

    def _start(
        self, workspace: Path, moment: Moment | None, older: dict[str, str], was_hurt: bool
    ) -> bool:
        """Start the job on the files of the previous run; return whether it was interrupted."""
        before = self._scenario.complete(workspace)
        reached = self._scenario.progress(workspace)
        self._starts += 1
        forks = _can_fork(self._scenario) and self._starts % _CONTAINER_EVERY != 0
        done = _until(self._scenario, workspace, moment, self._by, forks)
        context = f"{moment}\n{done.stderr}"
        after = self._scenario.complete(workspace)
        assert "Traceback" not in done.stderr, context
        if done.status != STATUS[self._by]:
            self._ended(workspace, moment, done, before, was_hurt)
            return False
        assert moment is not None, context
        self.outcomes.hit[_when(done, workspace, self._scenario)] += 1
        self.outcomes.containers += not forks
        if was_hurt:
            self.outcomes.followed[_how(done, self._scenario)] += 1
        for name, digest in after.items():
            if self._by == signal.SIGTERM and name not in self._undisturbed.complete:
                # Saved because of the request to stop; the next run verifies it.
                assert name.startswith("checkpoint-"), f"{name}: {context}"
                continue
            expected = (self._undisturbed.complete.get(name), older.get(name))
            assert digest in expected, f"{name} is not what it has to be: {context}"
        lost = {name for name in before if not name.startswith(("step ", "checkpoint-"))}
        assert not lost - set(after), f"lost {lost - set(after)}: {context}"
        finished = set(after) & {"model", "corpus", "answers", "adapter"}
        now = self._scenario.progress(workspace)
        assert now >= reached or finished, f"from {reached} back to {now}: {context}"
        return True

    def _ended(
        self,
        workspace: Path,
        moment: Moment | None,
        done: Finished,
        before: dict[str, str],
        was_hurt: bool,
    ) -> None:
        if moment is not None:
            self.outcomes.hit[AFTER] += 1
        context = f"{moment}\n{done.stderr}"
        if done.status == 2 and "answers" in before:
            # The documented answer to an output that is there, whole.
            assert "the output exists" in done.stderr, context
        elif done.status == 2 and "model" in before and "--force" not in self._scenario.argv:
            assert "exists already" in done.stderr, context
        else:
            assert done.status == 0, context
        if was_hurt:
            self.outcomes.followed[_how(done, self._scenario)] += 1
        complete = self._scenario.complete(workspace)
        expected = self._undisturbed.complete
        for name in set(expected) | set(complete):
            if not name.startswith("checkpoint-"):
                assert complete.get(name) == expected.get(name), f"{name} differs: {context}"
        assert not left_over(workspace), f"{left_over(workspace)} is left: {context}"


def _until(
    scenario: Scenario, workspace: Path, moment: Moment | None, by: signal.Signals, forks: bool
) -> Finished:
    """Run the job to its end, or to the moment."""
    change = moment.change if moment is not None and moment.change else None
    environ = scenario.environ
    running = start(scenario.argv, workspace, environ=environ, change=change, forks=forks)
    if moment is None or change:
        return running.wait(TIMEOUT)
    while len(running.lines) < moment.line and running.process.poll() is None:
        time.sleep(0.002)
    time.sleep(moment.delay)
    hurt(running, by)
    return running.wait()


def _when(done: Finished, workspace: Path, scenario: Scenario) -> str:
    """Return a killed job's phase, from its log and files."""
    phases = [line[3:] for line in done.stderr.splitlines() if line.startswith("== ")]
    if not phases:
        return BEFORE
    saving = phases[-1] in scenario.saving
    return SAVING if saving or any(workspace.glob("runs/*/.saving")) else WORKING


def _how(done: Finished, scenario: Scenario) -> str:
    """Return how a job after a kill handles existing outputs, from its log."""
    if any(words in done.stderr for words in scenario.goes_on):
        return ON
    return KEPT if any(w in done.stderr for w in ("finished", "exists")) else ANEW
