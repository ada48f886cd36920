"""Every ``--help`` in one; ``COLUMNS=80 python -m sam_diffsr.cli.manual > docs/cli.txt`` writes it down."""

from __future__ import annotations

import argparse
import sys

from sam_diffsr.cli.app import build_parser

__all__ = ["manual"]


def manual() -> str:
    """Help of the command and of each subcommand, each under the command line that prints it."""
    return "\n".join(
        f"$ {parser.prog} --help\n\n{parser.format_help()}" for parser in _with_subparsers(build_parser())
    )


def _with_subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] # argparse has no public way
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            choices: dict[str, argparse.ArgumentParser] = action.choices  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            for child in choices.values():
                found += _with_subparsers(child)
    return found


if __name__ == "__main__":
    sys.stdout.write(manual())
