"""What a reader of the site does, in a headless Chromium: ``browse.py CHROMIUM``.

Prints a JSON object with what was seen. It runs in the image of tests/page, without a
network, and serves the site itself, from /site.
"""

from __future__ import annotations

import functools
import http.server
import json
import sys
import threading
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

FROM_A_DISK = "file:///site"
SEARCHED = ("微调", "内网", "virtual_pp_degree", "zqxj")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def served() -> str:
    handler = functools.partial(Quiet, directory="/site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def search(page: Page, text: str) -> list[str]:
    """Type into the search field; return the names of the pages that are found."""
    # What is typed before the index has been read is lost: a reader types again.
    for _ in range(30):
        page.click(".md-search__input")
        page.keyboard.press("Control+A")
        page.keyboard.press("Delete")
        page.keyboard.type(text)
        page.keyboard.press("End")  # the search hears keys, of which typed Chinese has none here
        said, links = answer(page)
        if "matching" in said:
            return [link.rpartition("/")[2].partition("?")[0] for link in links]
    raise AssertionError(f"the search does not answer to {text}: {said}")


def answer(page: Page) -> tuple[str, list[str]]:
    """Return what the search says and finds: each letter has an answer, and the last one stays."""
    said = page.locator(".md-search-result__meta")
    links = page.locator("a.md-search-result__link")
    last, same = ("", [""]), 0
    while same < 8:
        page.wait_for_timeout(250)
        now = (said.inner_text(), links.evaluate_all("all => all.map(a => a.href)"))
        same, last = (same + 1, last) if now == last else (0, now)
    return last


def read(browser: Browser, address: str) -> dict[str, Any]:
    """Read the site at an address, and take down what it asks for and complains of."""
    asked: list[str] = []
    seen: dict[str, Any] = {"console": [], "found": {}}
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: seen["console"].append(message.text))
    page.on("pageerror", lambda error: seen["console"].append(str(error)))
    page.goto(f"{address}/index.html")
    page.click("text=For laptops")
    page.wait_for_load_state("load")
    seen["clicked"] = page.url.rpartition("/")[2]
    for text in SEARCHED:
        seen["found"][text] = search(page, text)
    page.goto(f"{address}/readme.zh-CN.html")
    seen["broken pictures"] = page.evaluate(
        "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
    )
    seen["pictures"] = page.evaluate("document.images.length")
    page.goto(f"{address}/architecture/20-images.html")
    # The theme replaces the source, a <pre>, by a <div> with the drawing.
    page.wait_for_selector("div.mermaid", timeout=20_000)
    seen["diagrams"] = page.locator("div.mermaid").count()
    seen["asked"] = len(asked)
    near = (address, "data:", "blob:", "about:")
    seen["elsewhere"] = [url for url in asked if not url.startswith(near)]
    return seen


def main(chromium: str) -> None:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        places = {"a server": served(), "a disk": FROM_A_DISK}
        print(json.dumps({name: read(browser, address) for name, address in places.items()}))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
