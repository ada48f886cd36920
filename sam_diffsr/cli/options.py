"""What the subcommands share: help layout, common flags, and flags that count only when they are given.

A flag that is not given is None and is dropped, so every default is written once, in the library.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar, cast

from sam_diffsr.errors import ArgumentError, SamDiffsrError

if TYPE_CHECKING:
    from sam_diffsr.cluster import Cluster

__all__ = [
    "PRECISION_CHOICES",
    "SAMPLER_CHOICES",
    "SPACING_CHOICES",
    "HelpFormatter",
    "Parser",
    "Subparsers",
    "above_0",
    "add_command",
    "add_common_options",
    "add_device_options",
    "add_model_option",
    "add_ray_options",
    "as_flags",
    "cluster_of",
    "filled",
    "given",
    "hush_pipeline",
    "int_list",
    "kind",
    "megabytes",
    "nearest",
    "number_list",
    "one_line",
    "start_list",
    "start_value",
    "tile_size",
    "whole",
    "word_list",
]

# The library's SamplerName, Spacing and Precision, which need torch to be imported; a test compares them.
SAMPLER_CHOICES = ("ddpm", "ddim", "dpmpp_2m")
SPACING_CHOICES = ("linspace", "trailing")
PRECISION_CHOICES = ("auto", "fp32", "fp16", "bf16")

T = TypeVar("T")
Group: TypeAlias = argparse._ArgumentGroup  # pyright: ignore[reportPrivateUsage]
Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"  # pyright: ignore[reportPrivateUsage]


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

    _further: Sequence[Group] = ()

    @property
    def commands(self) -> dict[str, Parser]:
        """Subcommands by their names."""
        found: dict[str, Parser] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
                found |= cast("dict[str, Parser]", action.choices)
        return found

    @property
    def flags(self) -> dict[str, str]:
        """First long option by the name of its value, of this command and those below it."""
        found: dict[str, str] = {}
        for child in self.commands.values():
            found |= child.flags
        for action in reversed(self._actions):
            for flag in reversed(action.option_strings):
                if flag.startswith("--"):
                    found[action.dest] = flag
        return found

    def further_group(self, title: str) -> Group:
        """Add a group of options that only ``--help-all`` shows."""
        if not self._further:
            hidden: Any = {"nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
            self.add_argument("--help-all", action=_HelpAll, help="show all options and exit", **hidden)
        self._further = [*self._further, group := self.add_argument_group(title)]
        return group

    def format_help(self, *, further: bool = False) -> str:
        """Help, without the further groups unless asked for."""
        groups = self._action_groups
        self._action_groups = [group for group in groups if further or group not in self._further]
        try:
            return super().format_help()
        finally:
            self._action_groups = groups

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
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(cast("Parser", parser).format_help(further=True), end="")
        parser.exit()


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing where nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def as_flags(message: str, flags: Mapping[str, str]) -> str:
    """Rewrite names of Python arguments in a message of the library as options, by :attr:`Parser.flags`."""
    names = "|".join(sorted(flags, key=len, reverse=True)) or "(?!)"
    verbs = "must|chooses|and|is part|would|was asked"
    message = re.sub(rf"^({names})(?= (?:\S+ )?(?:{verbs})\b)", lambda match: flags[match[1]], message)
    message = re.sub(rf"^(--\S+ (?:\S+ )?and )({names})\b", lambda match: match[1] + flags[match[2]], message)
    message = re.sub(rf"\b({names})='(\S+?)'", lambda match: f"{flags[match[1]]} {match[2]}", message)
    message = re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda match: flags.get(match[0], match[0]), message)
    for python, shell in (
        ("expected None, ", "expected "),
        (", 'mps' or a torch.device", " or 'mps'"),
        ("(None: no limit)", "(0: no limit)"),
        (", or None for no limit", ", or 0"),
        ("must be None or ", "must be "),
    ):
        message = message.replace(python, shell)
    return message


def one_line(error: Exception) -> str:
    """What an error says, on one line; with its type only where it is not one of the library's own."""
    message = " ".join(str(error).split())
    return message if isinstance(error, SamDiffsrError) else f"{type(error).__name__}: {message}"


