"""Known failures are recognized in logs, harmless logs have none, and any bytes are accepted."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_stacks.doctor import logs
from paddle_stacks.errors import RequestError
from tests.support.log_samples import NEAR_MISSES, SAMPLES

ROOT = Path(__file__).parents[2]

# Lines from successful jobs, some of them similar to the above.
HARMLESS = [
    "PaddlePaddle works well on 8 GPUs.",
    "PaddlePaddle is installed successfully! Let's start deep learning with PaddlePaddle now.",
    "\tlibgalaxyhip.so.5 => /opt/dtk-24.04.1/lib/libgalaxyhip.so.5 (0x00007f)",
    "hymgr.c:344 Version 6.2.17a",
    "hy driver version 6.2.17a",
    "crw-rw---- 1 root render 235, 0 /dev/kfd",
    "Hip error(0), no error",
    "loaded /opt/dtk-24.04.1/cuda/extras/CUPTI/lib64",
    "The 'fasl_ln' feature is temporarily not supported on the ROCm platform !!!",
    "pulled registry.baidubce.com/device/paddle-dcu:dtk24.04.1-kylinv10-gcc82",
    "current device: gpu:0, memory allocated 61.2 GB",
    "--shm-size=128G --ipc=host",
    "resource limits: memlock unlimited",
    "HSA_FORCE_FINE_GRAIN_PCIE=1 iommu=pt",
    "kernel.numa_balancing = 0",
    "NCCL INFO Bootstrap : Using ib0:192.0.2.10<0>",
    "the master is ready",
    "LAUNCH INFO args nnodes 2",
    "#include <glog/logging.h>",
    "#include <nlohmann/json.hpp>",
    "git submodule update --init: done",
    "get_device_properties is answered for the build",
    "ROCM runtime found",
    "gpu/step.o is compiled",
    "PyInit_paddlenlp_ops is exported",
    "symbol table of paddlenlp_ops_pd_.so: 24 operators",
    "import fused_ln, paddlenlp_ops: done",
    "Successfully installed paddlepaddle-dcu-3.0.0b2 numpy-1.26.4",
    "eval_accuracy = 0.61, eval_with_do_generation: False",
    "--cachekv_int8_type static --inference_model --mode dynamic",
    "predict/predictor.py --block_attn --inference_model --temperature 0.95 --dtype float16",
    "predict/predictor.py --mode dynamic --block_attn false --dtype float16",
    "upstream predict/predictor.py --inference_model --dtype float16",
    "The kernel `some_other_kernel` is registered.",
    "loss: 1.25, interval_tokens_per_second_per_device: 8129.1",
]

NAMES = [failure.name for failure in logs.known_failures()]


def diagnose(text: bytes | str) -> list[logs.Cause]:
    content = text if isinstance(text, bytes) else text.encode()
    return logs.diagnose(io.BytesIO(content), logs.known_failures())


def test_every_failure_has_a_sample_and_a_near_miss() -> None:
    assert list(SAMPLES) == list(NEAR_MISSES) == NAMES
    assert all(SAMPLES.values()) and all(NEAR_MISSES.values())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_failure_is_recognized(name: str) -> None:
    for sample in SAMPLES[name]:
        [cause] = diagnose(f"epoch 1\nstep 2\n{sample}\nafterwards\n")
        assert (cause.failure.name, cause.line) == (name, 3)
        assert cause.text and cause.failure.remedy and cause.failure.source


@pytest.mark.parametrize("failure", logs.known_failures(), ids=NAMES)
def test_a_line_in_the_words_of_a_failure_is_no_failure(failure: logs.Failure) -> None:
    words = {word for sample in SAMPLES[failure.name] for word in re.findall(r"\w{4,}", sample)}
    for line in NEAR_MISSES[failure.name]:
        assert not failure.pattern.search(line), line
        assert words & set(re.findall(r"\w{4,}", line)), f"it has no word of a sample: {line}"


@pytest.mark.parametrize("failure", logs.known_failures(), ids=NAMES)
def test_a_harmless_log_has_no_failure(failure: logs.Failure) -> None:
    assert [line for line in HARMLESS if failure.pattern.search(line)] == []
    assert logs.diagnose(io.BytesIO("\n".join(HARMLESS).encode()), (failure,)) == []


def test_a_line_matches_only_one_pattern() -> None:
    for name, samples in SAMPLES.items():
        for sample in samples:
            assert [c.failure.name for c in diagnose(sample)] == [name], sample


@pytest.mark.parametrize(
    ("pattern", "landmarks"),
    [
        ("abcdef", ("abcdef",)),
        (r"Hip error\(1\)", ("Hip error(1)",)),
        ("abcd(e|f)ghijk|lmnop", ("ghijk", "lmnop")),
        ("abcde?fg", ("abcd",)),
        ("abcde{0,3}[xy]efghi", ("efghi",)),
        (r"a\dbcde.{0,9}f", ("bcde",)),
        ("abcdef(?=.{0,9}ghijkl)(?!.{0,9}mnopqrstu)", ("abcdef",)),
        ("abc", ()),
        ("abcdef|x", ()),
    ],
)
def test_the_landmarks_of_a_pattern(pattern: str, landmarks: tuple[str, ...]) -> None:
    failure = logs.Failure("x", re.compile(pattern), "c", "r", "s")
    assert failure.landmarks == landmarks


def test_most_patterns_have_landmarks() -> None:
    assert [f.name for f in logs.known_failures() if not f.landmarks] == []


def test_causes_come_in_the_order_of_their_lines() -> None:
    text = f"{SAMPLES['numpy-2'][1]}\nx\n{SAMPLES['out-of-memory'][0]}\n{SAMPLES['numpy-2'][1]}\n"
    assert [(c.failure.name, c.line) for c in diagnose(text)] == [
        ("numpy-2", 1),
        ("out-of-memory", 3),
    ]


def test_root_causes_come_before_their_effects() -> None:
    order = ["no-gpu-in-runtime", "no-device", "hyhal-mismatch", "driver-too-new"]
    causes = diagnose("\n".join(SAMPLES[name][0] for name in order))
    assert [(c.failure.name, c.line) for c in causes] == [
        ("driver-too-new", 4),
        ("hyhal-mismatch", 3),
        ("no-device", 2),
        ("no-gpu-in-runtime", 1),
    ]
    assert causes[0].follows == ()
    assert set(causes[3].follows) == {"driver-too-new", "hyhal-mismatch", "no-device"}


def test_colours_and_windows_line_endings_are_ignored() -> None:
    text = "one\r\n\x1b[31mHip \x1b[1merror\x1b[0m(100), no\x1b]0;title\x07 ROCm\r\nthree\r\n"
    [cause] = diagnose(text)
    assert (cause.line, cause.text) == (2, "Hip error(100), no ROCm")


def test_progress_bars_are_cut_from_the_line() -> None:
    bar = "".join(f"\rstep {i} |####    |" for i in range(100))
    [cause] = diagnose(f"{bar}\rKeyError: 'eval_accuracy'\n")
    assert (cause.line, cause.text) == (1, "KeyError: 'eval_accuracy'")


def test_binary_data_is_ignored() -> None:
    junk = bytes(range(256)).replace(b"\n", b"") * 20_000
    causes = diagnose(junk + b"\n" + junk + b"Hip error(100)" + junk + b"\nend")
    assert [(c.failure.name, c.line) for c in causes] == [("no-device", 2)]
    assert len(causes[0].text) < 200 and causes[0].text.isprintable()


def test_utf_16_is_read() -> None:
    [cause] = diagnose("one\nHip error(100)\n".encode("utf-16"))
    assert (cause.line, cause.text) == (2, "Hip error(100)")


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_the_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(logs, "_BLOCK", block)
    monkeypatch.setattr(logs, "_OVERLAP", 200)
    text = "füllung ünd mehr\n" * 50 + SAMPLES["setuptools"][0] + "\n" + "füllung\n" * 50
    assert [(c.failure.name, c.line) for c in diagnose(text)] == [("setuptools", 51)]


def test_a_large_log_is_not_held_in_memory() -> None:
    class Endless(io.RawIOBase):
        """256 MiB of a log, then its last line; records the largest read."""

        left = 256
        most = 0

        def read(self, size: int = -1) -> bytes:
            self.most = max(self.most, size)
            assert size > 0
            self.left -= 1
            if self.left > 0:
                return (b"loss: 1.25, step 12\n" * (2**20 // 20))[:size]
            return b"Hip error(100)" if self.left == 0 else b""

    stream = Endless()
    failures = tuple(f for f in logs.known_failures() if f.name in ("no-device", "positions"))
    [cause] = logs.diagnose(stream, failures)  # type: ignore[arg-type]
    assert cause.line == 255 * (2**20 // 20) + 1
    assert stream.most <= 2**20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x]\npattern = 'a'\ncause = 'c'\nremedy = 'r'\n", '"source" must be a non-empty string'),
        (
            "[x]\npattern = '('\ncause = 'c'\nremedy = 'r'\nsource = 's'\n",
            "not a valid regular expression",
        ),
        ("[x]\npattern = 'a?'\ncause = 'c'\nremedy = 'r'\nsource = 's'\n", "matches an empty line"),
        (
            "[x]\npattern = 'a.*b'\ncause = 'c'\nremedy = 'r'\nsource = 's'\n",
            "unbounded repetition",
        ),
        ("[x]\npattern = '(?i)a'\ncause = 'c'\nremedy = 'r'\nsource = 's'\n", "has a flag"),
        ("[x]\npatern = 'a'\n", 'unknown key "patern"'),
        (
            "[x]\npattern = 'a'\ncause = 'c'\nremedy = 'r'\nsource = 's'\nfollows = ['y']\n",
            '"follows" lists "y"',
        ),
        ("x = 1\n", "must be a table"),
        ("[x\n", "is not TOML"),
    ],
)
def test_an_invalid_table_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "failures.toml"
    table.write_text(text)
    with pytest.raises(RequestError) as caught:
        logs.load(table)
    assert message in str(caught.value)
    assert all(str(table) in problem.where for problem in caught.value.problems)


def doctor(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    clean = {name: v for name, v in os.environ.items() if not name.startswith("PADDLE_STACKS_")}
    return subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "doctor", *words],
        cwd=ROOT,
        env={**clean, "NO_COLOR": "1"},
        input=stdin,
        capture_output=True,
        check=False,
    )


def test_the_command_names_the_cause(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("step 1\nKeyError: 'eval_accuracy'\n")
    for path in (tmp_path, tmp_path / "run.log"):
        done = doctor("--log", str(path))
        assert done.returncode == 3, done.stderr
        output = done.stdout.decode()
        assert ":2: eval_with_do_generation does not measure" in output
        assert "fix: eval_with_do_generation=false" in output
        assert "source: source of PaddleNLP's trainer.py" in output


def test_the_command_reads_standard_input_and_prints_json() -> None:
    done = doctor("--log", "-", "--json", stdin=b"\xff\nHip error(100)\n")
    document = json.loads(done.stdout)
    assert done.returncode == document["status"] == 3
    assert document["log"] == "standard input"
    [cause] = document["causes"]
    assert list(cause) == ["failure", "line", "text", "cause", "remedy", "source", "follows"]
    assert (cause["failure"], cause["line"]) == ("no-device", 2)
    assert cause["source"].startswith("Paddle#71646")


def test_a_log_without_a_known_failure_ends_with_0() -> None:
    done = doctor("--log", "-", stdin=b"all is well\n")
    assert done.returncode == 0
    assert b"no known failure" in done.stdout
    assert json.loads(doctor("--log", "-", "--json").stdout)["causes"] == []


def test_a_log_that_cannot_be_read_is_a_request_error(tmp_path: Path) -> None:
    done = doctor("--log", str(tmp_path / "none.log"))
    assert done.returncode == 2 and b"runs/NAME/run.log" in done.stderr
    done = doctor("--log", "-", "--fix")
    assert done.returncode == 2 and b"--fix is about this machine" in done.stderr
