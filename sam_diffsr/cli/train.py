"""``sam-diffsr train rrdb|diffusion``: the two stages of training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options

if TYPE_CHECKING:
    from sam_diffsr.evaluation.validation import FolderValidator
    from sam_diffsr.training import TrainConfig
    from sam_diffsr.training.stages import Distance, StageName

__all__ = ["register"]

_STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
_INTERRUPTED = 130
_LATEST = "latest"


class _ListPresets(argparse.Action):
    """Print the presets and exit, as ``--version`` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
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
    parser.add_argument(
        "stage", metavar="STAGE", choices=tuple(_STAGES), help="rrdb, then diffusion, which needs its result"
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file or preset")
    parser.add_argument("--out", metavar="DIR", help="folder for checkpoints, log and sample pictures")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="A.B=C",
        help="set one value of the config; can be repeated",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=_LATEST,
        metavar="latest|PATH",
        help="continue from the newest checkpoint in DIR, or start if there is none (default: latest); or "
        "continue from the given checkpoint",
    )
    parser.add_argument("--list-presets", nargs=0, action=_ListPresets, help="print the presets and exit")
    parser.add_argument("--print-config", action="store_true", help="print the whole config as YAML and exit")
    add_common_options(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Train and print where the run ended."""
    from sam_diffsr.training import config_to_yaml, load_config, train
    from sam_diffsr.training.launch import leave_processes

    config = load_config(args.config, overrides=args.overrides)
    if args.print_config:
        print(config_to_yaml(config), end="")
        return 0
    out: str | None = args.out
    if out is None:
        args.usage_error("the following arguments are required: --out")  # exits
        return 2
    stage = _STAGES[args.stage]
    result = train(
        stage,
        config,
        out,
        resume=args.resume or False,
        validate=_validator(stage, config),
        distance=_distance(stage, config),
        progress=False if args.quiet else None,
    )
    if leave_processes():
        state = "finished" if result.finished else "stopped (continue with --resume)"
        print(f"{state} at step {result.step} of {config.run.steps}: {result.checkpoint}")
    return 0 if result.finished else _INTERRUPTED


def _validator(stage: StageName, config: TrainConfig) -> FolderValidator | None:
    """The validator of table ``validation``, if it names a folder."""
    from sam_diffsr.evaluation.validation import FolderValidator
    from sam_diffsr.training import resolver_config

    wanted = config.validation
    if wanted.hr is None:
        return None
    return FolderValidator(
        wanted.hr,
        resolver_config(config, sampling=wanted.sampling),
        method="encoder" if stage == "encoder" else "model",
        limit=wanted.limit,
        crop=wanted.crop,
        pictures=wanted.pictures,
    )


def _distance(stage: StageName, config: TrainConfig) -> Distance | None:
    """The perceptual distance that ``diffusion.perceptual`` asks for."""
    from sam_diffsr.evaluation.perceptual import lpips_loss

    return lpips_loss() if stage == "denoiser" and config.diffusion.perceptual > 0 else None
