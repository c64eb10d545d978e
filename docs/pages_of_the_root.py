"""Makes pages of the site of the documents in the repository's root, and links lead there.

On a code host the documents are read where they are, and link to each other by their paths
in the repository. A link to a file that is no page leads to the repository's own page of it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "readme.zh-CN.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's documents; the home page is docs/index.md, and the README is not shown."""
    for name, page in PAGES.items():
        if page != "index.md" and (ROOT / name).is_file():
            text = _relinked((ROOT / name).read_text(encoding="utf-8"), name, page, config)
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page that leave docs/ to where their targets are."""
    if page.file.generated_by:
        return markdown
    uri = page.file.src_uri
    return _relinked(markdown, f"docs/{uri}", uri, config)


def _relinked(text: str, source: str, page: str, config: MkDocsConfig) -> str:
    def lead(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target.startswith("docs/"):
            found = target.removeprefix("docs/")
        elif target in PAGES:
            found = PAGES[target]
        else:
            return f"{config.extra['repository']}/blob/main/{target}{anchor}"
        return posixpath.relpath(found, posixpath.dirname(page) or ".") + anchor

    return _LINK.sub(lead, text)
