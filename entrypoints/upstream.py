"""The ``upstream`` job: a script of PaddleNLP's ``llm/``, as it is, from the source in the image.

Upstream's own instructions have everybody change into ``llm/`` and write there. Here
that folder cannot be written: the scripts run in the workspace, find their modules by
``PYTHONPATH``, and a configuration of theirs by its name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from entrypoints.arguments import parser
from entrypoints.console import note, phase, report, warn
from entrypoints.training.disk import writing_below
from entrypoints.training.lock import locked
from paddle_stacks.errors import (
    JobError,
    MachineError,
    Problem,
    RequestError,
    Stopped,
    did_you_mean,
)
from paddle_stacks.jobs import documented, platforms, upstream
from paddle_stacks.jobs.arguments import as_upstream
from paddle_stacks.jobs.files import replacing_file

__all__ = ["RESULT", "TREE", "Command", "command", "main", "run", "run_with_config"]

TREE = Path("/opt/PaddleNLP")
"""PaddleNLP's source in the image, read-only."""

RESULT = "result.json"
LAUNCHER_LOG = "log"

# What Paddle's launcher (3.0.0b2) reads from the environment, and prefers to its arguments.
_LAUNCHER_VARIABLES = (
    *("POD_IP", "PADDLE_MASTER", "PADDLE_DEVICES", "PADDLE_NNODES", "PADDLE_NPROC_PER_NODE"),
    *("PADDLE_RANK", "PADDLE_TRAINER_ID", "PADDLE_JOB_ID", "PADDLE_LOG_DIR", "PADDLE_RUN_MODE"),
    *("PADDLE_IPS", "PADDLE_SERVER_NUM", "PADDLE_TRAINER_NUM", "CUDA_VISIBLE_DEVICES"),
)
_AS_MODULE = Path(__file__).with_name("as_module.py")
_KILL_AFTER = 40  # seconds; the host kills after 45


@dataclass(frozen=True)
class Command:
    """What is started.

    Args:
        argv: its command line.
        environment: all of its variables.
        run: the run's folder, below the workspace.
        node: what tells this node's files there from another's; empty for one node.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    run: Path
    node: str = ""

    @property
    def logs(self) -> Path:
        """The folder in which Paddle's launcher keeps what each process says."""
        return self.run / (LAUNCHER_LOG + self.node)


