"""Parser and entry point; the libraries behind a subcommand are imported only when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NoReturn

from sam_diffsr import __version__
from sam_diffsr.cli.heap import keep_freed_memory
from sam_diffsr.cli.options import HelpFormatter, Parser, as_flags, nearest
from sam_diffsr.cli.output import messages, say
from sam_diffsr.errors import ArgumentError, SamDiffsrError

__all__ = ["build_parser", "manual", "run_command"]

_FAILED = 1
_WRONG_USAGE = 2
_TERMINATED = 143
_COMMANDS = (
    *("upscale", "page", "convert", "info", "evaluate", "bench"),
    *("masks", "data", "train", "export", "export_onnx"),
)
"""Modules of the subcommands, in the order of the help."""


def build_parser() -> Parser:
    """The whole command line; needs no torch."""
    parser = Parser(
        prog="sam-diffsr",
        description="Image super-resolution by residual diffusion (SAM-DiffSR).\n"
        "sam-diffsr PHOTO is short for sam-diffsr upscale PHOTO.\n",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        epilog="Exit codes: 0 done, 1 something failed (see stderr), 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"sam-diffsr {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"sam_diffsr.cli.{name}").register(subparsers)
    return parser


def manual() -> str:
    """The command reference of the documentation: a heading per command, its help in 80 columns below it."""
    from unittest.mock import patch

    def sections(parser: Parser) -> Iterator[str]:
        yield f"## {parser.prog}\n\n```text\n{parser.format_help(further=True)}```\n"
        for child in parser.commands.values():
            yield from sections(child)

    with patch.dict(os.environ, COLUMNS="80"):
        return "\n".join(sections(build_parser()))


def run_command(argv: Sequence[str] | None) -> int:
    """Do the work of :func:`sam_diffsr.cli.main`, which catches Ctrl-C."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        import argcomplete

        argcomplete.autocomplete(parser)
    args = _parse(parser, sys.argv[1:] if argv is None else list(argv))
    if argv is None:  # the process is ours
        keep_freed_memory()
        signal.signal(signal.SIGTERM, _terminate)
    rewrite = partial(as_flags, flags=parser.commands[args.command].flags)
    with messages(quiet=args.quiet, verbose=args.verbose or args.debug, rewrite=rewrite):
        try:
            code: int = args.run(args)
            sys.stdout.flush()  # here, where a reader that is gone is dealt with
            return code
        except SamDiffsrError as error:
            if args.debug:
                raise
            say(f"sam-diffsr: error: {rewrite(' '.join(str(error).split()))}", error=True)
            return _WRONG_USAGE if isinstance(error, ArgumentError) else _FAILED
        except BrokenPipeError:  # the reader of our output went away, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _FAILED


def _terminate(number: int, frame: object) -> NoReturn:
    """Leave by an exception, so that nothing half-written stays."""
    sys.exit(_TERMINATED)


def _parse(parser: Parser, words: list[str]) -> argparse.Namespace:
    """Parse a command line, in which ``upscale`` may be left out and options may stand between inputs."""
    if not words:
        parser.print_help(sys.stderr)
        sys.exit(_WRONG_USAGE)
    commands, first = parser.commands, words[0]
    if first not in commands and first not in ("-h", "--help", "--version"):
        if not (first.startswith("-") or os.path.lexists(first) or any(mark in first for mark in "./\\*?")):
            parser.error(f"there is no command and no file {first!r}{nearest(first, commands)}")
        words = ["upscale", *words]
    args, extra = parser.parse_known_args(words)
    if extra and args.command == "upscale" and not any(word[:1] == "-" and word[1:] for word in extra):
        args.inputs += extra
    elif extra:
        for word in words:
            parser = parser.commands.get(word, parser)
        parser.refuse(extra)
    return args
