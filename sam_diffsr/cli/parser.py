"""The parser of the command line: help layout, nested commands, and answers to misspellings."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias, cast

Group: TypeAlias = argparse._ArgumentGroup  # pyright: ignore[reportPrivateUsage]


class _HelpFormatter(argparse.HelpFormatter):
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


# A shortened flag would change its meaning when a new one is added.
LAYOUT: Any = {"formatter_class": _HelpFormatter, "allow_abbrev": False}
"""Arguments of every parser."""


class Parser(argparse.ArgumentParser):
    """Holds commands, keeps groups of options for ``--help-all``, and names the nearest flag."""

    commands: Mapping[str, Parser] = {}
    """Commands below this one, by their names."""
    _further: Sequence[Group] = ()

    def add_command(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int] | None = None,
        *,
        help: str,
        description: str,
        epilog: str | None = None,
    ) -> Parser:
        """Add a command below this one; without ``run`` it only holds further ones."""
        if not self.commands:
            options: Any = {"metavar": "COMMAND", "dest": "command", "required": True}
            self._below = self.add_subparsers(parser_class=Parser, **options)
        child = self._below.add_parser(name, help=help, description=description, epilog=epilog, **LAYOUT)
        child.set_defaults(run=run, parser=child)
        self.commands = {**self.commands, name: child}
        return child

    def walk(self) -> Iterator[Parser]:
        """This parser and all commands below it."""
        yield self
        for child in self.commands.values():
            yield from child.walk()

    @property
    def flags(self) -> dict[str, str]:
        """First long option by the name of its value."""
        found: dict[str, str] = {}
        for action in self._actions:
            for flag in action.option_strings:
                if flag.startswith("--"):
                    found.setdefault(action.dest, flag)
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
    verbs = "must|chooses|and|is part|belongs|would|was asked"
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
