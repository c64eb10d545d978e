"""A training in several processes: started, listened to, and its failure told as one error.

The first process of all speaks; what it reports comes through a pipe, since Paddle's launcher
keeps its workers' output in files. A worker that fails leaves its error in a file, so that the
job ends with that error and its exit status, and not with the launcher's.
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
    """Run a training in several processes, to the end.

    Args:
        job: ``finetune`` or ``pretrain``.
        request: what it is to do.
        ranks: processes here.
        nodes: the machines.
        folder: the run's; the processes' logs go below it.

    Raises:
        StackError: what the first worker that failed said.
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
        with _heard(shared / _EVENTS):
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
                raise  # what the workers say here is what came of it
            except (JobError, Stopped) as error:
                raise _told(shared, error) from None


def _same(request: str) -> dict[str, str]:
    """Return what has to be the same on all nodes, of which each looks by itself.

    One that was started while the last processes were still saving may have found another
    checkpoint than the others.
    """
    own = ("grace", "peak_tflops")
    return {key: json.dumps(v) for key, v in json.loads(request).items() if key not in own}


def work(do: Callable[[str, int], None]) -> int:
    """Do a worker's part in this process, which the launcher started, and return its status.

    Args:
        do: gets the request and this process's number among all.
    """
    folder = Path(os.environ[_FOLDER_VARIABLE])
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    path = folder / _EVENTS if rank == 0 else Path(os.devnull)
    with path.open("w", encoding="utf-8") as stream:
        print_events_to(stream)
        try:
            do((folder / _REQUEST).read_text(encoding="utf-8"), rank)
            _leave_together()
        except StackError as error:
            _tell(folder, rank, error)
            return error.status
        except Exception as error:
            traceback.print_exc()  # into this process's log
            failure = JobError(
                f"{type(error).__name__}: {error}",
                where=f"process {rank}",
                remedy="the process's log has the traceback: runs/NAME, and doctor --log reads it",
            )
            _tell(folder, rank, failure)
            return failure.status
    return 0


def _leave_together() -> NoReturn:
    """End this process when the others can too, without taking anything apart.

    Gloo's threads end a process with SIGABRT when the other side of a connection is gone,
    which it is for the last one to leave.
    """
    from paddle import distributed

    distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _threads(ranks: int) -> dict[str, str]:
    """Return the variable that divides the threads that one process would have."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    return {"OMP_NUM_THREADS": str(max(1, threads // ranks))}


@contextmanager
def _heard(pipe: Path) -> Iterator[None]:
    """Print what comes through a pipe on standard error, until the block ends."""
    os.mkfifo(pipe)
    # Open for writing here too, so that it has no end before ours.
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


def _tell(folder: Path, rank: int, error: StackError) -> None:
    signum = error.status - 128 if isinstance(error, Stopped) else None
    failure = {"signum": signum, "problems": [asdict(problem) for problem in error.problems]}
    failure["status"] = error.status
    with contextlib.suppress(OSError):  # the disk may be what is full
        (folder / f"{_FAILURES}.{rank}").write_text(json.dumps(failure), encoding="utf-8")


def _told(folder: Path, otherwise: StackError) -> StackError:
    """Return the error of the worker that failed first, or the launcher's where none told one.

    A worker that fails takes the others with it, which may have something to tell as well.
    """
    files = [path for path in folder.glob(f"{_FAILURES}.*") if path.stat().st_size]
    if not files:
        return otherwise
    stopped = isinstance(otherwise, Stopped)
    # Told to stop, all of them say the same; the first process says it best.
    first = min(files, key=(lambda p: p.name) if stopped else (lambda p: p.stat().st_mtime_ns))
    failure = json.loads(first.read_text(encoding="utf-8"))
    problems = [Problem(**problem) for problem in failure["problems"]]
    if failure["signum"] is not None:
        signum = otherwise.status - 128 if stopped else failure["signum"]
        return Stopped(signum, problems[0].what, problems[0].remedy)
    error = StackError(problems)
    error.status = failure["status"]
    return error
