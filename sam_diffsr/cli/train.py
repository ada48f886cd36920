"""``sam-diffsr train rrdb|diffusion``: the two stages of training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options

if TYPE_CHECKING:
    from sam_diffsr.training.stages import StageName

__all__ = ["register"]

_STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
_INTERRUPTED = 130


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "train",
        help="train the encoder (rrdb), then the denoiser (diffusion)",
        description="Train one stage. Ctrl-C saves a checkpoint and stops; go on with --resume. The exit "
        "code is 0 only when all steps are done, and 130 when the run was stopped before.",
    )
    parser.add_argument("stage", choices=tuple(_STAGES), help="rrdb first; diffusion stands on its result")
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for checkpoints and log.jsonl")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="A.B=C",
        help="replace one value of the config; may be given several times",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and say where it ended."""
    from sam_diffsr.training import load_config, train

    config = load_config(args.config, overrides=args.overrides)
    result = train(_STAGES[args.stage], config, args.out, resume=args.resume)
    state = "finished" if result.finished else "stopped, go on with --resume"
    print(f"{state} at step {result.step} of {config.run.steps}: {result.checkpoint}")
    return 0 if result.finished else _INTERRUPTED
