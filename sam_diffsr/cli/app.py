"""Entry point of the command; the libraries behind a subcommand are imported only when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from sam_diffsr import __version__
from sam_diffsr.cli.bench import add_bench
from sam_diffsr.cli.calls import add_app, add_convert, add_export, add_export_onnx, add_info
from sam_diffsr.cli.data import add_data
from sam_diffsr.cli.evaluate import add_evaluate
from sam_diffsr.cli.heap import keep_freed_memory
from sam_diffsr.cli.masks import add_masks
from sam_diffsr.cli.options import add_message_options
from sam_diffsr.cli.output import messages, say
from sam_diffsr.cli.parser import LAYOUT, Parser, as_flags, nearest
from sam_diffsr.cli.train import add_train
from sam_diffsr.cli.upscale import add_upscale
from sam_diffsr.errors import ArgumentError, SamDiffsrError

_FAILED = 1
_WRONG_USAGE = 2
_TERMINATED = 143
_COMMANDS = (
    *(add_upscale, add_app, add_convert, add_info, add_evaluate, add_bench),
    *(add_masks, add_data, add_train, add_export, add_export_onnx),
)
"""The subcommands, in the order of the help."""


def build_parser() -> Parser:
    """The whole command line; needs no torch."""
    parser = Parser(
        prog="sam-diffsr",
        description="Image super-resolution by residual diffusion (SAM-DiffSR).\n"
        "sam-diffsr PHOTO is short for sam-diffsr upscale PHOTO.\n",
        epilog="Exit codes: 0 done, 1 something failed (see stderr), 2 wrong usage, 130 interrupted.",
        **LAYOUT,
    )
    parser.add_argument("--version", action="version", version=f"sam-diffsr {__version__}")
    for add in _COMMANDS:
        add(parser)
    for command in parser.walk():
        if not command.commands:
            add_message_options(command)
    return parser


def manual() -> str:
    """The command reference of the documentation: a heading per command, its help in 80 columns below it."""
    from unittest.mock import patch

    with patch.dict(os.environ, COLUMNS="80"):
        return "\n".join(
            f"## {command.prog}\n\n```text\n{command.format_help(further=True)}```\n"
            for command in build_parser().walk()
        )


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
    rewrite = partial(as_flags, flags=args.parser.flags)
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
    first = words[0]
    if first not in parser.commands and first not in ("-h", "--help", "--version"):
        if not (first.startswith("-") or os.path.lexists(first) or any(mark in first for mark in "./\\*?")):
            parser.error(f"there is no command and no file {first!r}{nearest(first, parser.commands)}")
        words = ["upscale", *words]
    args, extra = parser.parse_known_args(words)
    if not extra:
        return args
    if args.command != "upscale" or any(word[:1] == "-" and word[1:] for word in extra):
        args.parser.refuse(extra)
    args.inputs += extra
    return args
