"""What goes wrong with upstream's operator scripts ends the build, and the error names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paddle_stacks import build, settings
from paddle_stacks.errors import BuildError
from tests.support.stages import BACKEND, ROOT

pytestmark = pytest.mark.skipif(
    BACKEND != "dcu-sim", reason="operators are compiled for the simulated DCU only"
)
EXTERNAL = Path("slm", "model_zoo", "gpt-3", "external_ops")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of our small tree, for a test to break."""
    return Path(shutil.copytree(ROOT / "tests" / "paddlenlp", tmp_path / "paddlenlp"))


def failure(tree: Path, **options: str) -> str:
    """Return the error of a build from that tree, with the last lines of its log."""
    found = settings.load(ROOT, {"paddlenlp_src": str(tree), **options})
    with pytest.raises(BuildError) as caught:
        build.build(["ops"], found, quiet=True)
    return str(caught.value.problems[0])


def test_a_script_that_ends_with_0_and_builds_nothing(tree: Path) -> None:
    script = tree / EXTERNAL / "setup.py"
    text = script.read_text()
    assert "    import paddle\n" in text
    # As upstream's does where its question for a device finds none.
    script.write_text(text.replace("    import paddle\n", "    import paddle, no_such_device\n", 1))
    assert "fused_ln: the setup script ended with 0 and installed nothing" in failure(tree)


def test_a_source_that_does_not_compile(tree: Path) -> None:
    source = tree / "csrc" / "gpu" / "get_padding_offset.cu"
    source.write_text(source.read_text() + "this is not C++\n")
    assert "paddlenlp_ops: does not compile: get_padding_offset.cu" in failure(tree)


def test_a_header_that_is_nowhere(tree: Path) -> None:
    header = tree / "csrc" / "gpu" / "helper.h"
    header.write_text(header.read_text().replace("nlohmann/json.hpp", "nlohmann/other.hpp"))
    told = failure(tree)
    assert "paddlenlp_ops: does not compile: " in told
    assert "get_padding_offset.cu" in told and "save_with_output.cc" in told


def test_an_operator_that_a_source_does_not_register(tree: Path) -> None:
    source = tree / "csrc" / "gpu" / "save_with_output.cc"
    # The list of what to expect is read from the sources, so it sees through the macro.
    source.write_text(source.read_text() + "#if 0\nPD_BUILD_OP(only_written_down)\n#endif\n")
    assert "paddlenlp_ops does not register only_written_down" in failure(tree)


def test_an_older_tree_has_its_script_elsewhere(tree: Path) -> None:
    (tree / "slm").rename(tree / "legacy")
    source = tree / "csrc" / "gpu" / "save_with_output.cc"
    source.write_text(source.read_text() + "this is not C++\n")  # found, and then not compiled
    assert "save_with_output.cc" in failure(tree)


def test_a_tree_that_is_not_paddlenlp(tree: Path) -> None:
    shutil.rmtree(tree / "slm")
    assert "fused_ln: none of slm/model_zoo/gpt-3/external_ops/setup.py" in failure(tree)
