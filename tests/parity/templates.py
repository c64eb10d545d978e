"""Render the templates of ``templates.json`` with transformers, and write what comes out into it.

Run with an interpreter that has transformers 5.24 and Jinja, when a case is added:
``python tests/parity/templates.py``. Dates are written as ``{today}``.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

CASES = Path(__file__).with_name("templates.json")


def rendered(case: dict[str, Any], tokens: dict[str, str]) -> dict[str, str]:
    try:
        (text,), _ = render_jinja_template(
            conversations=[case["messages"]],
            chat_template=case["template"],
            add_generation_prompt=True,
            **tokens,
        )
    except Exception as error:  # whatever a template makes of it
        return {"error": str(error)}
    return {"text": text.replace(datetime.now().strftime("%d %b %Y"), "{today}")}


def main() -> None:
    body = json.loads(CASES.read_text(encoding="utf-8"))
    body["cases"] = [
        {key: case[key] for key in ("name", "template", "messages")}
        | rendered(case, body["tokens"])
        for case in body["cases"]
    ]
    text = json.dumps(body, ensure_ascii=False, indent=1) + "\n"
    CASES.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
