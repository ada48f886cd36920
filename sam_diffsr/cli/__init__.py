"""The ``sam-diffsr`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; Ctrl-C ends it in one line, also while the libraries are imported.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code. Wrong usage found by the parser leaves by ``SystemExit(2)``, as argparse does.
    """
    try:
        from sam_diffsr.cli.app import run_command

        return run_command(argv)
    except KeyboardInterrupt:
        print("sam-diffsr: interrupted", file=sys.stderr)
        return _INTERRUPTED
