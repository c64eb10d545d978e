"""Run jobs in forks of one process that has imported Paddle: ``warm_server.py SOCKET MODULE …``.

It runs as a container's first process, with the rights to make namespaces. A job gets its own
mount and process namespaces, its workspace at ``/workspace``, an empty ``/tmp``, the caller's
user and no capability, as ``docker run`` gives it; what it saves is the start of a container
and the imports. The server ends when its standard input is closed, and its jobs with it.

A request is one line of JSON on a connection of its own (see :class:`Request`), with the job's
standard input, output and error as file descriptors. Further lines are signal numbers. The
answer is the job's exit status.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import faulthandler
import fcntl
import functools
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 40
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
HOST = "/host"
"""The mount of the folder with all workspaces; jobs do not see it."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Request:
    """A job to run.

    Args:
        argv: the job and its arguments, or ``python FILE ARGUMENT …``.
        workspace: its folder, relative to :data:`HOST`.
        user: the user and the group that it runs as.
        environ: variables beyond the image's own.
        network: whether it has the container's network, or its own loopback only.
    """

    argv: list[str]
    workspace: str
    user: tuple[int, int]
    environ: dict[str, str]
    network: bool


def main(argv: list[str]) -> None:
    """Import the modules, then serve until standard input is closed."""
    path, *modules = argv
    for module in modules:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([0, listener], [], [], 1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if 0 in readable:
            return
        if listener in readable:
            connection, _ = listener.accept()
            if _fork() == 0:
                listener.close()
                _serve(connection)
            connection.close()


def _fork() -> int:
    """Fork while the libraries' threads wait; return the child's process id, in it 0."""
    _wait_until_threads_sleep()
    return os.fork()


def _wait_until_threads_sleep() -> None:
    """Return when the libraries' threads wait, so that none of them holds a lock.

    A child has only the thread that forks: a lock that another one holds stays locked in it.
    Paddle's statistics (bvar's SamplerCollector) take a lock once a second, and at once in
    the thread that they start in a forked child: a child that forks in turn would copy it
    locked, and the job would hang at its exit.
    """
    before = None
    while True:
        threads = _other_threads()
        if threads == before and all(state == "S" for state, _ in threads.values()):
            return
        before = threads
        time.sleep(0.002)


def _other_threads() -> dict[str, tuple[str, str]]:
    """Return the state of this process's other threads, and how often each has waited."""
    threads = {}
    for thread in Path("/proc/self/task").iterdir():
        if int(thread.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # one that has just ended
            lines = (thread / "status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            state, waits = fields["State"].split()[0], fields["voluntary_ctxt_switches"].strip()
            threads[thread.name] = (state, waits)
    return threads


def _serve(connection: socket.socket) -> None:
    """Run one job; the process that calls this is the connection's own."""
    line, descriptors = _receive(connection)
    request = Request(**json.loads(line))
    _call(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID))
    if not request.network:
        _call(_libc.unshare(_CLONE_NEWNET))
        _bring_loopback_up()
    init = _fork()
    if init == 0:
        connection.close()
        _be_init(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    status = _supervise(connection, init)
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % status)
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[str, list[int]]:
    """Return the request's line and the three descriptors that came with it."""
    descriptors = array.array("i")
    space = socket.CMSG_LEN(3 * descriptors.itemsize)
    line, ancillary, _, _ = connection.recvmsg(1 << 20, space)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data)
    while not line.endswith(b"\n"):
        line += connection.recv(1 << 20)
    return line.decode(), list(descriptors)


def _supervise(connection: socket.socket, init: int) -> int:
    """Forward signals to the job until it ends; kill it if the caller disconnects."""
    ended = os.pidfd_open(init)
    waiting = [ended, connection]
    while ended not in (readable := select.select(waiting, [], [])[0]):
        if connection in readable:
            line = connection.recv(64)
            for word in line.split() or [str(int(signal.SIGKILL))]:
                os.kill(init, int(word))
            if not line:
                waiting.remove(connection)
    _, status = os.waitpid(init, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _be_init(request: Request, descriptors: list[int]) -> NoReturn:
    """Be the first process of the job's namespace, as tini is in a container."""
    _make_root(request)
    job = _fork()
    if job == 0:
        _run(request, descriptors)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
        signal.signal(number, lambda received, _: os.kill(job, received))
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)
    while True:
        child, status = os.wait()
        if child == job:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _make_root(request: Request) -> None:
    """Mount what the job sees; nothing of it reaches the server's own namespace."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount(f"{HOST}/{request.workspace}", "/workspace", None, _MS_BIND)
    _mount("tmpfs", "/tmp", "tmpfs", 0)
    _mount("proc", "/proc", "proc", 0)
    _call(_libc.umount2(HOST.encode(), _MNT_DETACH))


def _run(request: Request, descriptors: list[int]) -> NoReturn:
    """Become the job, and end as its main module does."""
    os.setsid()
    faulthandler.register(signal.SIGUSR1)  # by which a test asks where a job hangs
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        if descriptor > 2:
            os.close(descriptor)
    _drop_rights(*request.user)
    os.environ.update(request.environ)
    forked_python = importlib.import_module("forked_python")  # beside this file, in the container
    forked_python.install(_fork)
    os.chdir("/workspace")
    # A process that starts gets new ones; this one has its parent's.
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    end_with: Callable[[Callable[[], None]], NoReturn] = forked_python.end_with_status_of
    end_with(functools.partial(_run_program, request.argv))


def _run_program(argv: list[str]) -> None:
    if argv[0] == "python" and argv[1].endswith(".py"):
        sys.argv = argv[1:]
        sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = ["entrypoints", *argv]
        runpy.run_module("entrypoints", run_name="__main__", alter_sys=True)


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _drop_rights(user: int, group: int) -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _call(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    words = [word and word.encode() for word in (source, target, kind)]
    _call(_libc.mount(*words, ctypes.c_ulong(flags), None))


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
