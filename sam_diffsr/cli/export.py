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
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run, or one checkpoint")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write")
    parser.add_argument(
        "--sampler", choices=SAMPLER_CHOICES, required=True, help="default sampler of the model"
    )
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="default number of steps")
    parser.add_argument("--start", type=int, metavar="T", help="default start timestep (default: pure noise)")
    parser.add_argument(
        "--spacing", choices=SPACING_CHOICES, help="default spacing of the steps (default: linspace)"
    )
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="stored precision (default: fp32)")
    parser.add_argument("--name", help="title of the model card (default: the folder's name)")
    parser.add_argument("--license", metavar="SPDX", help="licence of the weights, as an SPDX identifier")
    parser.add_argument(
        "--dataset",
        action="append",
        dest="datasets",
        metavar="NAME",
        help="name or Hub id of a training data set; can be repeated",
    )
    parser.add_argument(
        "--scores", metavar="FILE", help="JSON file of `sam-diffsr evaluate` with this model and sampling"
    )
    parser.add_argument("--details", metavar="FILE", help="Markdown file for the end of the card")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and print what was written."""
    import torch

    from sam_diffsr.device import resolve_dtype
    from sam_diffsr.pipeline.config import SamplingConfig
    from sam_diffsr.training.export import export_run, read_details

    sampling = SamplingConfig(**given(args, "sampler", "steps", "start", "spacing"))
    dtype = {} if args.dtype is None else {"dtype": resolve_dtype(args.dtype, torch.device("meta"))}
    config = export_run(
        args.run_dir,
        args.out_dir,
        sampling=sampling,
        details="" if args.details is None else read_details(args.details),
        **dtype,
        **given(args, "name", "license", "datasets", "scores"),
    )
    print(f"{args.out_dir}: x{config.model.scale}, {sampling.sampler}, {sampling.steps} steps")
    return 0
