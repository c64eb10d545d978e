"""Texts that are in every image, named where a path could stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrypoints.preparing.documents import Rules, documents
from entrypoints.preparing.reading import Position, Reader
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import corpus, texts

STDLIB = "text:python-stdlib"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of a few modules, with what is left out of it beside them."""
    root = tmp_path / "python3"
    for name, content in {
        "b.py": "import a\n\n\nclass B:\n    pass\n",
        "a.py": '"""One.\n\nTwo."""\n',
        "pack/__init__.py": "x = 1\n",
        "test/test_a.py": "no",
        "pack/tests/t.py": "no",
        "encodings/cp1.py": "no",
        "site-packages/x.py": "no",
        "a.txt": "no",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "c.py").symlink_to("b.py")
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda _: str(root))
    return root


def test_the_modules_are_in_order_and_documents_of_their_own(small: Path) -> None:
    found = corpus.sources([STDLIB], here=Path("/nowhere"))
    assert [source.path for source in found] == [
        str(small / name) for name in ("a.py", "b.py", "pack/__init__.py")
    ]
    # What a document is in other text makes no difference.
    for rules in (Rules(document="paragraph"), Rules(document="line")):
        read = []
        for source in found:
            reader = Reader(source, rules.document)
            for block in reader.blocks(Position()):
                read += documents(block, source.format, rules).texts
            reader.close()
        assert read == ['"""One.\n\nTwo."""', "import a\n\n\nclass B:\n    pass", "x = 1"]


def test_this_pythons_library_is_text() -> None:
    found = texts.find(STDLIB).files()
    assert len(found) > 300
    assert {"argparse.py", "json/decoder.py"} <= {
        path.relative_to(found[0].parent).as_posix() for path in found
    }
    assert sum(path.stat().st_size for path in found) > 5_000_000
    for path in found:
        path.read_text(encoding="utf-8")


def test_other_formats_and_files_beside_it(small: Path, tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("x")
    found = corpus.sources([STDLIB, "x.md"], "text", tmp_path)
    assert [source.format for source in found] == ["document"] * 3 + ["text"]


@pytest.mark.parametrize(
    ("inputs", "what", "remedy"),
    [
        (["text:python-stdli"], 'unknown text "python-stdli"', 'mean "python-stdlib"?'),
        (["text:"], 'unknown text ""', "texts: text:python-stdlib"),
        ([STDLIB, STDLIB], "the text is an input twice", ""),
        ([STDLIB, "-"], "standard input cannot be combined with other inputs", ""),
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_wrong_names(small: Path, inputs: list[str], what: str, remedy: str, here: bool) -> None:
    with pytest.raises(RequestError) as caught:
        corpus.sources(inputs, texts_here=here)
    assert caught.value.problems[0].what == what
    assert remedy in caught.value.problems[0].remedy