def main(argv: list[str]) -> int:
    """Run the script that ``argv`` names, and return 0."""
    return run(parser("upstream").parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Check a run, carry it out, and return 0.

    Args:
        arguments: of ``upstream``.

    Raises:
        RequestError: there is no such script, or it is known to fail with these arguments.
        MachineError: the source is not in the image, or there are too few cards.
        JobError: the script failed.
        Stopped: a signal came, or the script died of one.
    """
    made = command(arguments, os.environ)
    # The nodes of one run share its folder, and each holds a lock of its own.
    with writing_below(made.run), locked(made.run, f".lock{made.node}"):
        (made.run / RESULT).unlink(missing_ok=True)
        phase(f"run upstream's {arguments.script}")
        begun = time.monotonic()
        _carry_out(made, arguments.script)
        with replacing_file(made.run / RESULT) as stream:
            seconds = round(time.monotonic() - begun, 1)
            json.dump({"script": arguments.script, "argv": made.argv, "seconds": seconds}, stream)
            stream.write("\n")
    report("result", run=str(made.run), seconds=seconds)
    return 0


def run_with_config(job: str, script: str, argv: list[str]) -> int:
    """Run a job that is a script with a configuration, and return 0.

    Args:
        job: its name.
        script: upstream's.
        argv: the job's arguments.
    """
    arguments = parser(job).parse_args(argv)
    if not (TREE / "llm").is_dir():
        raise RequestError(
            f"{job} runs upstream's program, which is not in an image for {platforms.current()}",
            where=job,
            remedy=f"./inv {job} --backend dcu --recipe NAME (./inv recipes --backend dcu)",
        )
    return main(as_upstream(script, arguments))


def command(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Command:
    """Return what is started for the arguments, after a check of all that can be known."""
    path = _find_script(arguments.script)
    words = _with_found_config(arguments.arguments)
    source = path.read_text(encoding="utf-8", errors="replace")
    nodes = _Nodes.of(arguments, environ)
    _check(arguments, words, source, nodes)
    words += _without_visualdl(words, source)
    folder = upstream.run_folder(arguments)
    program = [str(path)]
    if re.search(r"^from \.", source, re.MULTILINE):
        # Part of a package: run by its path it cannot import its neighbours.
        module = path.relative_to(TREE / "llm").with_suffix("").parts
        program = [str(_AS_MODULE), ".".join(module)]
    if arguments.ranks > 1 or nodes.count > 1:
        variables = {**(_loopback() if nodes.count == 1 else {}), **_environment(environ)}
        made = Command((*program, *words), variables, folder, nodes.name)
        launcher = _launcher(arguments.ranks, nodes, made, environ)
        return replace(made, argv=(*launcher, *made.argv))
    return Command((sys.executable, "-u", *program, *words), _environment(environ), folder)


@dataclass(frozen=True)
class _Nodes:
    """The machines that train together.

    Args:
        count: how many.
        master: where they meet; empty for one machine.
        rank: which of them this is; None: they find that out.
    """

    count: int = 1
    master: str = ""
    rank: int | None = None

    @property
    def name(self) -> str:
        """What tells this node's files from another's: empty for one node."""
        if self.count == 1:
            return ""
        return f"-{socket.gethostname() if self.rank is None else self.rank}"

    @classmethod
    def of(cls, arguments: argparse.Namespace, environ: Mapping[str, str]) -> _Nodes:
        """Return what the arguments say, or else what a cluster put into the environment."""
        count = arguments.nnodes or _number(environ, "PADDLE_NNODES") or 1
        master = arguments.master or environ.get("PADDLE_MASTER", "")
        rank = arguments.rank
        for variable in ("PADDLE_RANK", "PADDLE_TRAINER_ID"):
            rank = _number(environ, variable) if rank is None else rank
        problems = []
        if count > 1 and not re.fullmatch(r"(etcd://)?.+:\d+", master):
            what = f"{count} nodes have to know where they meet"
            remedy = "--master HOST:PORT with an address of node 0, or PADDLE_MASTER"
            problems.append(Problem(what, "--master", remedy))
        if rank is not None and not -1 <= rank < count:
            what = f"there is no node {rank} among {count}"
            problems.append(Problem(what, "--rank", f"from 0 to {count - 1}, on each node another"))
        if problems:
            raise RequestError(problems)
        # The launcher's own -1 means that nobody has said it.
        return cls(count, master if count > 1 else "", None if rank == -1 else rank)


def _find_script(name: str) -> Path:
    """Return a script below ``llm/``."""
    root = TREE / "llm"
    if not root.is_dir():
        raise MachineError(
            f"PaddleNLP's programs are not in this image, which is for {platforms.current()}",
            where=str(root),
            remedy="they are in the images for a DCU: ./inv build --backend dcu",
        )
    path = root / name.removeprefix("llm/")
    if path.is_file() and path.suffix == ".py" and root in path.resolve().parents:
        return path
    known = sorted(str(found.relative_to(root)) for found in root.rglob("*.py"))
    ends = [script for script in known if Path(script).name == Path(name).name]
    hint = f'did you mean "{ends[0]}"?' if ends else did_you_mean(name, known)
    top = ", ".join(script for script in known if "/" not in script)
    raise RequestError(
        f"there is no script {name}", where=str(root), remedy=f"{hint} scripts: {top}".strip()
    )


def _with_found_config(words: Sequence[str]) -> list[str]:
    """Return the words with upstream's own configuration, where one is meant, by its path."""
    if not words or not words[0].endswith(".json"):
        return list(words)
    found = _find_config(words[0])
    if found is None:
        known = sorted(str(p.relative_to(TREE / "llm")) for p in (TREE / "llm").rglob("*.json"))
        same = [name for name in known if Path(name).name == Path(words[0]).name]
        near = [name for name in same if "llama" in name] or same
        hint = f'did you mean "{near[0]}"?' if near else did_you_mean(words[0], known)
        raise RequestError(
            f"there is no configuration {words[0]}, neither in the workspace nor in llm/",
            where="upstream",
            remedy=hint,
        )
    return [str(found), *words[1:]]


def _find_config(name: str) -> Path | None:
    candidates = (Path(name), TREE / "llm" / name)
    return next((path for path in candidates if path.is_file()), None)


def _check(arguments: argparse.Namespace, words: Sequence[str], source: str, nodes: _Nodes) -> None:
    found = upstream.options(arguments.script, words, _find_config)
    own = words[1:] if found.config is not None else words

    def declares(name: str) -> bool:
        return re.search(rf"^    {name}\s*:", source, re.MULTILINE) is not None

    world = arguments.ranks * nodes.count
    problems = upstream.faults(found, own, world=world, declares=declares)
    wanted = upstream.wants_bf16(found)
    if wanted and platforms.current() == "dcu" and not arguments.allow_bf16:
        right = "--dtype float16" if wanted == "dtype" else "--bf16 false --fp16 true"
        problems.append(
            Problem(
                f'"{wanted}" asks for bfloat16, which a K100_AI does not have',
                found.where(wanted),
                f"add {right}; on a card that has it: --allow-bf16",
            )
        )
    _check_packages(found)
    if found.config is not None:
        told = documented.key_problems(
            [key for key in found.values if not found.where(key).startswith("--")], found.where
        )
        if TREE in found.config.parents:
            # Nobody can mend it there, and upstream's parser understands it.
            for problem in told:
                warn(f"{problem.where}: {problem.what}")
        else:
            problems += told
    if problems:
        raise RequestError(problems)


def _without_visualdl(words: Sequence[str], source: str) -> list[str]:
    """Return what keeps upstream's trainer from a logger that the image does not have.

    Unless it is told, it logs to every program that it knows, and VisualDL is always
    among them.
    """
    if "TrainingArguments" not in source or importlib.util.find_spec("visualdl"):
        return []
    config = _find_config(words[0]) if words and words[0].endswith(".json") else None
    told = any(word.partition("=")[0] == "--report_to" for word in words)
    if told or (config is not None and '"report_to"' in config.read_text(errors="replace")):
        return []
    note("without VisualDL, which is not in the image: --report_to none")
    return ["--report_to", "none"]


def _check_packages(found: upstream.Options) -> None:
    """Refuse what needs a package that the image does not have, before models are loaded."""
    quantizes = any(found.on(key) for key in ("do_ptq", "do_gptq", "do_qat", "load_quant_model"))
    if quantizes and importlib.util.find_spec("paddleslim") is None:
        raise MachineError(
            "upstream quantizes with PaddleSlim, which is not in this image",
            where=found.script,
            remedy="the images for a DCU have it: ./inv build --backend dcu",
        )


def _launcher(
    ranks: int, nodes: _Nodes, made: Command, environ: Mapping[str, str]
) -> tuple[str, ...]:
    line = [sys.executable, "-u", "-m", "paddle.distributed.launch"]
    line += ["--log_dir", str(made.logs), "--job_id", made.run.name]
    if platforms.device(platforms.current()) == "gpu":
        _check_visible(ranks, environ)
        line += ["--devices", ",".join(str(index) for index in range(ranks))]
    else:
        line += ["--nproc_per_node", str(ranks)]
    if nodes.count > 1:
        line += ["--nnodes", str(nodes.count), "--master", nodes.master]
        line += ["--rank", str(nodes.rank)] if nodes.rank is not None else []
    return tuple(line)


def _check_visible(ranks: int, environ: Mapping[str, str]) -> None:
    """Refuse more processes than visible cards: the launcher would start them all the same."""
    for variable in ("HIP_VISIBLE_DEVICES", "PADDLE_DEVICES"):
        text = environ.get(variable)
        if text is None:
            continue
        cards = [card for card in text.split(",") if card.strip()]
        if len(cards) < ranks:
            raise RequestError(
                f"{ranks} processes need {ranks} cards, and {variable} names {len(cards)}",
                where=f"{variable}={text}",
                remedy=f"--ranks {len(cards)}, or more cards" if cards else "name some cards",
            )


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the script's variables.

    Paddle's launcher prefers variables to its arguments, so what has been decided
    here leaves no variable that says it again.
    """
    own = str(Path(__file__).resolve().parents[1])
    paths = [path for path in environ.get("PYTHONPATH", "").split(":") if path and path != own]
    kept = {name: value for name, value in environ.items() if name not in _LAUNCHER_VARIABLES}
    return {**kept, "PYTHONPATH": ":".join([str(TREE), str(TREE / "llm"), *paths])}


def _loopback() -> dict[str, str]:
    """Return the variables by which the processes of a machine without a network meet.

    A container without one cannot resolve its own name, and Gloo, which Paddle starts
    beside RCCL, and instead of it on a CPU, ends with "network …: cannot be obtained".
    """
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return {}


def _carry_out(made: Command, script: str) -> None:
    """Start the command, hand signals on, and raise what its end means."""
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if child is not None:
            _signal(child, signal.SIGTERM)
        signal.alarm(_KILL_AFTER)

    def give_up(signum: int, frame: FrameType | None) -> None:
        if child is not None:
            _signal(child, signal.SIGKILL)

    watched = {signal.SIGTERM: hand_on, signal.SIGINT: hand_on, signal.SIGALRM: give_up}
    before = {signum: signal.signal(signum, handler) for signum, handler in watched.items()}
    try:
        # A session of its own: its helpers get the signals too, and a terminal's go to us.
        child = subprocess.Popen(made.argv, env=dict(made.environment), start_new_session=True)
        if received:  # between the first line and this one
            _signal(child, signal.SIGTERM)
        status = child.wait()
    except OSError as error:
        raise MachineError(f"cannot start {made.argv[0]}: {error.strerror}") from error
    finally:
        signal.alarm(0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if status == 0:
        return
    if received:
        raise Stopped(received[0], f"stopped: {script} has been ended")
    logs = f"; each process's output is in {made.logs}/workerlog.*"
    where = logs if made.logs.is_dir() else ""
    if status < 0:
        raise Stopped(-status, f"{script} was killed by signal {-status}{_meaning(-status)}{where}")
    raise JobError(
        f"upstream's {script} ended with status {status}",
        where=str(made.logs) if where else "",
        remedy=f"what it says is above{where}",
    )


def _meaning(signum: int) -> str:
    return ": the memory may not have sufficed" if signum == signal.SIGKILL else ""


def _signal(child: subprocess.Popen[bytes], signum: int) -> None:
    try:
        os.killpg(child.pid, signum)
    except ProcessLookupError:
        note("the script has ended already")


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RequestError(f'{name} is "{text}", not a number', where="environment") from None
