"""Two conversations on the chat page, in a headless Chromium: ``chat.py CHROMIUM URL FOLDER``.

It runs in the image of tests/page, for make.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

SIZE = {"width": 900, "height": 580}
# Questions that the demo holds back, in both languages.
ASKED = {
    "light": (
        "en-US",
        [
            "In what year did the Brookwren come on the market?",
            "How heavy is the Brookwren, in grams?",
        ],
    ),
    "dark": ("zh-CN", ["请问 Brookwren 是哪个厂家生产的？", "Brookwren 是从哪座城市出厂的？"]),
}


def talk(browser: Browser, url: str, folder: Path, scheme: str) -> None:
    """Ask, wait for the answers, and take a picture."""
    language, questions = ASKED[scheme]
    context = browser.new_context(viewport=SIZE, locale=language, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#question")
    for text in questions:
        page.fill("#question", text)
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        page.wait_for_selector("#send:not([hidden])", timeout=120_000)
    page.wait_for_timeout(300)
    page.screenshot(path=folder / f"chat-{scheme}.png")
    context.close()


if __name__ == "__main__":
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=sys.argv[1], args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for each in ASKED:
            talk(started, sys.argv[2], Path(sys.argv[3]), each)
        started.close()
