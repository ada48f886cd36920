"""``sam-diffsr info``: what a bug report needs."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options

__all__ = ["register"]


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "info",
        help="print versions, devices, caches and bundled models",
        description="Print versions, devices, cache and offline settings, and the bundled models. Uses no "
        "network.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the environment."""
    import json

    from sam_diffsr.evaluation.environment import describe_environment
    from sam_diffsr.evaluation.report import outline

    environment = describe_environment()
    print(json.dumps(environment, indent=2) if args.json else outline(environment))
    return 0
