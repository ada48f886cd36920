"""``sam-diffsr data``: makes training crops from photographs, or without any."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sam_diffsr.cli.options import CHOICES, given, number_list
from sam_diffsr.cli.parser import Parser
from sam_diffsr.errors import ArgumentError


def add_data(parser: Parser) -> None:
    """Add the subcommand and its own ones."""
    group = parser.add_command("data", help="prepare training data", description="Prepare training data.")
    prepare = group.add_command(
        "prepare",
        _prepare,
        help="cut photographs into crops with structure fields",
        description="Cut photographs into crops, segment them and store both for training. The same command "
        "continues a stopped run. The usual folders of DIV2K, Flickr2K, DF2K and benchmarks are recognised.",
        epilog="Photos that are smaller than a crop or cannot be read are skipped and listed; unreadable "
        "photos make the exit code 1.",
    )
    add = prepare.add_argument
    reductions = "reduce each photo by each of these factors first; 1 keeps its pixels (default: 2)"
    masks = "folder of records or stored fields, <stem>.json, .npz or .npy, instead of a segmenter"
    missing = "photos without masks in DIR: stop, or use them without regions (default: error)"
    longest = "longest side for graph segmentation (default: 512)"
    add("photos", metavar="PHOTOS", help="data set, or folder with its subfolders")
    add("out", metavar="OUT", help="folder to write")
    add("--crop-size", type=int, metavar="N", help="side of the crops (default: 224)")
    add("--reductions", type=number_list, metavar="A,B,..", help=reductions)
    add("--min-gradient", type=float, metavar="X", help="drop flatter crops, in 8-bit levels (default: 2.5)")
    add("--segmenter", choices=CHOICES["segmenter"], help="source of the regions (default: graph)")
    add("--segment-side", type=int, metavar="N", help=longest)
    add("--masks", metavar="DIR", help=masks)
    add("--missing-masks", choices=CHOICES["missing_masks"], help=missing)
    add("--ignore-corrupt", action="store_true", help="exit with 0 even if photos cannot be read")

    synthesize = group.add_command(
        "synthesize",
        _synthesize,
        help="make synthetic crops: dead leaves, text and line art",
        description="Write crops of synthetic images with their exact regions: dead leaves (overlapping "
        "shapes of power-law sizes), text and line art. Training can also make them on the fly, see "
        "data.synthetic in the training config.",
    )
    add = synthesize.add_argument
    add("out", metavar="OUT", help="folder to write")
    add("--count", type=int, metavar="N", help="number of images (default: 1000)")
    add("--size", type=int, metavar="S", help="side of the images (default: 384)")
    add("--seed", type=int, metavar="N", help="seed of the images (default: 0)")
    add("--pages", type=float, metavar="X", help="share of pages of text and line art (default: 0.15)")
    add("--photos", metavar="DIR", help="take colours and textures from these photos")

    overwrite = "replace other crops in OUT once the new ones are complete"
    for command in (prepare, synthesize):
        add = command.add_argument
        add("--overwrite", action="store_true", default=None, help=overwrite)
        add("--encoding", choices=CHOICES["encoding"], help="value of a region (default: rope)")
        add("--reduction", choices=CHOICES["reduction"], help="divisor of a region's value (default: image)")


def _prepare(args: argparse.Namespace) -> int:
    from sam_diffsr.data.prepare import prepare_crops

    options: dict[str, Any] = given(args, "crop_size", "reductions", "min_gradient", "encoding", "reduction")
    options |= given(args, "segmenter", "masks", "missing_masks", "overwrite")
    if args.masks is None and args.missing_masks is not None:
        raise ArgumentError("--missing-masks belongs to --masks; leave it out")
    if args.masks is not None and args.segmenter is not None:
        raise ArgumentError("--segmenter and --masks exclude each other")
    if args.segment_side is not None:
        from sam_diffsr.masks.segments import GraphMaskGenerator

        if args.segmenter == "none" or args.masks is not None:
            raise ArgumentError("--segment-side belongs to graph segmentation; leave it out")
        options["segmenter"] = GraphMaskGenerator(longest_side=args.segment_side)
    store = prepare_crops(args.photos, args.out, progress=None if args.quiet else _show, **options)
    kinds = [source["kind"] for source in store.skipped]
    left_out = [f"{kinds.count(kind)} {kind}" for kind in ("corrupt", "small") if kind in kinds]
    if not args.quiet:
        print(f"{args.out}: {len(store)} crops" + (f"; left out: {', '.join(left_out)}" if left_out else ""))
    return 1 if "corrupt" in kinds and not args.ignore_corrupt else 0


def _synthesize(args: argparse.Namespace) -> int:
    from sam_diffsr.data.config import SyntheticConfig
    from sam_diffsr.data.synthetic import synthesize_crops

    def show(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"[{done}/{total}]", file=sys.stderr, flush=True)

    store = synthesize_crops(
        args.out,
        config=SyntheticConfig(**given(args, "size", "pages", "photos")),
        progress=None if args.quiet else show,
        **given(args, "count", "seed", "encoding", "reduction", "overwrite"),
    )
    if not args.quiet:
        print(f"{args.out}: {len(store)} crops")
    return 0


def _show(done: int, total: int, name: str) -> None:
    print(f"[{done}/{total}] {name}", flush=True)
