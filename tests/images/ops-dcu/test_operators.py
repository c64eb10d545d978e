"""Images with operators: they import, register, link, and hold the code that the label names."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from docker.models.containers import Container
from docker.models.images import Image

from paddle_stacks import operators
from paddle_stacks.dcu.host import Host
from tests.support.stages import PLATFORM, ROOT

LIBRARIES = ("paddlenlp_ops", "fused_ln")
OURS = "tests/paddlenlp"

# What upstream's inference and training call, at the commit that the backend names.
EXPECTED = {
    "paddlenlp_ops": {"get_padding_offset", "save_with_output"},
    "fused_ln": {"fused_ln", "fused_rms_norm"},
}
CHECK = (ROOT / "images" / "ops" / "check_operators.py").read_text()

_SPEC = importlib.util.spec_from_file_location(
    "operator_comparison", ROOT / "tests" / "images" / "ops-cpu" / "comparison.py"
)
assert _SPEC is not None and _SPEC.loader is not None
comparison: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(comparison)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_has_its_operators_and_code_for_every_architecture(
    python: Callable[[str], Any], built: Image, library: str
) -> None:
    archs = built.labels["paddle-stacks.ops.archs"].split(";")
    assert archs
    wanted = sorted(EXPECTED[library])
    found = python(
        f"{CHECK.partition('if __name__')[0]}\n"
        "import os\n"
        "quiet = os.dup(2); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n"
        f"found = check({library!r}, {wanted!r}, {archs!r})\n"
        "os.dup2(quiet, 2)\n"
        "print(json.dumps(found))"
    )
    assert found == []


def test_every_library_of_the_framework_is_found_outside_a_login_shell(host: Any) -> None:
    listed = host.check_output(
        "sh -c 'ldd $(python -c \"import importlib.util, pathlib; "
        'print(pathlib.Path(importlib.util.find_spec(\\"paddle\\").origin).parent'
        ' / \\"base/libpaddle.so\\")")\''
    )
    assert "libpaddle" in listed or "libc.so" in listed
    assert "not found" not in listed


def test_the_operators_compute(python: Callable[[str], Any], built: Image) -> None:
    if built.labels["paddle-stacks.paddlenlp.source"] != OURS:
        pytest.skip("upstream's operators have no path for a CPU")
    found = python(
        "import os\n"
        "quiet = os.dup(2); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n"
        "import json, paddle, fused_ln, paddlenlp_ops\n"
        "paddle.set_device('cpu')\n"
        "x = paddle.to_tensor([[3.0, 4.0]]); one = paddle.ones([2])\n"
        "rms = fused_ln.fused_rms_norm(x, one, 0.0)\n"
        "ln = fused_ln.fused_ln(x, one, 0.0)\n"
        "lengths = paddle.to_tensor([2, 1, 3], 'int32'); widths = paddle.full([3], 4, 'int32')\n"
        "offset = paddlenlp_ops.get_padding_offset(lengths, widths)\n"
        "os.dup2(quiet, 2)\n"
        "print(json.dumps([rms.tolist(), ln.tolist(), offset.tolist()]))"
    )
    rms, ln, offset = found
    root = (12.5) ** 0.5
    assert rms[0] == pytest.approx([3 / root, 4 / root])
    assert ln[0] == pytest.approx([-1.0, 1.0])
    assert offset == [0, 2, 5]


def test_upstreams_programs_are_there_and_nobody_may_change_them(host: Any) -> None:
    for name in ("run_finetune.py", "run_pretrain.py"):
        assert host.file(f"/opt/PaddleNLP/llm/{name}").is_file
    assert host.check_output("find /opt/PaddleNLP -perm /022 -o -not -uid 0") == ""


class TestOnADevice:
    """What only a DCU can show. Skipped, with the reason, where there is none."""

    @pytest.fixture(autouse=True)
    def _a_device(self, machine: Host) -> None:
        if PLATFORM.device != "gpu":
            pytest.skip("a simulated DCU computes nothing")
        if not machine.node("/dev/kfd"):
            pytest.skip("this machine has no /dev/kfd")

    def test_the_framework_works_on_every_card(self, host: Any) -> None:
        done = host.run("python -c 'import paddle; paddle.utils.run_check()'")
        # Without a device it falls back to the CPU and still says that it is installed.
        assert "PaddlePaddle works well on" in done.stdout and "GPU" in done.stdout, done.stdout

    def test_a_product_is_right(self, python: Callable[[str], Any]) -> None:
        error = python(
            "import json, numpy, paddle\n"
            "paddle.set_device('gpu'); paddle.seed(1)\n"
            "a, b = paddle.rand([256, 512]), paddle.rand([512, 128])\n"
            "wanted = a.numpy().astype('float64') @ b.numpy().astype('float64')\n"
            "half = paddle.matmul(a.astype('float16'), b.astype('float16')).numpy()\n"
            "print(json.dumps([float(abs((a @ b).numpy() / wanted - 1).max()),"
            " float(abs(half / wanted - 1).max())]))"
        )
        assert error[0] < 1e-4 and error[1] < 5e-3

    def test_fused_normalization_is_right(self, python: Callable[[str], Any]) -> None:
        error = python(
            "import json, numpy, paddle, fused_ln\n"
            "paddle.set_device('gpu'); paddle.seed(1)\n"
            "x, scale = paddle.randn([64, 4096]), paddle.rand([4096])\n"
            "out = fused_ln.fused_rms_norm(x, scale, 1e-6)\n"
            "out = (out[0] if isinstance(out, (list, tuple)) else out).numpy()\n"
            "n = x.numpy().astype('float64')\n"
            "wanted = n / numpy.sqrt((n**2).mean(-1, keepdims=True) + 1e-6) * scale.numpy()\n"
            "print(json.dumps(float(abs(out - wanted).max())))"
        )
        assert error < 1e-3

    def test_the_operators_agree_with_the_reference_on_a_cpu(
        self, container: Container, record_property: Callable[[str, object], None]
    ) -> None:
        """Compare every operator; the report of ``./inv verify`` has the table."""
        reference, card = (comparison.computed(str(container.id), d) for d in ("cpu", "gpu"))
        rows = operators.compare(reference, card)
        record_property("table", operators.as_table(rows))
        faults = [f"{row.case} is {row.state}: {row.message}" for row in operators.faults(rows)]
        assert faults == []
