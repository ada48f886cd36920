"""Text tables and outlines, and files of text and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sam_diffsr.files import atomic_path, writing


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns that Markdown reads as a table; the first column is text, the others numbers."""
    first, *others = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
    lines = [[cells[0].ljust(first), *map(str.rjust, cells[1:], others)] for cells in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def outline(data: Mapping[str, Any], *, indent: int = 0) -> str:
    """Nested mappings and lists as indented ``key: value`` lines."""
    space = "  " * indent
    lines: list[str] = []
    for key, value in data.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            lines += [f"{space}{name}:", outline(cast("Mapping[str, Any]", value), indent=indent + 1)]
        elif isinstance(value, list):
            lines.append(f"{space}{name}:" if value else f"{space}{name}: none")
            for item in cast("list[Mapping[str, Any]]", value):
                entries = ", ".join(f"{key.replace('_', ' ')} {_word(entry)}" for key, entry in item.items())
                lines.append(f"{space}  - {entries}")
        else:
            lines.append(f"{space}{name}: {_word(value)}")
    return "\n".join(lines)


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; errors are as in :func:`write_text`."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically, and make its folder; raises ``OutputError``."""
    target = Path(path)
    with writing("the file", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            # names of files may hold bytes that are not UTF-8
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
