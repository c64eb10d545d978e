"""Training in several processes, with their events and errors.

Only the first process reports events, through a pipe, because Paddle's launcher redirects the
output of workers to files. A failing worker writes its error to a file, so that the job ends
with that error and its exit status instead of the launcher's.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from entrypoints.runtime import launcher
from entrypoints.runtime.console import print_events_to
from paddle_stacks.errors import JobError, Problem, StackError, Stopped

__all__ = ["run", "work"]

_REQUEST, _EVENTS, _FAILURES = "request.json", "events", "failure"
_FOLDER_VARIABLE = "PADDLE_STACKS_PROCESSES"
_WORKER = "entrypoints.training_worker"


def run(job: str, request: str, *, ranks: int, nodes: launcher.Nodes, folder: Path) -> None:
    """Run a training in several processes.

    Args:
        job: ``finetune`` or ``pretrain``.
        request: the training request as JSON.
        ranks: processes on this node.
        nodes: the nodes.
        folder: the run's, which also gets the logs of the processes.

    Raises:
        StackError: the error of the first worker that failed.
    """
    logs = folder / f"log{nodes.name}"
    launcher.check_devices(ranks, os.environ)
    with tempfile.TemporaryDirectory(prefix="paddle-stacks-") as name:
        shared = Path(name)
        (shared / _REQUEST).write_text(request, encoding="utf-8")
        variables = {
            **launcher.environment(os.environ),
            **(launcher.loopback() if nodes.count == 1 else {}),
            **_threads(ranks),
            _FOLDER_VARIABLE: name,
        }
        with _forwarded_events(shared / _EVENTS):
            try:
                launcher.launch(
                    [str(launcher.AS_MODULE), _WORKER, job],
                    variables,
                    "the training",
                    logs,
                    ranks=ranks,
                    nodes=nodes,
                    job=folder.name,
                    same=_same(request),
                    output=logs / "launcher.log",
                )
            except launcher.NodeLostError:
                raise  # the errors of the workers here are a consequence
            except (JobError, Stopped) as error:
                raise _first_failure(shared, error) from None


def _same(request: str) -> dict[str, str]:
    """Return the settings that must be equal on all nodes.

    For example, a node that started while others were still saving may have chosen another
    checkpoint.
    """
    own = ("grace", "peak_tflops")
    return {key: json.dumps(v) for key, v in json.loads(request).items() if key not in own}


def work(do: Callable[[str, int], None]) -> int:
    """Run the training in a worker process, and return the exit status.

    Args:
        do: called with the request and the rank of this process.
    """
    folder = Path(os.environ[_FOLDER_VARIABLE])
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    path = folder / _EVENTS if rank == 0 else Path(os.devnull)
    with path.open("w", encoding="utf-8") as stream:
        print_events_to(stream)
        try:
            do((folder / _REQUEST).read_text(encoding="utf-8"), rank)
            _exit_together()
        except StackError as error:
            _write_failure(folder, rank, error)
            return error.status
        except Exception as error:
            traceback.print_exc()  # into this process's log
            failure = JobError(
                f"{type(error).__name__}: {error}",
                where=f"process {rank}",
                remedy="the process's log in runs/NAME has the traceback; doctor --log explains it",
            )
            _write_failure(folder, rank, failure)
            return failure.status
    return 0


def _exit_together() -> NoReturn:
    """Exit when all processes are ready to, without any cleanup.

    Gloo's threads abort a process with SIGABRT when the peer of a connection has exited.
    """
    from paddle import distributed

    distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _threads(ranks: int) -> dict[str, str]:
    """Return the variable that divides the threads of one process among all."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    return {"OMP_NUM_THREADS": str(max(1, threads // ranks))}


@contextmanager
def _forwarded_events(pipe: Path) -> Iterator[None]:
    """Forward events from a pipe to standard error until the block ends."""
    os.mkfifo(pipe)
    # Open for writing here too, so that the pipe stays open.
    descriptor = os.open(pipe, os.O_RDWR)
    reader = pipe.open("r", encoding="utf-8", errors="replace")

    def listen() -> None:
        for line in reader:
            if line == _END:
                return
            print(line, end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(descriptor, _END.encode())
        thread.join()
        reader.close()
        os.close(descriptor)


_END = "\x04\n"


def _write_failure(folder: Path, rank: int, error: StackError) -> None:
    signum = error.status - 128 if isinstance(error, Stopped) else None
    failure = {"signum": signum, "problems": [asdict(problem) for problem in error.problems]}
    failure["status"] = error.status
    with contextlib.suppress(OSError):  # the disk may be full
        (folder / f"{_FAILURES}.{rank}").write_text(json.dumps(failure), encoding="utf-8")


def _first_failure(folder: Path, launcher_error: StackError) -> StackError:
    """Return the error of the worker that failed first, or the launcher's.

    A failing worker makes others fail too.
    """
    files = [path for path in folder.glob(f"{_FAILURES}.*") if path.stat().st_size]
    if not files:
        return launcher_error
    stopped = isinstance(launcher_error, Stopped)
    # After a signal all report the same; the first process reports the most.
    first = min(files, key=(lambda p: p.name) if stopped else (lambda p: p.stat().st_mtime_ns))
    failure = json.loads(first.read_text(encoding="utf-8"))
    problems = [Problem(**problem) for problem in failure["problems"]]
    if failure["signum"] is not None:
        signum = launcher_error.status - 128 if stopped else failure["signum"]
        return Stopped(signum, problems[0].what, problems[0].remedy)
    error = StackError(problems)
    error.status = failure["status"]
    return error
