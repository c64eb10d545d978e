"""What every Python process of the images does first, without the images."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "images" / "framework" / "paddle_stacks_startup.py"

AVX2 = "fpu sse avx fma avx2"
AVX512 = f"{AVX2} avx512f avx512dq avx512bw avx512vl"


@pytest.fixture(scope="module")
def startup() -> ModuleType:
    """The module, whose import must not change this process: it is for the images' Python."""
    environment, finders, load = dict(os.environ), list(sys.meta_path), pickle.load
    spec = importlib.util.spec_from_file_location("paddle_stacks_startup_under_test", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.meta_path[:] = finders
        pickle.load = load
    return module


Machine = Callable[[dict[str, str]], str]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """``machine({path: text})`` makes a root folder with these files and returns its name."""

    def machine(files: dict[str, str]) -> str:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return f"{tmp_path}/"

    return machine


def siblings(*groups: str) -> dict[str, str]:
    """Return the topology files of CPUs 0, 1, …, whose siblings are given."""
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {folder.format(cpu): f"{group}\n" for cpu, group in enumerate(groups)}


@pytest.mark.parametrize(
    ("allowed", "files", "cores"),
    [
        ({0, 1, 2, 3}, {}, 4),
        ({0, 1, 2, 3}, siblings("0", "1", "2", "3"), 4),
        ({0, 1, 2, 3}, siblings("0,2", "1,3", "0,2", "1,3"), 2),
        ({0, 1, 2, 3}, siblings("0-1", "0-1", "2-3", "2-3"), 2),
        ({0, 2}, siblings("0,2", "1,3", "0,2", "1,3"), 1),
        ({2}, siblings("0", "1", "2", "3"), 1),
        ({0, 1, 2, 3}, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 4),
        ({0, 1, 2, 3}, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({0, 1, 2, 3}, {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({0, 1, 2, 3}, {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({0, 1}, {"sys/fs/cgroup/cpu.max": "800000 100000\n"}, 2),
        ({0, 1, 2}, {"sys/fs/cgroup/cpu.max": "nonsense\n"}, 3),
        ({0, 1, 2}, {"sys/fs/cgroup/cpu.max": "100000 0\n"}, 3),
        (
            {0, 1, 2, 3},
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {0, 1, 2, 3},
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {0, 1, 2, 3},
            {
                **siblings("0,2", "1,3", "0,2", "1,3"),
                "sys/fs/cgroup/cpu.max": "100000 100000\n",
            },
            1,
        ),
    ],
)
def test_usable_cores(
    startup: ModuleType,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[int],
    files: dict[str, str],
    cores: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed)
    assert startup.usable_cores(machine(files)) == cores


def cpuinfo(vendor: str, flags: str) -> str:
    lines = [
        "processor\t: 0",
        f"vendor_id\t: {vendor}",
        "model name\t: a: CPU, with a colon",
        *(f"filler {number}\t: x" for number in range(14)),
        f"flags\t\t: {flags}",
        "",
    ]
    return "\n".join(lines * 2)


@pytest.mark.parametrize(
    ("vendor", "flags", "path"),
    [
        ("GenuineIntel", AVX512, None),  # chooses well by itself
        ("GenuineIntel", AVX2, None),
        ("AuthenticAMD", AVX512, "7"),
        ("AuthenticAMD", AVX2, "5"),
        ("AuthenticAMD", AVX512.replace(" avx512vl", ""), "5"),
        ("AuthenticAMD", "fpu sse avx2", None),  # no FMA: the AVX2 path would crash
        ("AuthenticAMD", "fpu sse", None),
        ("HygonGenuine", AVX2, "5"),  # the CPUs beside a DCU
        ("HygonGenuine", AVX512, "7"),
        ("CentaurHauls", AVX512, None),
    ],
)
def test_mkl_code_path(startup: ModuleType, vendor: str, flags: str, path: str | None) -> None:
    assert startup.mkl_code_path(cpuinfo(vendor, flags)) == path


@pytest.mark.parametrize("text", ["", "processor\t: 0\n", "BogoMIPS\t: 50.00\nFeatures\t: fp\n"])
def test_mkl_code_path_of_an_unknown_machine(startup: ModuleType, text: str) -> None:
    assert startup.mkl_code_path(text) is None


@pytest.mark.parametrize(
    ("path", "said"), [("7", "AVX-512"), ("5", "AVX2"), ("", "its own choice of")]
)
def test_describe(
    startup: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.setattr(startup, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", path)
    assert startup.describe() == (f"threads: 4 on 8 usable cores; math library: {said} code path")


# ------------------------------------------------------- the imports, with packages made up here

PACKAGES = {
    "paddle/__init__.py": """
        import ctypes, os, sys, warnings
        from signal import SIGTERM
        print("WARNING: OMP_NUM_THREADS set to 2, not 1.", file=sys.stderr)
        print("something else", file=sys.stderr)
        warnings.warn("No ccache found. Please be aware")
        warnings.warn("worth reading")
        def disable_signal_handler():
            print("signals left alone")
            C.signal(SIGTERM, 0)
        # As Paddle's core, past Python: getsignal() does not see it. 1: ignore, 0: the default.
        C = ctypes.CDLL(None)
        C.signal(SIGTERM, 1)
        if os.environ.get("STOPPED_IN_THE_IMPORT"):
            os.kill(os.getpid(), SIGTERM)
    """,
    "paddlenlp/__init__.py": "raise AssertionError('upstream imports everything here')",
    "paddlenlp/data.py": "print('data')",
    "paddlenlp/prompt.py": "print('prompt')",
    "paddlenlp/trainer.py": "import sys; sys.modules['paddlenlp.prompt']; name = 'trainer'",
    "paddlenlp/taskflow.py": "class Taskflow: pass",
    "paddlenlp/broken.py": "import no_such_package",
}


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``python(program)`` runs a program after the start-up module, with made-up packages."""
    for name, text in PACKAGES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines))
    (tmp_path / "paddlenlp-3.dist-info").mkdir()
    (tmp_path / "paddlenlp-3.dist-info" / "METADATA").write_text("Name: paddlenlp\nVersion: 3\n")

    def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}:{SOURCE.parent}"
        return subprocess.run(
            [sys.executable, "-c", f"import paddle_stacks_startup\n{program}"],
            env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return python


Python = Callable[..., subprocess.CompletedProcess[str]]


def test_paddles_wrong_advice_alone_is_kept_from_view(python: Python) -> None:
    done = python("import paddle")
    assert done.returncode == 0
    assert "OMP_NUM_THREADS" not in done.stderr
    assert "ccache" not in done.stderr
    assert "something else\n" in done.stderr
    assert "worth reading" in done.stderr


def test_paddlenlps_parts_are_imported_when_they_are_used(python: Python) -> None:
    done = python(
        "import paddlenlp, sys\n"
        "print(paddlenlp.__version__, 'paddlenlp.trainer' in sys.modules)\n"
        "print(paddlenlp.trainer.name, paddlenlp.Taskflow.__name__)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "signals left alone",
        "data",
        "3 False",
        "prompt",
        "trainer Taskflow",
    ]


KILLED_BY_SIGTERM = -15
STOP = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print('stopped'))
"""


@pytest.mark.parametrize("module", ["paddle", "paddlenlp"])
def test_a_handler_stays_when_paddle_is_imported(python: Python, module: str) -> None:
    done = python(f"{STOP}\nimport {module}\nos.kill(os.getpid(), signal.SIGTERM)\nprint('on')")
    assert done.stdout.splitlines()[-2:] == ["stopped", "on"], done.stderr
    assert done.returncode == 0


def test_a_signal_that_comes_while_paddle_is_imported_is_not_lost(python: Python) -> None:
    done = python(f"{STOP}\nimport paddle\nprint('on')", STOPPED_IN_THE_IMPORT="yes")
    assert done.stdout.splitlines() == ["signals left alone", "stopped", "on"], done.stderr
    assert done.returncode == 0


def test_where_no_handler_is_a_signal_ends_the_process(python: Python) -> None:
    for when in ("", "yes"):
        done = python(
            "import paddle, os\nos.kill(os.getpid(), 15)\nprint('on')", STOPPED_IN_THE_IMPORT=when
        )
        assert done.returncode == KILLED_BY_SIGTERM
        assert "on" not in done.stdout.splitlines()


def test_paddle_is_imported_in_another_thread(python: Python) -> None:
    done = python(
        "import threading\n"
        "t = threading.Thread(target=lambda: print(__import__('paddle').__name__))\n"
        "t.start(); t.join()"
    )
    assert done.stdout.splitlines() == ["signals left alone", "paddle"], done.stderr


def test_a_part_that_does_not_exist_is_an_attribute_error(python: Python) -> None:
    done = python("import paddlenlp\npaddlenlp.nothing")
    assert done.stderr.splitlines()[-1] == (
        "AttributeError: module 'paddlenlp' has no attribute 'nothing'"
    )


def test_a_part_that_cannot_be_imported_says_why(python: Python) -> None:
    done = python("import paddlenlp\npaddlenlp.broken")
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: No module named 'no_such_package'"
    )


def test_the_variables_are_set_unless_the_user_did(python: Python) -> None:
    show = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('MKL_DEBUG_CPU_TYPE'))"
    cores = "print(paddle_stacks_startup.usable_cores())"
    threads, found = python(f"{cores}\n{show}").stdout.splitlines()
    assert found.split()[0] == threads
    assert python(show, OMP_NUM_THREADS="7", MKL_DEBUG_CPU_TYPE="4").stdout == "7 4\n"
