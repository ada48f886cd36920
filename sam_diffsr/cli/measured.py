"""What every measurement of ``sam-diffsr bench`` does: say what is going on, print its result, write it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["sayer", "tell"]


def sayer(args: argparse.Namespace) -> Callable[[str], object]:
    """A function that prints what is being measured, unless the options say not to."""
    import sys

    return lambda line: None if args.quiet else print(f"measuring: {line}", file=sys.stderr, flush=True)


def tell(result: Any, args: argparse.Namespace, *, device: str | None = None) -> int:
    """Print a result and write it, with machine and versions where it has none of its own (``device``)."""
    from sam_diffsr.evaluation.environment import describe_machine, describe_versions
    from sam_diffsr.evaluation.report import outline, write_json

    print(outline(result.to_json()))
    if args.json is not None:
        about = (
            {} if device is None else {"machine": describe_machine(device), "versions": describe_versions()}
        )
        write_json(args.json, {**result.to_json(), **about})
    return 0
