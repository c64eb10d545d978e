"""The image that trains."""

from __future__ import annotations

from typing import Any


def test_training_is_imported_without_a_word(host: Any) -> None:
    done = host.run("python -c 'import paddlenlp.trainer, paddlenlp.peft, matplotlib.pyplot'")
    assert (done.rc, done.stdout, done.stderr) == (0, "", "")


def test_a_curve_can_be_drawn_without_a_display(host: Any) -> None:
    program = "import matplotlib.pyplot as p; p.plot([1, 0]); p.savefig('/tmp/curve.png')"
    done = host.run(f'python -c "{program}"')
    assert (done.rc, done.stderr) == (0, "")
    assert host.file("/tmp/curve.png").size > 1000
