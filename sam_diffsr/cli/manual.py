"""The command reference of the documentation: the help of every command, in Markdown."""

from __future__ import annotations

import os
from unittest.mock import patch

from sam_diffsr.cli.app import build_parser
from sam_diffsr.cli.options import Parser

__all__ = ["manual"]


def manual() -> str:
    """One heading per command, with its whole help in 80 columns below it."""
    with patch.dict(os.environ, COLUMNS="80"):
        return "\n".join(
            f"## {parser.prog}\n\n```text\n{parser.format_help(further=True)}```\n"
            for parser in _with_commands(build_parser())
        )


def _with_commands(parser: Parser) -> list[Parser]:
    return [parser, *(found for child in parser.commands.values() for found in _with_commands(child))]
