"""``sam-diffsr data prepare``: a folder of photographs to training crops."""

from __future__ import annotations

import argparse
from typing import Any

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options, given, number_list

__all__ = ["register"]

_OPTIONS = ("crop_size", "reductions", "min_gradient", "segmenter", "encoding", "reduction", "masks")
SEGMENTER_CHOICES = ("graph", "none")
ENCODING_CHOICES = ("rope", "cosine", "sincos", "random")
REDUCTION_CHOICES = ("image", "region")


def register(subparsers: Subparsers) -> None:
    """Add the subcommand and its own ones."""
    parser = add_command(
        subparsers,
        "data",
        help="prepare training data",
        description="Prepare training data.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="data_command", required=True)
    prepare = add_command(
        commands,
        "prepare",
        help="cut photographs into crops with structure fields",
        description="Cut photographs into crops, segment them and store both for training. A run that was "
        "cut off goes on where it was.",
    )
    prepare.add_argument("photos", metavar="PHOTOS", help="folder, searched with its subfolders")
    prepare.add_argument("out", metavar="OUT", help="folder to write")
    prepare.add_argument("--crop-size", type=int, metavar="N", help="side of the crops (default: 224)")
    prepare.add_argument(
        "--reductions",
        type=number_list,
        metavar="A,B,..",
        help="each photo is made smaller by each of these factors first (default: 2)",
    )
    prepare.add_argument(
        "--min-gradient", type=float, metavar="X", help="leave out flatter crops, 8-bit levels (default: 2.5)"
    )
    prepare.add_argument(
        "--segmenter", choices=SEGMENTER_CHOICES, help="where regions come from (default: graph)"
    )
    prepare.add_argument(
        "--segment-side", type=int, metavar="N", help="longest side for graph segmentation (default: 512)"
    )
    prepare.add_argument(
        "--masks",
        metavar="DIR",
        help="records or stored fields made before, <stem>.json, .npz or .npy, instead of a segmenter",
    )
    prepare.add_argument("--encoding", choices=ENCODING_CHOICES, help="value of a region (default: rope)")
    prepare.add_argument(
        "--reduction", choices=REDUCTION_CHOICES, help="what it is divided by (default: image)"
    )
    add_common_options(prepare)
    prepare.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare and say how many crops there are."""
    from sam_diffsr.data.prepare import prepare_crops

    options: dict[str, Any] = given(args, *_OPTIONS)
    if args.segment_side is not None:
        from sam_diffsr.errors import ArgumentError
        from sam_diffsr.masks.segments import GraphMaskGenerator

        if args.segmenter == "none" or args.masks is not None:
            raise ArgumentError("--segment-side belongs to graph segmentation; leave it out")
        options["segmenter"] = GraphMaskGenerator(longest_side=args.segment_side)
    store = prepare_crops(args.photos, args.out, progress=None if args.quiet else _show, **options)
    print(f"{args.out}: {len(store)} crops")
    return 0


def _show(done: int, total: int, name: str) -> None:
    print(f"[{done}/{total}] {name}", flush=True)
