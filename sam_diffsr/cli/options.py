"""What the subcommands share: help layout, common flags, and flags that count only when they are given.

A flag that is not given is None and is dropped, so every default is written once, in the library.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, Protocol, cast

from sam_diffsr.errors import SamDiffsrError

__all__ = [
    "PRECISION_CHOICES",
    "SAMPLER_CHOICES",
    "SPACING_CHOICES",
    "START_NOISE",
    "HelpFormatter",
    "Parser",
    "Subparsers",
    "add_command",
    "add_common_options",
    "add_device_options",
    "add_model_option",
    "as_flags",
    "filled",
    "given",
    "given_limit",
    "hush_pipeline",
    "int_list",
    "nearest",
    "number_list",
    "one_line",
    "start_list",
    "start_value",
    "tile_size",
    "whole",
    "word_list",
]

SAMPLER_CHOICES = ("ddpm", "ddim", "dpmpp_2m")
"""The library's ``SamplerName``, which cannot be asked without importing torch; a test compares them."""
SPACING_CHOICES = ("linspace", "trailing")
"""The library's ``Spacing``, likewise."""
PRECISION_CHOICES = ("auto", "fp32", "fp16", "bf16")
"""The library's ``Precision``, likewise."""
START_NOISE: Literal["noise"] = "noise"


class Subparsers(Protocol):
    """The result of ``ArgumentParser.add_subparsers``, as far as it is used here."""

    def add_parser(self, name: str, **kwargs: Any) -> Parser:
        """Add one subcommand."""
        ...


Container = argparse.ArgumentParser | argparse._ArgumentGroup  # pyright: ignore[reportPrivateUsage]


class HelpFormatter(argparse.HelpFormatter):
    """Writes ``-i, --input PATH`` on every version of Python, and keeps line breaks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "".join(indent + line for line in text.splitlines(keepends=True))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        names = ", ".join(action.option_strings)
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"


class Parser(argparse.ArgumentParser):
    """Keeps groups of options for ``--help-all``, and answers misspellings with the nearest name."""

    _further: Sequence[Any] = ()

    @property
    def commands(self) -> dict[str, Parser]:
        """Subcommands by their names."""
        found: dict[str, Parser] = {}
        for action in self._actions:
            # argparse has no public way
            if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
                found |= cast("dict[str, Parser]", action.choices)
        return found

    @property
    def flags(self) -> dict[str, str]:
        """First long option by the name of its value, of this command and those below it."""
        found = {
            action.dest: next(flag for flag in action.option_strings if flag.startswith("--"))
            for action in reversed(self._actions)
            if any(flag.startswith("--") for flag in action.option_strings)
        }
        return {name: flag for child in self.commands.values() for name, flag in child.flags.items()} | found

    def further_group(self, title: str) -> argparse._ArgumentGroup:  # pyright: ignore[reportPrivateUsage]
        """Add a group of options that only ``--help-all`` shows."""
        if not self._further:
            self.add_argument("--help-all", action=_HelpAll, help="show all options and exit")
        self._further = [*self._further, group := self.add_argument_group(title)]
        return group

    @property
    def has_further(self) -> bool:
        """Whether there is a ``--help-all``."""
        return bool(self._further)

    def format_help(self) -> str:
        """Help without the further groups."""
        shown, self._action_groups = (
            self._action_groups,
            [group for group in self._action_groups if group not in self._further],
        )
        try:
            return super().format_help()
        finally:
            self._action_groups = shown

    def format_help_all(self) -> str:
        """Help with every option."""
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Exit with 2; a value that is none of the choices is answered with the nearest one."""
        match = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if match is not None:
            message += nearest(match[1], re.findall(r"[\w.-]+", match[2]))
        message = message.replace("invalid int value:", "expected a whole number, got")
        super().error(message.replace("invalid float value:", "expected a number, got"))

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Exit with 2 because of words that no option takes."""
        known = [flag for action in self._actions for flag in action.option_strings]
        unknown = next((word for word in words if word.startswith("-")), words[0])
        hint = nearest(unknown.partition("=")[0], known)
        if os.path.lexists(unknown):
            hint = f"; write ./{unknown} for the file of this name"
        self.error(f"unrecognized arguments: {' '.join(words)}{hint}")


class _HelpAll(argparse.Action):
    """Prints the whole help."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(cast("Parser", parser).format_help_all(), end="")
        parser.exit()


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing where nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def as_flags(message: str, flags: Mapping[str, str]) -> str:
    """Rewrite names of Python arguments as the options of the command line.

    Args:
        message: one of the library.
        flags: from :attr:`Parser.flags`.
    """
    names = "|".join(sorted(flags, key=len, reverse=True)) or "(?!)"
    verbs = "must|chooses|and|is part|would|was asked"
    message = re.sub(rf"^({names})(?= (?:\S+ )?(?:{verbs})\b)", lambda match: flags[match[1]], message)
    message = re.sub(rf"^(--\S+ (?:\S+ )?and )({names})\b", lambda match: match[1] + flags[match[2]], message)
    message = message.replace("dtype='", "precision='").replace("expected None, ", "expected ")
    message = message.replace(", 'mps' or a torch.device", " or 'mps'")
    message = re.sub(rf"\b({names})='(\S+?)'", lambda match: f"{flags[match[1]]} {match[2]}", message)
    message = re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda match: flags.get(match[0], match[0]), message)
    message = message.replace("(None: no limit)", "(0: no limit)").replace(", or None for no limit", ", or 0")
    return message.replace("must be None or ", "must be ")


