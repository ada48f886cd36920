"""``sam-diffsr evaluate``: quality tables from high-resolution images."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import (
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    given,
    hush_pipeline,
    int_list,
    start_list,
    word_list,
)

__all__ = ["register"]

PROTOCOL_CHOICES = ("matlab", "paper")
"""The library's ``Protocol``; a test compares them."""


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "evaluate",
        help="measure PSNR-Y and SSIM-Y on high-resolution images",
        description="Shrink high-resolution images (MATLAB bicubic, 8 bit), enlarge them by bicubic, by the "
        "encoder alone and by the model, and compare. Lists of steps, samplers and so on give one row for "
        "each combination; without them there is one row, at the model's defaults.",
    )
    parser.add_argument("--hr", required=True, metavar="DIR", help="folder of high-resolution images")
    add_model_option(parser)
    parser.add_argument("--steps", type=int_list, metavar="N,N,..", help="numbers of denoising steps")
    parser.add_argument("--sampler", type=word_list, metavar="A,B,..", help="ddpm, ddim, dpmpp_2m")
    parser.add_argument(
        "--start",
        type=start_list,
        metavar="A,B,..",
        help="noise, or timesteps to start at from the encoder's image",
    )
    parser.add_argument(
        "--spacing", type=word_list, metavar="A,B,..", help="linspace, trailing: where the steps lie"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="chooses the noise (default: 0)")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOL_CHOICES,
        help="matlab: border = scale; paper: no border (default: matlab)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every value, with settings and versions")
    add_device_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    from sam_diffsr.evaluation.evaluate import evaluate_images, sampling_grid
    from sam_diffsr.evaluation.report import write_json
    from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL
    from sam_diffsr.pipeline.folder import find_images
    from sam_diffsr.pipeline.resolver import SuperResolver

    files = find_images(args.hr)
    if not args.debug:
        hush_pipeline()
    dtype = {} if args.precision is None else {"dtype": args.precision}
    resolver = SuperResolver.from_pretrained(args.model, **given(args, "device"), **dtype)
    settings = sampling_grid(
        resolver.config,
        samplers=args.sampler,
        steps=args.steps,
        starts=args.start,
        spacings=args.spacing,
    )
    evaluation = evaluate_images(
        resolver,
        files,
        model_name=args.model or DEFAULT_MODEL,
        settings=settings,
        **given(args, "protocol", "seed"),
    )
    print(
        f"{evaluation.model}, x{evaluation.scale}, {len(files)} images, border {evaluation.border}, "
        f"seed {evaluation.seed}\n"
    )
    print(evaluation.table())
    if args.json is not None:
        write_json(args.json, evaluation.to_json())
    return 0