def hush_pipeline() -> None:
    """Keep back what the pipeline says of every image, for commands that repeat the same ones."""
    logging.getLogger("sam_diffsr.pipeline").setLevel(logging.WARNING)


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options that were given, as keyword arguments."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


# Commands and flags


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


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """``-m`` and its alias ``-n``."""
    text = "bundled name, folder, .safetensors file or Hub id (default: the bundled model)"
    parser.add_argument("-m", "--model", "-n", metavar="MODEL", type=filled, help=text)


def add_device_options(parser: argparse.ArgumentParser | Group) -> None:
    """``--device`` and ``--precision``, which is the library's ``dtype``."""
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    text = "floating type of the networks (default: auto, fp16 on CUDA and fp32 elsewhere)"
    parser.add_argument("--precision", dest="dtype", choices=PRECISION_CHOICES, help=text)


def add_ray_options(group: Group) -> None:
    """``--ray`` and the size of its workers."""
    add = group.add_argument
    ray = "on a Ray cluster (extra ray): auto or host:port; without an address, workers on this machine"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=ray)
    add("--ray-workers", type=whole(1), metavar="N", help="workers (default: what the nodes have room for)")
    add("--ray-cpus", type=above_0, metavar="N", help="cores per worker (default: 1)")
    add(
        "--ray-gpus",
        type=float,
        metavar="N",
        help="GPUs per worker, such as 0.5 (default: 1 if there are any)",
    )


def cluster_of(args: argparse.Namespace) -> Cluster | None:
    """The cluster of ``--ray``; None without it."""
    if args.ray is None:
        return None
    from sam_diffsr.cluster import Cluster

    if args.device not in (None, "auto", "cpu"):
        raise ArgumentError("a Ray worker gets its device from Ray; use --ray-gpus instead of --device")
    gpus = 0 if args.device == "cpu" else args.ray_gpus
    numbers = {"workers": args.ray_workers, "num_cpus": args.ray_cpus, "num_gpus": gpus}
    chosen: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    return Cluster(address=None if args.ray == "local" else args.ray, **chosen)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """``--quiet``, ``--verbose`` and ``--debug``, which every subcommand has."""
    add = parser.add_argument_group("messages").add_argument
    add("-q", "--quiet", action="store_true", help="only warnings and errors")
    add("-v", "--verbose", action="store_true", help="every message")
    add("--debug", action="store_true", help="every message, and the traceback of an error")


# Types of options


def kind(expected: str, parse: Callable[[str], T]) -> Callable[[str], T]:
    """Type of an option: what ``parse`` makes of a text; its ``ValueError`` says what was expected."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None

    parsed.__doc__ = f"Type of an option: {expected}."
    return parsed


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Type of an option: a whole number from ``least`` to ``most``."""

    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise ValueError
        return int(text)

    limits = f">= {least}" if most == math.inf else f"from {least} to {most}"
    return kind(f"a whole number {limits}", number)


def megabytes(text: str) -> int:
    """Type of an option: megabytes, as bytes."""
    return whole(1)(text) * 2**20


def word_list(text: str) -> list[str]:
    """Words with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _above_0(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def _filled(text: str) -> str:
    if not text:
        raise ValueError
    return text


above_0 = kind("a number above 0", _above_0)
filled = kind("a name", _filled)
int_list = kind("whole numbers like '1,2,4'", lambda text: [int(part) for part in text.split(",")])
number_list = kind("numbers like '1,2.5'", lambda text: [float(part) for part in text.split(",")])


def _word_or_int(word: Literal["auto", "noise"], expected: str) -> Callable[[str], Any]:
    return kind(expected, lambda text: text if text == word else int(text))


tile_size = _word_or_int("auto", "auto, 0 or a number of pixels")
start_value = _word_or_int("noise", "noise or a timestep")


def start_list(text: str) -> list[int | Literal["noise"]]:
    """Timesteps, or ``noise`` for a start from pure noise, with commas between them."""
    return [start_value(part) for part in word_list(text)]
