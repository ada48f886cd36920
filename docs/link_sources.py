"""MkDocs hook: links to source files, which serve readers of the repository, become links into api.md."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["on_page_markdown"]

_SOURCE = re.compile(r"\[`(?P<name>\w+)`\]\(\.\./(?P<path>sam_diffsr(?:/\w+)+)\.py\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite the links of one page.

    Args:
        markdown: text of the page.
        **_: page, config and files, which MkDocs passes by name.
    """
    return _SOURCE.sub(
        lambda found: f"[`{found['name']}`](api.md#{found['path'].replace('/', '.')}.{found['name']})",
        markdown,
    )
