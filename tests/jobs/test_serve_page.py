"""The chat page in a real, headless Chromium, on the server as it is with a fake model.

The browser and Playwright, which drives it, are in an image of their own (tests/page).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import own_image
from tests.support.served import serving

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "tests" / "page"
FILES = REPOSITORY / "entrypoints" / "serving" / "page"
IMAGE = "paddle-stacks-test/browser"
SECONDS = 600


@pytest.fixture(scope="module")
def browser() -> str:
    own_image.build(PAGE / "Dockerfile", IMAGE)
    return IMAGE


def browse(image: str, url: str, folder: Path, *key: str) -> dict[str, Any]:
    # The server listens on this machine's loopback, so the browser has its network.
    line = ["docker", "run", "--rm", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
    line += ["--volume", f"{PAGE}:/page:ro", "--volume", f"{folder}:/pictures"]
    line += ["--entrypoint", "/opt/venv/bin/python", image]
    line += ["/page/browse.py", "/usr/bin/chromium", url, "/pictures", *key]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def seen(browser: str) -> dict[str, Any]:
    """What a person sees; the screenshots stay in ``.cache/page``, to be looked at."""
    folder = REPOSITORY / ".cache" / "page"
    folder.mkdir(parents=True, exist_ok=True)
    with serving(step_seconds=0.02) as served:
        found = browse(browser, served.url + "/", folder)
        found["url"] = served.url
    found["pictures"] = sorted(path.name for path in folder.glob("*.png"))
    return found


def test_a_conversation_by_the_keyboard_alone(seen) -> None:
    assert seen["focus at first"] == seen["focus after"] == "question"
    assert seen["first answer"].startswith("brown fox 狐狸")
    assert seen["turns"] == 4
    assert seen["announced"] == "The answer is complete."


def test_how_fast_it_was_is_shown(seen) -> None:
    words = seen["facts"].split()
    assert int(words[0]) == 37 and words[1] == "tokens"
    assert float(words[3]) > 0 and words[4] == "tokens/s"


def test_an_answer_is_stopped_by_a_key_and_by_a_button(seen) -> None:
    for how in ("by Escape", "by the button"):
        assert seen[f"stopped {how}"].endswith("stopped")


def test_settings_reach_the_server_and_are_checked(seen) -> None:
    assert seen["expanded"] == "true"
    assert seen["sent"] == {
        "model": "fake",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hello"},
        ],
        "temperature": 0,
        "top_p": 0.95,
        "max_tokens": 12,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert seen["cut"].startswith("12 tokens") and "greatest length" in seen["cut"]
    assert seen["refused"] == "One of the settings is out of range."


def test_an_answer_is_made_again_in_its_place(seen) -> None:
    before, after, different = seen["again"]
    assert before == after == 2 and different > 1


def test_a_conversation_is_copied_and_exported(seen) -> None:
    exported = json.loads(seen["json"])
    assert [m["role"] for m in exported["messages"]] == ["user", "assistant"] * 2
    assert exported["model"] == "fake" and exported["answers"][0]["tokens"] == 37
    assert exported["messages"][3]["content"] == seen["copied"]
    assert f"## assistant\n\n{seen['copied']}\n" in seen["markdown"]


def test_settings_collapse_when_a_conversation_begins(seen) -> None:
    assert seen["collapsed"] is True


def test_conversations_are_kept_in_the_browser_until_they_are_deleted(seen) -> None:
    assert seen["conversations"] >= 2
    turns, same = seen["opened again"]
    assert turns == 2 and same is True and seen["history closed"] is True
    assert seen["conversations after"] == seen["conversations"], "it goes on, and is no new one"
    assert seen["one deleted"] == seen["conversations"] - 1
    assert seen["all deleted"] == [0, "[]"]


def test_a_question_is_edited_and_answered_anew(seen) -> None:
    assert seen["edit cancelled"] == 6
    assert seen["edited"] == ["first", "changed"] and seen["turns after editing"] == 4


def test_markdown_is_shown_and_nothing_in_it_is_carried_out(seen) -> None:
    found = seen["markdown elements"]
    shown = {name: found[name] for name in ("h3", "em", "ul", "ol", "blockquote", "table", "pre")}
    assert shown == dict.fromkeys(shown, 1)
    assert found["strong"] == 2 and found["dangerous"] == 0
    assert found["links"] == ["https://example.org/x"]
    assert found["code block"] == 'def f(x):\n    return "<script>alert(1)</script>"'
    assert found["code copied"] == found["code block"]
    assert all(request.startswith(seen["url"]) for request in seen["requests of Markdown"])


def test_the_theme_is_chosen_and_kept(seen) -> None:
    assert seen["markdown elements"]["theme"] == "dark"
    assert seen["markdown elements"]["theme kept"] == "rgb(21, 23, 27)"


def test_nothing_is_cut_off_on_any_screen(seen) -> None:
    assert len(seen["layout"]) == 6
    for name, found in seen["layout"].items():
        assert found == {"rows of buttons": 1, "cut off": False, "wider": False}, name


def test_it_speaks_chinese_and_remembers_that(seen) -> None:
    assert seen["language"] == seen["language kept"] == seen["language of the browser"] == "zh-CN"
    assert seen["send in Chinese"] == "发送" and "词元" in seen["facts in Chinese"]
    assert seen["English left"] == [], "but for names, and for the way back"
    assert seen["nothing kept"] == 0, "a new conversation, until one of the history is opened"


def test_every_word_is_in_both_languages(seen) -> None:
    text = (FILES / "words.js").read_text(encoding="utf-8")
    english, chinese = text.split("\n  zh: {")
    names = [
        {line.split(":")[0].strip() for line in part.splitlines() if line.startswith("    ")} - {""}
        for part in (english, chinese)
    ]
    spoken = [{name for name in part if name.isidentifier()} for part in names]
    assert spoken[0] == spoken[1] and len(spoken[0]) > 30
    page = (FILES / "index.html").read_text(encoding="utf-8")
    for kind in ("say", "hint", "label"):
        for word in page.split(f'data-{kind}="')[1:]:
            assert word.split('"')[0] in spoken[0]


def test_a_failure_is_told_and_the_question_given_back(seen) -> None:
    assert seen["failed"].startswith("The answer failed: the engine failed")
    assert seen["question given back"] == "crash" and seen["turns after failing"] == 0
    assert seen["fault is gone"] is True


def test_everybody_can_use_it(seen) -> None:
    assert seen["unlabelled"] == []
    assert seen["contrast"]["light"] >= 4.5 and seen["contrast"]["dark"] >= 4.5
    assert seen["wider than a telephone"] is False
    assert seen["dark"] == "rgb(21, 23, 27)"


def test_what_looks_like_markup_is_text(seen) -> None:
    assert seen["markup"] == ["<i>hello</i>", "<img src=x onerror=alert(1)><b>bold</b>"]
    assert seen["elements of markup"] == 0


def test_it_asks_nobody_else_and_complains_of_nothing(seen) -> None:
    assert all(request.startswith(seen["url"]) for request in seen["requests"])
    # A browser says so itself where a server answers 500, which a test above asks for.
    assert [text for text in seen["console"] if "status of 500" not in text] == []
    assert seen["console in dark"] == []
    assert len(seen["pictures"]) >= 7


def test_it_asks_for_a_key_where_the_server_does(browser: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("me sk-0123456789abcdef\n")
    with serving("--api-keys", str(tmp_path / "keys")) as served:
        found = browse(browser, served.url + "/", tmp_path, "sk-0123456789abcdef")
    assert found["asked for"] == "This server asks for an API key."
    assert found["answer"] and found["kept in the tab"] is True
    assert "sk-" not in found["elsewhere"], "not beyond the tab"


def test_the_page_needs_no_build_and_nothing_from_elsewhere() -> None:
    for path in FILES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("`HTTP", "")
        assert " style=" not in text and "onclick" not in text and "eval(" not in text
    assert sum(path.stat().st_size for path in FILES.iterdir()) < 40_000
