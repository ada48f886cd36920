"""The command reference of the documentation: the help of every command, in Markdown."""

from __future__ import annotations

import argparse
import os
from unittest.mock import patch

from sam_diffsr.cli.app import build_parser

__all__ = ["manual"]


def manual() -> str:
    """One heading per command, with its whole help in 80 columns below it."""
    with patch.dict(os.environ, COLUMNS="80"):
        return "\n".join(
            f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n"
            for parser in _with_subparsers(build_parser())
        )


def _with_subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] # argparse has no public way
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            choices: dict[str, argparse.ArgumentParser] = action.choices  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            for child in choices.values():
                found += _with_subparsers(child)
    return found
