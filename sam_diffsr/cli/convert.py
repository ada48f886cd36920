"""``sam-diffsr convert``: turns a checkpoint of other code into a model folder."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options, given

__all__ = ["register"]


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "convert",
        help="turn a checkpoint of other code into a model folder",
        description="Read a published SAM-DiffSR or SRDiff .ckpt, or an RRDBNet of the ESRGAN family (.pth, "
        ".safetensors), and write a model folder for upscale -m OUT_DIR. Nothing in the file is executed.",
    )
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="the file to convert")
    add("out_dir", metavar="OUT_DIR", help="folder to write")
    add("--dtype", choices=("fp32", "fp16", "bf16"), help="stored precision (default: fp32, as published)")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert and say what was found."""
    from sam_diffsr.pipeline.checkpoint import convert_checkpoint

    config = convert_checkpoint(args.checkpoint, args.out_dir, **given(args, "dtype"))
    print(f"{args.out_dir}: x{config.model.scale}, {config.schedule.timesteps} timesteps")
    return 0
