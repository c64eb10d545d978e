"""What a person does on the chat page, in a headless Chromium.

``browse.py CHROMIUM URL FOLDER [KEY]``: prints a JSON object with what was seen, and puts
screenshots into FOLDER. It runs in an image of its own (Dockerfile).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

WIDE, NARROW = {"width": 1100, "height": 800}, {"width": 390, "height": 780}


def main(chromium: str, url: str, folder: Path, key: str = "") -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        found = with_key(browser, url, key) if key else everything(browser, url, folder)
        browser.close()
    print(json.dumps(found))


def opened(browser: Browser, url: str, seen: dict[str, Any], **options: Any) -> Page:
    """Open the page, and take down what it asks others for and complains of."""
    context = browser.new_context(viewport=WIDE, accept_downloads=True, **options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    seen.setdefault("console", [])
    seen.setdefault("requests", [])
    page.on("console", lambda message: seen["console"].append(message.text))
    page.on("pageerror", lambda error: seen["console"].append(str(error)))
    page.on("request", lambda request: seen["requests"].append(request.url))
    page.goto(url)
    return page


def until(page: Page, condition: str) -> None:
    """Wait for a condition. The page's policy forbids Playwright's own way, which evaluates."""
    for _ in range(1000):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"it did not come to be: {condition}")


def asked(page: Page, text: str) -> None:
    """Ask by the keyboard alone, and wait for the end of the answer."""
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:not([hidden])")


def last(page: Page) -> str:
    return page.locator(".turn.assistant .text").last.inner_text()


def chosen(page: Page, button: str) -> None:
    """Choose something from the menu."""
    page.click("#more > summary")
    page.click(button)


def everything(browser: Browser, url: str, folder: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    page = opened(browser, url, seen, locale="en-US", color_scheme="light")
    until(page, "document.title === 'fake'")
    seen["focus at first"] = page.evaluate("document.activeElement.id")
    page.screenshot(path=folder / "empty-light-en.png")
    asked(page, "hello")
    seen["first answer"] = last(page)
    seen["facts"] = page.locator(".facts").last.inner_text()
    seen["announced"] = page.locator("#news").inner_text()
    seen["focus after"] = page.evaluate("document.activeElement.id")
    asked(page, "and then?")
    seen["turns"] = page.locator(".turn").count()
    page.screenshot(path=folder / "light-en.png")
    seen |= copied_and_exported(page, folder)
    seen |= stopped(page, folder)
    seen |= settings(page, folder)
    seen |= again(page)
    seen |= other_language(page, folder)
    seen["unlabelled"] = unlabelled(page)
    page.reload()
    until(page, "document.title === 'fake'")
    seen["language kept"] = page.get_attribute("html", "lang")
    seen["nothing kept"] = page.locator(".turn").count()
    seen |= failing(page)
    seen |= remembered(page, folder)
    seen |= edited(page)
    seen |= dark(browser, url, folder)
    seen |= markup(browser, url)
    seen |= markdown(browser, url, folder)
    seen |= laid_out(browser, url, folder)
    return seen


def copied_and_exported(page: Page, folder: Path) -> dict[str, Any]:
    page.locator(".copy").last.click()
    found: dict[str, Any] = {"copied": page.evaluate("navigator.clipboard.readText()")}
    for button, name in (("#export-markdown", "markdown"), ("#export-json", "json")):
        with page.expect_download() as download:
            chosen(page, button)
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        found[name] = path.read_text(encoding="utf-8")
    return found


def stopped(page: Page, folder: Path) -> dict[str, Any]:
    found = {}
    for name, stop in (("by Escape", "Escape"), ("by the button", "#stop")):
        page.focus("#question")
        page.keyboard.type("forever")
        page.keyboard.press("Enter")
        until(
            page,
            "document.querySelectorAll('.turn.assistant:last-child .text:not(.waiting)').length"
            " && document.querySelector('.turn:last-child .text').textContent.length > 20",
        )
        if stop == "Escape":
            page.screenshot(path=folder / "streaming-light-en.png")
            page.keyboard.press(stop)
        else:
            page.click(stop)
        page.wait_for_selector("#send:not([hidden])")
        found[f"stopped {name}"] = page.locator(".facts").last.inner_text()
    return found


def settings(page: Page, folder: Path) -> dict[str, Any]:
    page.click("#settings-button")
    found: dict[str, Any] = {"expanded": page.get_attribute("#settings-button", "aria-expanded")}
    page.fill("#temperature", "0")
    page.fill("#max-tokens", "12")
    page.fill("#system", "be kind")
    page.screenshot(path=folder / "settings-light-en.png")
    page.click("#new")
    with page.expect_request("**/chat/completions") as sent:
        asked(page, "hello")
    found["sent"] = sent.value.post_data_json
    found["cut"] = page.locator(".facts").last.inner_text()
    found["collapsed"] = page.locator("#settings").is_hidden()
    page.click("#settings-button")
    page.fill("#temperature", "9")
    page.focus("#question")
    page.keyboard.type("too hot")
    page.keyboard.press("Enter")
    found["refused"] = page.locator("#fault").inner_text()
    page.fill("#temperature", "0")
    page.fill("#question", "")
    return found


def again(page: Page) -> dict[str, Any]:
    before = page.locator(".turn").count()
    page.fill("#temperature", "2")
    page.fill("#seed", "")
    answers = set()
    for _ in range(3):
        page.locator(".again:not([hidden])").click()
        page.wait_for_selector("#send:not([hidden])")
        answers.add(last(page))
    return {"again": [before, page.locator(".turn").count(), len(answers)]}


def other_language(page: Page, folder: Path) -> dict[str, Any]:
    chosen(page, "#language")
    page.screenshot(path=folder / "settings-light-zh.png")
    found = {
        "language": page.get_attribute("html", "lang"),
        "send in Chinese": page.locator("#send").inner_text(),
        "facts in Chinese": page.locator(".facts").last.inner_text(),
        "hint in Chinese": page.get_attribute("#question", "placeholder"),
    }
    names = ("Markdown", "JSON", "English", "Top-p", "API", "Shift", "Esc")
    english = re.compile(rf"(?!{'|'.join(names)})\b[A-Za-z]{{3,}}")
    shown = page.locator("button:visible, label:visible, .turn h2, #keys")
    found["English left"] = [t for t in shown.all_inner_texts() if english.search(t)]
    return found


def unlabelled(page: Page) -> list[str]:
    """Return the controls that have no name for those who do not see them."""
    return page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea")]
            .filter((n) => !n.closest("[hidden]"))
            .filter((n) => !(n.labels?.length || n.textContent.trim() || n.ariaLabel))
            .map((n) => n.outerHTML)"""
    )


