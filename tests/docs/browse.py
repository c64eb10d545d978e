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

from playwright.sync_api import Page, sync_playwright

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
    """Type into the search field; return the addresses of what is found."""
    page.click(".md-search__input")
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
    links = page.locator("a.md-search-result__link")
    meta = page.locator(".md-search-result__meta")
    last, same = ("", [""]), 0
    # Nothing says when the worker has answered; an answer that stays is the answer.
    while same < 8:
        page.wait_for_timeout(250)
        now = (meta.inner_text(), links.evaluate_all("all => all.map(a => a.href)"))
        same, last = (same + 1, last) if now == last else (0, now)
    return [link.rpartition("/")[2].partition("?")[0] for link in last[1]]


def main(chromium: str) -> None:
    seen: dict[str, Any] = {"requests": [], "console": [], "found": {}}
    address = served()
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.on("request", lambda request: seen["requests"].append(request.url))
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
        browser.close()
    seen["elsewhere"] = [
        url for url in seen["requests"] if not url.startswith((address, "data:", "blob:"))
    ]
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
