"""``sam-diffsr train rrdb|diffusion``: the two stages of training."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options

if TYPE_CHECKING:
    from sam_diffsr.training.stages import StageName

__all__ = ["register"]

_STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
_INTERRUPTED = 130


class _ListPresets(argparse.Action):
    """Print the presets and exit, as ``--version`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from sam_diffsr.training.compose import list_presets

        presets = list_presets()
        width = max(map(len, presets))
        sys.stdout.write("".join(f"{name:<{width}}  {text}\n" for name, text in presets.items()))
        parser.exit()


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "train",
        help="train the encoder (rrdb), then the denoiser (diffusion)",
        description="Train one stage. Ctrl-C and SIGTERM save a checkpoint and stop; --resume continues. The "
        "exit code is 0 if all steps are done and 130 if the run was stopped. On several GPUs or machines: "
        "accelerate launch -m sam_diffsr train ..., or torchrun -m sam_diffsr train ...",
    )
    add = parser.add_argument
    order = "rrdb, then diffusion, which needs its result"
    add("stage", metavar="STAGE", choices=tuple(_STAGES), help=order)
    add("config", metavar="CONFIG", help="YAML file or preset")
    add("--out", metavar="DIR", help="folder for checkpoints, log and sample pictures")
    one = "set one value of the config; can be repeated"
    add("--set", action="append", default=[], dest="overrides", metavar="A.B=C", help=one)
    resume = (
        "continue from the newest checkpoint in DIR, or start if there is none (default: latest); or "
        "continue from the given checkpoint"
    )
    add("--resume", nargs="?", const="latest", metavar="latest|PATH", help=resume)
    add("--list-presets", nargs=0, action=_ListPresets, help="print the presets and exit")
    add("--print-config", action="store_true", help="print the whole config as YAML and exit")
    add_common_options(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Train and print where the run ended."""
    from sam_diffsr.evaluation.perceptual import lpips_loss
    from sam_diffsr.evaluation.validation import FolderValidator
    from sam_diffsr.training import config_to_yaml, load_config, resolver_config, train
    from sam_diffsr.training.launch import leave_processes

    config = load_config(args.config, overrides=args.overrides)
    if args.print_config:
        print(config_to_yaml(config), end="")
        return 0
    out: str | None = args.out
    if out is None:
        args.usage_error("the following arguments are required: --out")  # exits
        return 2

    # the validator of table validation, and the distance that diffusion.perceptual asks for
    stage, validation, validator = _STAGES[args.stage], config.validation, None
    if validation.hr is not None:
        validator = FolderValidator(
            validation.hr,
            resolver_config(config, sampling=validation.sampling),
            method="encoder" if stage == "encoder" else "model",
            limit=validation.limit,
            crop=validation.crop,
            pictures=validation.pictures,
        )
    perceptual = stage == "denoiser" and config.diffusion.perceptual > 0
    result = train(
        stage,
        config,
        out,
        resume=args.resume or False,
        validate=validator,
        distance=lpips_loss() if perceptual else None,
        progress=False if args.quiet else None,
    )
    if leave_processes():
        state = "finished" if result.finished else "stopped (continue with --resume)"
        print(f"{state} at step {result.step} of {config.run.steps}: {result.checkpoint}")
    return 0 if result.finished else _INTERRUPTED