def failing(page: Page) -> dict[str, Any]:
    chosen(page, "#language")
    page.focus("#question")
    asked(page, "crash")
    found = {
        "failed": page.locator("#fault").inner_text(),
        "question given back": page.input_value("#question"),
        "turns after failing": page.locator(".turn").count(),
    }
    page.fill("#question", "")
    page.focus("#question")
    asked(page, "hello")
    found["fault is gone"] = page.locator("#fault").is_hidden()
    return found


def remembered(page: Page, folder: Path) -> dict[str, Any]:
    """The history: it is there after a reload, is opened again, and is deleted."""
    answer = last(page)
    page.reload()
    until(page, "document.title === 'fake'")
    page.click("#history-button")
    page.screenshot(path=folder / "history-light-en.png")
    entries = page.locator("#conversations .open")
    found: dict[str, Any] = {"conversations": entries.count()}
    entries.first.click()
    found["opened again"] = [page.locator(".turn").count(), last(page) == answer]
    found["history closed"] = page.locator("#history").is_hidden()
    asked(page, "and more?")
    page.click("#history-button")
    found["conversations after"] = entries.count()
    page.locator("#conversations .delete").first.click()
    found["one deleted"] = entries.count()
    page.click("#forget")
    found["all deleted"] = [entries.count(), page.evaluate("localStorage.getItem('conversations')")]
    page.click("#history-button")
    return found


def edited(page: Page) -> dict[str, Any]:
    page.click("#new")
    for text in ("first", "second", "third"):
        asked(page, text)
    page.locator(".edit:visible").nth(1).click()
    page.fill(".editor textarea", "changed")
    page.click(".editor .cancel")
    found: dict[str, Any] = {"edit cancelled": page.locator(".turn").count()}
    page.locator(".edit:visible").nth(1).click()
    page.fill(".editor textarea", "changed")
    with page.expect_request("**/chat/completions") as sent:
        page.click(".editor .main")
    page.wait_for_selector("#send:not([hidden])")
    messages = sent.value.post_data_json["messages"]
    found["edited"] = [m["content"] for m in messages if m["role"] == "user"]
    found["turns after editing"] = page.locator(".turn").count()
    return found


MARKDOWN = """# Title

A **bold** and *thin* word, `code <b>`, [a link](https://example.org/x) and
[a trap](javascript:alert(1)), ![a picture](https://example.org/x.png) <img src=x>.

- one
- two
  1. inner
  2. more

> quoted

| a | b |
|---|---|
| 1 | **2** |

```python
def f(x):
    return "<script>alert(1)</script>"
```
"""


def answering(page: Page, text: str) -> None:
    """Have the server answer with a text, in pieces."""
    events = [
        {"choices": [{"index": 0, "delta": {"content": text[at : at + 7]}, "finish_reason": None}]}
        for at in range(0, len(text), 7)
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    page.route(
        "**/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"{body}data: [DONE]\n\n"
        ),
    )


