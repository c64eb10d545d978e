"""Tries what a job must not be able to do; runs in the container, as the job would.

Standard library only, and x86-64's numbers of system calls. Prints one JSON object: for each
attempt whether it succeeded, and what happened. What succeeds is undone, or is harmless.
``probe.json`` beside it says what to look for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TOLD: dict[str, Any] = json.loads(Path(__file__).with_name("probe.json").read_text())
LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: dict[str, Callable[[], str]] = {}
"""By name: each returns what it got, or raises."""


class Refused(Exception):
    """The attempt came to nothing."""


def attempt(function: Callable[[], str]) -> Callable[[], str]:
    ATTEMPTS[function.__name__.replace("_", " ")] = function
    return function


def call(number: int, *arguments: Any) -> int:
    """Make a system call; raise what the kernel says against it."""
    done: int = LIBC.syscall(number, *arguments)
    if done == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def in_a_child(function: Callable[[], str]) -> str:
    """Do something that changes this process in another one."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            said = "+" + function()
        except BaseException as error:
            said = f"-{error}"
        os.write(writing, said.encode()[:500])
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.fdopen(reading).read()
    if not said.startswith("+"):
        raise Refused(said[1:] or "it died")
    return said[1:]


# ---------------------------------------------------------------- becoming somebody else


@attempt
def become_root() -> str:
    if os.getuid() == 0:  # where the workspace is root's; rights are the next attempt's matter
        raise Refused("it is root already, without a capability")

    def change() -> str:
        os.setuid(0)
        return "setuid(0)"

    return in_a_child(change)


@attempt
def hold_a_capability() -> str:
    status = Path("/proc/self/status").read_text()
    held = {
        line.split(":")[0]: line.split()[1]
        for line in status.splitlines()
        if line.startswith("Cap") and int(line.split()[1], 16)
    }
    if not held:
        raise Refused("all five sets are empty")
    return str(held)


@attempt
def run_a_setuid_program() -> str:
    """A copy of ``id`` that belongs to another user, with the set-user-id bit."""
    mine = os.geteuid()
    done = subprocess.run([TOLD["set_user_id"], "-u"], capture_output=True, text=True, check=True)
    if int(done.stdout) == mine:
        raise Refused(f"it ran as {mine}")
    return f"it ran as {done.stdout.strip()}"


@attempt
def use_sudo_or_su() -> str:
    for words in (["sudo", "-n", "id"], ["su", "-c", "id"]):
        if shutil.which(words[0]):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode == 0:
                return words[0]
    raise Refused("neither lets it")


@attempt
def create_a_user_namespace() -> str:
    def unshare() -> str:
        call(272, 0x10000000)  # CLONE_NEWUSER
        return "CLONE_NEWUSER"

    return in_a_child(unshare)


@attempt
def chroot() -> str:
    def change() -> str:
        os.chroot("/tmp")
        return "chroot(/tmp)"

    return in_a_child(change)


# ---------------------------------------------------------------- writing elsewhere


@attempt
def write_to_image_files() -> str:
    for folder in ("/", "/etc", "/usr/bin", "/opt/venv/bin", "/opt/paddle-stacks", "/root", "/var"):
        with contextlib.suppress(OSError):
            path = Path(folder, ".probe")
            path.write_text("")
            path.unlink()
            return folder
    raise Refused("none of them")


@attempt
def replace_the_code_of_the_job() -> str:
    for name in ("entrypoints/__main__.py", "paddle_stacks/errors.py"):
        with contextlib.suppress(OSError):
            path = Path("/opt/paddle-stacks", name)
            with path.open("r+b"):
                return str(path)
    raise Refused("read only")


@attempt
def write_outside_tmp_and_the_workspace() -> str:
    """Wherever something is mounted; what is in memory is the container's own."""
    allowed = ("/workspace", "/tmp", "/dev", "/proc", "/sys")
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in found:
        if place == "/" or place.startswith(allowed):
            continue
        target = Path(place, ".probe") if Path(place).is_dir() else Path(place)
        with contextlib.suppress(OSError):
            with target.open("a"):
                pass
            if target.name == ".probe":
                target.unlink()
            return place
    raise Refused("no other mount takes it")


@attempt
def modify_code_that_runs_on_the_host() -> str:
    """Those of its own user, of a checkout that is the workspace."""
    for name in TOLD["runs_on_the_host"]:
        path = Path("/workspace", name)
        with contextlib.suppress(OSError):
            # One that is not there is not the host's: nothing is gained by making it.
            with path.open("r+") as stream:
                stream.write("the job's ")
            return str(path)
    raise Refused("none of them is there, or none can be written")


@attempt
def write_files_of_another_user() -> str:
    with Path(TOLD["others_file"]).open("a"):
        return TOLD["others_file"]


@attempt
def mount_a_file_system() -> str:
    place = Path("/tmp/probe-mount")
    place.mkdir(exist_ok=True)
    call(165, b"none", str(place).encode(), b"tmpfs", 0, None)
    call(166, str(place).encode(), 0)
    return "tmpfs"


@attempt
def remount_root_as_writable() -> str:
    call(165, None, b"/", None, 0x20 | 0x1000, None)  # MS_REMOUNT | MS_BIND
    Path("/.probe").write_text("")
    Path("/.probe").unlink()
    return "remounted"


@attempt
def open_a_host_file_by_handle() -> str:
    """open_by_handle_at, by which containers once left their root."""
    with _descriptor("/workspace") as descriptor:
        handle = ctypes.create_string_buffer(8 + 128)
        ctypes.c_uint.from_buffer(handle).value = 128
        mount = ctypes.c_int()
        call(303, -100, b"/workspace", handle, ctypes.byref(mount), 0)
        os.close(call(304, descriptor, handle, os.O_RDONLY))
    return "open_by_handle_at"


