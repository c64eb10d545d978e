"""What the documents name exists: tests, files and tasks."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from paddle_stacks import site
from paddle_stacks.errors import BuildError
from tests.support.doc_pages import COMMANDS, ROOT, blocks, pages

PAGES = pages()
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
TRANSLATIONS = [
    (README, CHINESE),
    (ROOT / "docs" / "day-one.md", ROOT / "docs" / "zh" / "day-one.md"),
]


def test_every_proof_is_a_test() -> None:
    text = (ROOT / "docs" / "what-is-proved.md").read_text()
    named = re.findall(r"`(tests/[\w./-]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 15
    for file, name in named:
        path = ROOT / file
        assert path.is_file(), file
        assert not name or f"def {name}(" in path.read_text(), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_can_be_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if f"docs/{p.name}" not in readme]
    assert missing == []


def test_the_readme_is_short() -> None:
    for page in (README, CHINESE):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 100, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_table_cells_are_short(page: Path) -> None:
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    cells = (
        (number, cell.strip())
        for number, line in lines
        if line.startswith("|")
        for cell in re.split(r"(?<!\\)\|", line)
    )
    too_long = [f"{page.name}:{number}: {cell[:60]}…" for number, cell in cells if len(cell) > 200]
    assert too_long == [], "write a list or a section instead"


class Outline(NamedTuple):
    """What two languages of a page have in common."""

    headings: list[int]
    links: list[str]
    literals: list[set[str]]
    tables: list[int]
    code: list[tuple[str, tuple[str, ...], tuple[str, ...], list[str]]]


def outline(page: Path) -> Outline:
    """Return the page's shape: all that does not depend on the language it is in.

    That is the headings' levels, where links and pictures lead, the literals of each
    paragraph (in any order), how many cells each row of a table has, and the blocks of
    code, without their comments.
    """
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    # A page links to its own translation, and from docs/zh/ all other pages are one folder up.
    language = re.compile(r"^\.\./|(?<=README)\.zh-CN(?=\.md)|\bzh/")
    code = [
        (
            block.language,
            block.runs,
            block.needs,
            [command.bare.rstrip() for command in block.commands]
            if block.language in COMMANDS
            else re.sub(r"[^\x00-\x7f]+.*|  \w[\w ,]+$", "", block.text).split(),
        )
        for block in blocks(page)
    ]
    return Outline(
        [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        [language.sub("", link) for link in re.findall(r"\]\(([^)]+)\)", prose)],
        [set(re.findall(r"`([^`]+)`", part)) for part in prose.split("\n\n") if part.strip()],
        [line.count("|") for line in prose.splitlines() if line.startswith("|")],
        code,
    )


@pytest.mark.parametrize("english, chinese", TRANSLATIONS, ids=lambda page: page.name)
@pytest.mark.parametrize("what", Outline._fields)
def test_a_chinese_page_has_what_the_english_one_has(
    what: str, english: Path, chinese: Path
) -> None:
    originals, translated = (getattr(outline(page), what) for page in (english, chinese))
    for number, (one, other) in enumerate(zip(originals, translated, strict=False)):
        assert one == other, f"{chinese.name}, {what}, number {number + 1}"
    assert len(originals) == len(translated)


def test_every_chinese_page_is_a_translation() -> None:
    assert [chinese for _, chinese in TRANSLATIONS[1:]] == [*(ROOT / "docs" / "zh").glob("*.md")]


@pytest.mark.parametrize("chinese", [page for _, page in TRANSLATIONS], ids=lambda page: page.name)
def test_a_chinese_page_is_in_chinese(chinese: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->", "", chinese.read_text(), flags=re.S)
    for part in re.split(r"\n\n", prose):
        if len(part.strip()) > 60 and not part.startswith("#"):
            assert len(re.findall(r"[\u4e00-\u9fff]", part)) > 0.2 * len(part), part


class Asked(HTMLParser):
    """What a browser loads by itself with a page, as far as the page says."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        # An <a> waits for a click, and these links are no files that are loaded.
        if tag == "a" or (tag == "link" and given.get("rel") in ("canonical", "next", "prev")):
            return
        self.found += [given[name] for name in ("src", "href", "srcset", "data") if name in given]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site.build(ROOT, tmp_path_factory.mktemp("site"))


def test_the_site_is_built_and_loads_nothing_from_elsewhere(built: Path) -> None:
    pages = sorted(built.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        elsewhere = [url for url in Asked(page).found if re.match(r"(https?:)?//", url)]
        assert elsewhere == [], f"{page.name} loads {elsewhere}"
    for style in built.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text()), style.name


def test_diagrams_are_drawn_by_the_sites_own_copy_of_mermaid(built: Path) -> None:
    page = (built / "architecture" / "20-images.html").read_text()
    assert '<pre class="mermaid">' in page
    assert 'src="../assets/mermaid.tiny.js"' in page
    script = (built / "assets" / "mermaid.tiny.js").read_text()
    assert 'globalThis["mermaid"]' in script, "the theme loads Mermaid from a CDN without this"


def test_the_site_can_be_read_from_a_disk_and_searched_in_chinese(built: Path) -> None:
    home = (built / "index.html").read_text()
    assert 'href="readme.zh-CN.html"' in home and 'src="pictures/demo.svg"' in home
    index = (built / "search" / "search_index.json").read_text()
    assert "\\u5fae\\u8c03" in index or "微调" in index


def test_every_page_is_in_the_menu() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        assert re.search(rf": {name}$", text, re.MULTILINE), f"mkdocs.yml's nav has no {name}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[gone](no-such.md)", "no-such.md"),
        ("[gone](jobs.md#no-such-heading)", "no-such-heading"),
        ("[gone](/etc/passwd)", "/etc/passwd"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, line: str, said: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Home\n\n{line}\n")
    (docs / "jobs.md").write_text("# Jobs\n")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    for own in ("hooks", "exclude_docs"):
        del settings[own]
    settings["nav"] = ["index.md", "jobs.md"]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(BuildError, match=said):
        site.build(tmp_path, tmp_path / "site")


def test_pictures_are_small_and_load_nothing() -> None:
    pictures = [*(ROOT / "docs" / "pictures").glob("*.svg")]
    pictures += (ROOT / "docs" / "pictures").glob("*.png")
    assert len(pictures) >= 5
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        assert f"pictures/{picture.name}" in shown, f"no page shows {picture.name}"
        if picture.suffix == ".svg":
            text = picture.read_text(encoding="utf-8")
            for name in ("2000/svg", "1999/xlink"):  # of a vocabulary, which nobody loads
                text = text.replace(f'"http://www.w3.org/{name}"', "")
            assert "http" not in text and "<script" not in text, picture.name
