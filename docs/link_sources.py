"""MkDocs hook: links to source files, which serve readers of the repository, become links into api.md."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["on_page_markdown"]

_SOURCE = re.compile(r"\[`(?P<name>[A-Za-z_.]+)`\]\(\.\./(?P<path>sam_diffsr(?:/\w+)+)\.py\)")
_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite the links of one page.

    A link to what a source file defines leads to its place in ``api.md``. Other files of the repository are
    not part of the site: they are named.

    Args:
        markdown: text of the page.
        **_: page, config and files, which MkDocs passes by name.
    """
    markdown = _SOURCE.sub(
        lambda found: f"[`{found['name']}`](api.md#{found['path'].replace('/', '.')}.{found['name']})",
        markdown,
    )
    return _OUTSIDE.sub(_name_file, markdown)


def _name_file(link: re.Match[str]) -> str:
    text, path = link["text"], link["path"]
    return f"`{path}`" if path.endswith(text.strip("`")) else f"{text} (`{path}`)"
