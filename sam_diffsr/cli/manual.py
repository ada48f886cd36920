"""Every ``--help`` in one; ``COLUMNS=80 python -m sam_diffsr.cli.manual > docs/cli.txt`` writes it down."""

from __future__ import annotations

import sys

from sam_diffsr.cli.app import build_parser
from sam_diffsr.cli.options import Parser

__all__ = ["manual"]


def manual() -> str:
    """Help of the command and of each subcommand, each under the command line that prints it."""
    return "\n".join(
        f"$ {parser.prog} --help{'-all' * parser.has_further}\n\n{parser.format_help_all()}"
        for parser in _with_commands(build_parser())
    )


def _with_commands(parser: Parser) -> list[Parser]:
    return [parser, *(found for child in parser.commands.values() for found in _with_commands(child))]


if __name__ == "__main__":
    sys.stdout.write(manual())