def add_command(
    subparsers: Subparsers, name: str, *, help: str, description: str, epilog: str | None = None
) -> Parser:
    """Add a subcommand with the shared help layout."""
    return subparsers.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,  # a shortened flag would change its meaning when a new one is added
    )


def add_model_option(parser: Container) -> None:
    """``-m`` and its alias ``-n``."""
    parser.add_argument(
        "-m",
        "--model",
        "-n",
        metavar="MODEL",
        type=filled,
        help="bundled name, folder, .safetensors file or Hub id (default: the bundled model)",
    )


def add_device_options(parser: Container) -> None:
    """``--device`` and ``--precision``."""
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--precision",
        choices=PRECISION_CHOICES,
        help="floating type of the networks (default: auto, fp16 on CUDA and fp32 elsewhere)",
    )


def hush_pipeline() -> None:
    """Keep back what the pipeline says of every image, for commands that repeat the same ones."""
    logging.getLogger("sam_diffsr.pipeline").setLevel(logging.WARNING)


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options that were given, as keyword arguments."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def given_limit(args: argparse.Namespace) -> dict[str, int]:
    """``--max-memory``, if it was given: megabytes as the library's ``max_memory`` in bytes."""
    return {} if args.max_memory is None else {"max_memory": args.max_memory * 2**20}


def one_line(error: Exception) -> str:
    """What an error says, on one line; with its type only where it is not one of the library's own."""
    message = " ".join(str(error).split())
    return message if isinstance(error, SamDiffsrError) else f"{type(error).__name__}: {message}"


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Type of an option: a whole number from ``least`` to ``most``."""
    expected = f"a whole number >= {least}" if most is None else f"a whole number from {least} to {most}"

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return number


def filled(text: str) -> str:
    """Type of an option: a name, which is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return text


def tile_size(text: str) -> int | Literal["auto"]:
    """``auto`` or a whole number of pixels."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto, 0 or a number of pixels, got {text!r}") from None


def int_list(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers like 1,2,4; got {text!r}") from None


def number_list(text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers like 1,2.5; got {text!r}") from None


def word_list(text: str) -> list[str]:
    """Words with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def start_value(text: str) -> int | Literal["noise"]:
    """A timestep, or ``noise`` for a start from pure noise."""
    if text == START_NOISE:
        return START_NOISE
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {START_NOISE} or a timestep, got {text!r}") from None


def start_list(text: str) -> list[int | Literal["noise"]]:
    """Values of :func:`start_value` with commas between them."""
    return [start_value(part) for part in word_list(text)]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """``--quiet``, ``--verbose`` and ``--debug``, which every subcommand has."""
    group = parser.add_argument_group("messages")
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    group.add_argument("-v", "--verbose", action="store_true", help="every message")
    group.add_argument("--debug", action="store_true", help="every message, and the traceback of an error")
