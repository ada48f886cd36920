"""Parser and entry point; the libraries behind a subcommand are imported only when it runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from sam_diffsr import __version__
from sam_diffsr.cli.bench import register as register_bench
from sam_diffsr.cli.convert import register as register_convert
from sam_diffsr.cli.data import register as register_data
from sam_diffsr.cli.evaluate import register as register_evaluate
from sam_diffsr.cli.export import register as register_export
from sam_diffsr.cli.heap import keep_freed_memory
from sam_diffsr.cli.info import register as register_info
from sam_diffsr.cli.masks import register as register_masks
from sam_diffsr.cli.options import HelpFormatter
from sam_diffsr.cli.page import register as register_page
from sam_diffsr.cli.train import register as register_train
from sam_diffsr.cli.upscale import register as register_upscale
from sam_diffsr.errors import SamDiffsrError

__all__ = ["build_parser", "main"]

_FAILED = 1
_INTERRUPTED = 130
_COMMANDS = (
    register_upscale,
    register_page,
    register_convert,
    register_info,
    register_evaluate,
    register_bench,
    register_masks,
    register_data,
    register_train,
    register_export,
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; needs no torch."""
    parser = argparse.ArgumentParser(
        prog="sam-diffsr",
        description="Image super-resolution by residual diffusion (SAM-DiffSR).",
        epilog="Exit codes: 0 done, 1 something failed (said on stderr), 2 wrong usage, 130 interrupted.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sam-diffsr {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for register in _COMMANDS:
        register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code. Wrong usage leaves by ``SystemExit(2)``, as argparse does.
    """
    args = build_parser().parse_args(argv)
    if argv is None:  # the process is ours
        keep_freed_memory()
    with _messages(quiet=args.quiet, debug=args.debug):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        sys.stdout.flush()  # here, where a reader that is gone is dealt with
        return code
    except SamDiffsrError as error:
        if args.debug:
            raise
        print(f"sam-diffsr: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("sam-diffsr: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


@contextmanager
def _messages(*, quiet: bool, debug: bool) -> Generator[None, None, None]:
    """Send the library's messages to stderr, for as long as the command runs."""
    logger = logging.getLogger("sam_diffsr")
    before = logger.level
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logging.getLogger("sam_diffsr.pipeline").setLevel(logging.NOTSET)
