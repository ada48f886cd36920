"""``sam-diffsr export``: writes a training run as a folder that ``from_pretrained`` loads."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import (
    SAMPLER_CHOICES,
    SPACING_CHOICES,
    Subparsers,
    add_command,
    add_common_options,
    given,
)

__all__ = ["register"]


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "export",
        help="turn a training run into a model folder",
        description="Write a model folder with the averaged weights of a diffusion run and its encoder. The "
        "model card describes training data and settings, if crops and logs still exist. To add scores: "
        "export, evaluate the folder with --json, export again with --scores.",
    )
    add = parser.add_argument
    add("run_dir", metavar="RUN", help="folder of the run, or one checkpoint")
    add("out_dir", metavar="OUT_DIR", help="folder to write")
    add("--sampler", choices=SAMPLER_CHOICES, required=True, help="default sampler of the model")
    add("--steps", type=int, required=True, metavar="N", help="default number of steps")
    add("--start", type=int, metavar="T", help="default start timestep (default: pure noise)")
    add("--spacing", choices=SPACING_CHOICES, help="default spacing of the steps (default: linspace)")
    add(
        "--encoder-share",
        type=float,
        metavar="0..1",
        help="part of the encoder's image in results (default: 0)",
    )
    add("--dtype", choices=("fp32", "fp16", "bf16"), help="stored precision (default: fp32)")
    add("--name", help="title of the model card (default: the folder's name)")
    add("--license", metavar="SPDX", help="licence of the weights, as an SPDX identifier")
    datasets = "name or Hub id of a training data set; can be repeated"
    add("--dataset", action="append", dest="datasets", metavar="NAME", help=datasets)
    add("--scores", metavar="FILE", help="JSON file of `sam-diffsr evaluate` with this model and sampling")
    add("--details", metavar="FILE", help="Markdown file for the end of the card")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and print what was written."""
    import torch

    from sam_diffsr.device import resolve_dtype
    from sam_diffsr.pipeline.config import SamplingConfig
    from sam_diffsr.training.export import export_run, read_details

    sampling = SamplingConfig(**given(args, "sampler", "steps", "start", "spacing", "encoder_share"))
    config = export_run(
        args.run_dir,
        args.out_dir,
        sampling=sampling,
        details="" if args.details is None else read_details(args.details),
        dtype=None if args.dtype is None else resolve_dtype(args.dtype, torch.device("meta")),
        **given(args, "name", "license", "datasets", "scores"),
    )
    print(f"{args.out_dir}: x{config.model.scale}, {sampling.sampler}, {sampling.steps} steps")
    return 0
