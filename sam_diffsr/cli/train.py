"""``sam-diffsr train rrdb|diffusion``: the two stages of training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.parser import Parser
from sam_diffsr.errors import ArgumentError

if TYPE_CHECKING:
    from sam_diffsr.training.stages import StageName

STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
"""The library's names of the stages."""
_INTERRUPTED = 130


class _ListPresets(argparse.Action):
    """Print the presets and exit, as ``--version`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from sam_diffsr.training.compose import list_presets

        presets = list_presets()
        width = max(map(len, presets))
        sys.stdout.write("".join(f"{name:<{width}}  {text}\n" for name, text in presets.items()))
        parser.exit()


def add_train(parser: Parser) -> None:
    """Add the subcommand."""
    add = parser.add_command(
        "train",
        _run,
        help="train the encoder (rrdb), then the denoiser (diffusion)",
        description="Train one stage. Ctrl-C and SIGTERM save a checkpoint and stop; --resume continues. The "
        "exit code is 0 if all steps are done and 130 if the run was stopped. On several GPUs or machines: "
        "accelerate launch -m sam_diffsr train ..., or torchrun -m sam_diffsr train ...",
    ).add_argument
    order = "rrdb, then diffusion, which needs its result"
    one = "set one value of the config; can be repeated"
    resume = (
        "continue from the newest checkpoint in DIR, or start if there is none (without a value: latest); or "
        "continue from the given checkpoint"
    )
    add("stage", metavar="STAGE", choices=tuple(STAGES), help=order)
    add("config", metavar="CONFIG", help="YAML file or preset")
    add("--out", metavar="DIR", help="folder for checkpoints, log and sample pictures")
    add("--set", action="append", default=[], dest="overrides", metavar="A.B=C", help=one)
    add("--resume", nargs="?", const="latest", default=False, metavar="latest|PATH", help=resume)
    add("--list-presets", nargs=0, action=_ListPresets, help="print the presets and exit")
    add("--print-config", action="store_true", help="print the whole config as YAML and exit")


def _run(args: argparse.Namespace) -> int:
    from sam_diffsr.evaluation.perceptual import lpips_loss
    from sam_diffsr.evaluation.validation import FolderValidator
    from sam_diffsr.training import config_to_yaml, load_config, resolver_config, train
    from sam_diffsr.training.launch import leave_processes
    from sam_diffsr.training.state import latest_checkpoint

    config = load_config(args.config, overrides=args.overrides)
    if args.print_config:
        print(config_to_yaml(config), end="")
        return 0
    if args.out is None:
        return args.parser.error("the following arguments are required: --out")  # which exits

    record = Path(args.out, "config.yaml")
    own = record.exists() and record.resolve() == Path(args.config).expanduser().resolve()
    if (
        own
        and latest_checkpoint(Path(args.out)) is None
        and record.read_text(encoding="utf-8") != config_to_yaml(config)
    ):
        raise ArgumentError(f"the run writes its own {record}; keep your config under another name")

    # the validator of table validation, and the distance that diffusion.perceptual asks for
    stage, validation, validator = STAGES[args.stage], config.validation, None
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
        args.out,
        resume=args.resume,
        validate=validator,
        distance=lpips_loss() if perceptual else None,
        progress=False if args.quiet else None,
    )
    if leave_processes():
        state = "finished" if result.finished else "stopped (continue with --resume)"
        print(f"{state} at step {result.step} of {config.run.steps}: {result.checkpoint}")
    return 0 if result.finished else _INTERRUPTED