@contextlib.contextmanager
def _descriptor(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- the machine and its kernel


@attempt
def change_kernel_settings() -> str:
    path = Path("/proc/sys/kernel/core_pattern")
    value = path.read_text()
    with path.open("w") as stream:
        stream.write(value)
    return str(path)


@attempt
def trigger_sysrq() -> str:
    with Path("/proc/sysrq-trigger").open("r+"):  # nothing is written; not every kernel has it
        return "/proc/sysrq-trigger"


@attempt
def change_its_own_limits() -> str:
    for path in (
        "/sys/fs/cgroup/pids/pids.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/pids.max",
        "/sys/fs/cgroup/memory.max",
    ):
        with contextlib.suppress(OSError), Path(path).open("w"):
            return path
    raise Refused("read only")


@attempt
def load_a_kernel_module() -> str:
    try:
        call(175, None, 0, b"")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
    return "init_module looks at what it is given"


@attempt
def load_a_bpf_program() -> str:
    """bpf(BPF_PROG_LOAD); an empty one would be refused as invalid."""
    attributes = ctypes.create_string_buffer(128)
    try:
        call(321, 5, attributes, 128)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
    return "bpf looks at what it is given"


@attempt
def use_the_kernel_keyring() -> str:
    """add_key and keyctl: keyrings are not divided among containers."""
    call(248, b"user", b"probe", b"x", 1, -1)
    return "add_key"


@attempt
def use_io_uring() -> str:
    parameters = ctypes.create_string_buffer(256)
    os.close(call(425, 1, parameters))
    return "io_uring_setup"


# ---------------------------------------------------------------- others


@attempt
def reach_the_container_engine() -> str:
    for path in (
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/run/podman/podman.sock",
    ):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as stream:
            stream.connect(path)
            return path
    raise Refused("no socket of an engine")


@attempt
def see_host_processes() -> str:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if TOLD["process"].encode() in (folder / "cmdline").read_bytes():
                return str(folder)
    raise Refused("only its own are there")


@attempt
def signal_or_trace_host_processes() -> str:
    number = TOLD["process_id"]
    with contextlib.suppress(OSError):
        if TOLD["process"].encode() in Path(f"/proc/{number}/cmdline").read_bytes():
            os.kill(number, 0)
            return f"kill({number})"
    raise Refused("no such process")


@attempt
def read_host_files() -> str:
    for root in ("/", "/proc/1/root", "/proc/self/root", "/host"):
        with contextlib.suppress(OSError):
            return Path(root, TOLD["host_file"].lstrip("/")).read_text()
    raise Refused("it is not there")


@attempt
def read_secrets_of_other_jobs() -> str:
    """In files, in its own variables and in those of the other processes."""
    seen = b""
    for folder in (Path("/run/secrets"), Path("/run"), Path("/var/run"), Path("/etc/docker")):
        with contextlib.suppress(OSError):
            for path in folder.rglob("*"):
                with contextlib.suppress(OSError):
                    if path.is_file() and path.stat().st_size < 2**20:
                        seen += path.read_bytes()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            seen += path.read_bytes()
    found = [name for name, mark in TOLD["secrets"].items() if mark.encode() in seen]
    if not found:
        raise Refused("none is there")
    return ", ".join(found)


# ---------------------------------------------------------------- devices


@attempt
def create_a_device_node() -> str:
    for folder in ("/tmp", "/workspace", "/dev"):
        with contextlib.suppress(OSError):
            path = Path(folder, "probe-node")
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            try:
                with path.open("rb"):
                    return str(path)
            finally:
                path.unlink()
    raise Refused("nowhere")


@attempt
def open_host_memory_and_disks() -> str:
    names = ["mem", "kmsg", "port", "kvm", "fuse", "loop-control", "net/tun", "vhost-net"]
    disks = sorted(Path("/sys/class/block").glob("*"))
    for name in [*names, *(path.name for path in disks)]:
        with contextlib.suppress(OSError), _descriptor(f"/dev/{name}"):
            return f"/dev/{name}"
    raise Refused("none can be opened")


@attempt
def open_devices_outside_its_plan() -> str:
    """Everything in /dev but what every container has, and what the plan names."""
    usual = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}
    kept = ("/dev/pts/", "/dev/fd/", "/dev/shm/", "/dev/mqueue/")
    for path in Path("/dev").rglob("*"):
        mode = path.lstat().st_mode
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            continue
        name = str(path)
        if path.name in usual or name.startswith((*kept, *TOLD["devices"])):
            continue
        with contextlib.suppress(OSError), _descriptor(name):
            return name
    raise Refused("there is no other")


# ---------------------------------------------------------------- network


@attempt
def reach_the_network() -> str:
    """A port of the machine's, and any interface besides the loopback."""
    for address, port in TOLD["addresses"]:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=3):
            return f"{address}:{port}"
    raise Refused("network is unreachable")


@attempt
def send_raw_packets() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return "a packet socket"


# ---------------------------------------------------------------- exhausting it


@attempt
def start_unlimited_processes() -> str:
    """Threads, which count as processes do; a few more than the limit are enough to know."""
    wanted, gate = TOLD["processes"], threading.Event()
    threading.stack_size(64 * 1024)
    started = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise Refused(f"{error}: {len(started)} of {wanted}") from None
    finally:
        gate.set()
        for thread in started:
            thread.join()
    return f"{wanted} threads"


def main() -> None:
    assert platform.machine() == "x86_64"
    found = {}
    for name, do in ATTEMPTS.items():
        try:
            found[name] = (True, do())
        except (Refused, OSError) as error:
            found[name] = (False, str(error))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