def markdown(browser: Browser, url: str, folder: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    page = opened(browser, url, seen, locale="en-US")
    answering(page, MARKDOWN)
    until(page, "document.title === 'fake'")
    asked(page, "Show me Markdown.")
    page.screenshot(path=folder / "markdown-light-en.png")
    text = page.locator(".turn.assistant .text")
    names = ("h3", "strong", "em", "code", "ul", "ol", "blockquote", "table", "pre", "a")
    found: dict[str, Any] = {name: text.locator(name).count() for name in names}
    found["dangerous"] = text.locator("img, script, b, [onerror]").count()
    found["links"] = [a.get_attribute("href") for a in text.locator("a").all()]
    found["code block"] = text.locator("pre code").inner_text()
    text.locator("pre button").click()
    found["code copied"] = page.evaluate("navigator.clipboard.readText()")
    chosen(page, "#theme")
    chosen(page, "#theme")
    found["theme"] = page.get_attribute("html", "data-theme")
    page.reload()
    until(page, "document.title === 'fake'")
    found["theme kept"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return {"markdown elements": found, "requests of Markdown": seen["requests"]}


def laid_out(browser: Browser, url: str, folder: Path) -> dict[str, Any]:
    """Nothing is cut off, on a telephone and on a low screen, in both languages and schemes."""
    found: dict[str, Any] = {}
    for width, height in ((390, 780), (1280, 800), (1280, 420)):
        for scheme, locale in (("light", "en-US"), ("dark", "zh-CN")):
            seen: dict[str, Any] = {}
            page = opened(browser, url, seen, locale=locale, color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": height})
            answering(page, MARKDOWN)
            until(page, "document.title === 'fake'")
            asked(page, "Show me Markdown.")
            name = f"{width}x{height}-{scheme}-{locale[:2]}"
            page.screenshot(path=folder / f"{name}.png")
            page.click("#settings-button")
            page.screenshot(path=folder / f"{name}-settings.png")
            found[name] = page.evaluate(
                """() => {
                  const box = (id) => document.querySelector(id).getBoundingClientRect();
                  const tops = [...document.querySelectorAll("nav > *")]
                    .map((n) => Math.round(n.getBoundingClientRect().top));
                  return {
                    "rows of buttons": new Set(tops).size,
                    "cut off": box("#ask").bottom > innerHeight + 1,
                    "wider": document.documentElement.scrollWidth > innerWidth,
                  };
                }"""
            )
            page.context.close()
    return {"layout": found}


def dark(browser: Browser, url: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    page = opened(browser, url, found, locale="zh-CN", color_scheme="dark")
    until(page, "document.title === 'fake'")
    language = page.get_attribute("html", "lang")
    page.screenshot(path=folder / "empty-dark-zh.png")
    asked(page, "请介绍一下北京。")
    asked(page, "forty words")
    page.screenshot(path=folder / "dark-zh.png")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.set_viewport_size(NARROW)
    page.click("#settings-button")
    page.screenshot(path=folder / "narrow-dark-zh.png")
    wider = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    contrast = {scheme: contrasts(page, scheme) for scheme in ("light", "dark")}
    return {
        "dark": background,
        "language of the browser": language,
        "wider than a telephone": wider,
        "contrast": contrast,
        "console in dark": found["console"],
    }


def contrasts(page: Page, scheme: Any) -> float:
    """Return the least contrast of a text with what is behind it (WCAG 2's formula)."""
    page.emulate_media(color_scheme=scheme)
    return page.evaluate(
        """() => {
          const light = (c) => {
            const [r, g, b] = c.map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const parts = (text) => text.match(/[\\d.]+/g).map(Number);
          const behind = (node) => {
            for (let at = node; at; at = at.parentElement) {
              const found = parts(getComputedStyle(at).backgroundColor);
              if (found.length < 4 || found[3] > 0) return found.slice(0, 3);
            }
            return [255, 255, 255];
          };
          const kinds = "h1, h2, .text, .facts, label, button, #keys";
          const texts = [...document.querySelectorAll(kinds)];
          return Math.min(...texts
            .filter((n) => n.offsetParent && !n.disabled && n.textContent.trim())
            .map((n) => {
              const pair = [light(parts(getComputedStyle(n).color).slice(0, 3)), light(behind(n))];
              return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            }));
        }"""
    )


def markup(browser: Browser, url: str) -> dict[str, Any]:
    """What looks like markup is text, in questions and in answers."""
    seen: dict[str, Any] = {}
    page = opened(browser, url, seen, locale="en-US")
    delta = {"content": "<img src=x onerror=alert(1)><b>bold</b>"}
    event = {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
    page.route(
        "**/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            body=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n",
        ),
    )
    until(page, "document.title === 'fake'")
    asked(page, "<i>hello</i>")
    return {
        "markup": page.locator(".turn .text").all_inner_texts(),
        "elements of markup": page.locator(".turn img, .turn b, .turn i").count(),
    }


def with_key(browser: Browser, url: str, key: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    page = opened(browser, url, seen, locale="en-US")
    page.wait_for_selector("#fault:not([hidden])")
    found: dict[str, Any] = {"asked for": page.locator("#fault").inner_text()}
    page.fill("#key", key)
    page.keyboard.press("Tab")
    until(page, "document.title === 'fake'")
    page.focus("#question")
    asked(page, "hello")
    found["answer"] = last(page)
    page.reload()
    until(page, "document.title === 'fake'")
    found["kept in the tab"] = page.input_value("#key") == key
    found["elsewhere"] = page.evaluate("JSON.stringify(localStorage)")
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
