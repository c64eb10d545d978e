"""Chat templates render as transformers renders them, in limited time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from entrypoints.models import chat_template
from entrypoints.models.chat_template import ChatTemplate, ChatTemplateError, is_plain
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import chat_templates

REPOSITORY = Path(__file__).parents[2]
PARITY = json.loads((REPOSITORY / "tests/parity/templates.json").read_text(encoding="utf-8"))


def render(template: str, seconds: float = 60, **variables: Any) -> str:
    return ChatTemplate(template, seconds).render(**variables)


@pytest.mark.parametrize("case", PARITY["cases"], ids=lambda case: case["name"])
def test_templates_render_as_transformers_renders_them(case: dict[str, Any]) -> None:
    variables = {"messages": case["messages"], "add_generation_prompt": True, **PARITY["tokens"]}
    if "error" in case:
        with pytest.raises(ChatTemplateError):
            render(case["template"], **variables)
        return
    before = datetime.now()
    text = render(case["template"], **variables)
    days = {day.strftime("%d %b %Y") for day in (before, datetime.now())}  # around midnight
    assert text in {case["text"].replace("{today}", day) for day in days}


def test_what_a_template_raises_is_the_message() -> None:
    with pytest.raises(ChatTemplateError, match=r"^roles must alternate$"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_template_without_end_is_stopped_and_the_next_one_rendered() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    begun = time.monotonic()
    with pytest.raises(ChatTemplateError, match=r"longer than 0\.5 s"):
        render(endless, seconds=0.5)
    assert time.monotonic() - begun < 30
    assert render("{{ 1 + 1 }}") == "2"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in range(99999) %}{{ 'a' * 10000 }}{% endfor %}", "more than 16,777,216"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_a_template_cannot_render_without_bounds(template: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        render(template)
    assert render("still {{ 'there' }}") == "still there"


def test_a_template_can_be_rendered_by_several_threads() -> None:
    found: dict[int, str] = {}

    def run(number: int) -> None:
        found[number] = render("{{ n }}", n=number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(20)}


def test_the_process_ends_with_its_parent() -> None:
    code = "from entrypoints.models import chat_template as t; t.ChatTemplate('x').check();"
    code += "print(t._worker._process.pid)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
        assert time.monotonic() < deadline, "it is still running"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("template", "plain"),
    [
        ("{{ messages }}", True),
        ("{% generation %}x{% endgeneration %}", False),
        ("{%- generation -%}x{%- endgeneration %}", False),
        ("{% for m in messages %}{% break %}{% endfor %}", False),
        ("{{ strftime_now('%Y') }}", False),
    ],
)
def test_templates_that_need_the_extensions(template: str, plain: bool) -> None:
    assert is_plain(template) is plain


def test_a_template_that_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    path = tmp_path / chat_templates.JINJA
    path.write_text("{{ a }}\n{% for")
    with pytest.raises(RequestError, match=r"cannot be compiled: line 2") as caught:
        chat_template.load(tmp_path)
    assert caught.value.problems[0].where == str(path)


@pytest.mark.parametrize("content", [b"\xff", b" " * (2**20 + 1)])
def test_a_template_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / chat_templates.JINJA).write_bytes(content)
    with pytest.raises(RequestError, match="cannot be read"):
        chat_templates.find(tmp_path)


def test_a_folder_without_a_template(tmp_path: Path) -> None:
    assert chat_template.load(tmp_path) is None
    assert not chat_templates.exists(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert chat_template.load(tmp_path) is None
    (tmp_path / chat_templates.PADDLE).write_text("{}")
    assert chat_templates.exists(tmp_path)
