"""``sam-diffsr masks``: find the regions of photos, encode them as structure fields, draw both."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.options import (
    Subparsers,
    add_command,
    add_common_options,
    add_ray_options,
    cluster_of,
    given,
    one_line,
)
from sam_diffsr.cli.output import summary_table
from sam_diffsr.errors import ArgumentError
from sam_diffsr.stores import as_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sam_diffsr.masks.folders import MaskOutcome
    from sam_diffsr.masks.shard import Shard

__all__ = ["register"]

# The library's SamPrecision, Encoding and Reduction, which need torch to be imported; a test compares them.
SAM_PRECISION_CHOICES = ("fp32", "fp16", "bf16")
ENCODING_CHOICES = ("rope", "cosine", "sincos", "random")
REDUCTION_CHOICES = ("image", "region")

SAM_OPTIONS: dict[str, tuple[type, str]] = {
    "points_per_side": (int, "points of the prompt grid along one side (32)"),
    "points_per_batch": (int, "points decoded at once; more is faster and takes more memory (64)"),
    "pred_iou_thresh": (float, "drop masks whose quality the model rates lower (0.88)"),
    "stability_score_thresh": (float, "drop masks with a lower stability under a moved cut-off (0.95)"),
    "stability_score_offset": (float, "shift of the cut-off for the stability score, in logits (1)"),
    "box_nms_thresh": (float, "of two masks whose boxes overlap more, drop the lower rated (0.7)"),
    "crop_n_layers": (int, "number of crop layers (0)"),
    "crop_nms_thresh": (float, "the same threshold between crops (0.7)"),
    "crop_overlap_ratio": (float, "overlap of crops, as a fraction of the short side (512/1500)"),
    "crop_n_points_downscale_factor": (int, "divide the points per side by this in each crop layer (1)"),
    "min_mask_region_area": (int, "remove holes and islands of fewer pixels; needs OpenCV (0)"),
}
"""Type and help of each option of SAM's generator; a test compares them with ``SamOptions``."""

_EPILOG = """\
examples:
  sam-diffsr masks generate photos masks -m vit_h --longest-side 1024
  sam-diffsr masks generate photos masks -m graph
  torchrun --nproc-per-node 4 -m sam_diffsr masks generate photos masks -m vit_h
  sam-diffsr masks generate photos masks -m vit_h --shard 1/4
  sam-diffsr masks generate s3://a/photos s3://a/masks -m vit_h --ray auto
  sam-diffsr data prepare photos crops --reductions 1 --masks masks
"""


def register(subparsers: Subparsers) -> None:
    """Add the subcommand and its own ones."""
    parser = add_command(
        subparsers,
        "masks",
        help="find regions, encode them, draw them",
        description="Find the regions of photos, encode them as structure fields, draw both.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="masks_command", required=True)
    _register_generate(commands)
    _register_encode(commands)
    _register_show(commands)


def _register_generate(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "generate",
        help="find the regions of photos",
        description="Write OUT/<stem>.json for every photo, in the format of amg.py --convert-to-rle. "
        "Finished files are skipped, so a stopped run can be repeated. Several processes share a folder "
        "with --shard. "
        "Photos that fail are reported and skipped; the exit code is then 1.",
        epilog=_EPILOG,
    )
    parser.add_argument("images", metavar="IMAGES", help="folder (with its subfolders) or file")
    parser.add_argument("out", metavar="OUT", help="output folder; it keeps the tree of the input")
    _add_generator_options(parser)
    _add_run_options(parser)
    group = parser.add_argument_group("SAM's automatic mask generator (defaults in brackets)")
    for name, (kind, help_text) in SAM_OPTIONS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=help_text)
    add_ray_options(parser.add_argument_group("cluster"))
    add_common_options(parser)
    parser.set_defaults(run=run_generate)


def _register_encode(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "encode",
        help="turn records into stored structure fields",
        description="Write OUT/<stem>.npz, a label map and one value per region, for every .json file "
        "(of amg.py, SA-1B or masks generate) and every PNG folder of amg.py. Finished files are skipped.",
    )
    images = "photos; their sizes are checked, and needed for files without regions"
    add = parser.add_argument
    add("records", metavar="RECORDS", help="folder (with its subfolders)")
    add("out", metavar="OUT", help="output folder; it keeps the tree of the input")
    add("--images", metavar="DIR", help=images)
    _add_encoding_options(parser)
    add("--seed", type=int, metavar="N", help="seed of the encoding random (default: 0)")
    _add_run_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run_encode)


def _register_show(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "show",
        help="draw regions and field of one photo",
        description="Draw the regions in colours over the photo, next to the field E with a colour bar.",
    )
    output = "output file (default: <stem>_structure.png in the current folder)"
    masks = "records or stored field: .json, .npz, .npy or a folder of amg.py (default: find the regions)"
    add = parser.add_argument
    add("image", metavar="IMAGE", help="the photo")
    add("-o", "--output", metavar="FILE", help=output)
    add("--masks", metavar="FILE", help=masks)
    _add_encoding_options(parser)
    _add_generator_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run_show)


def _add_generator_options(parser: argparse.ArgumentParser) -> None:
    model = (
        "SAM as vit_b, vit_l, vit_h (from the Hub), a .pth or .safetensors file, folder or Hub id; or "
        "graph, which needs no weights (default: vit_h)"
    )
    precision = "precision of SAM's image encoder on CUDA (default: fp32)"
    side = "segment larger photos at this longest side (default: no limit for SAM, 512 for graph)"
    add = parser.add_argument
    add("-m", "--model", metavar="MODEL", help=model)
    add("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--precision", choices=SAM_PRECISION_CHOICES, help=precision)
    add("--longest-side", type=int, metavar="N", help=side)


def _add_encoding_options(parser: argparse.ArgumentParser) -> None:
    encoding, reduction = "position encoding of a region", "divisor of a region's value"
    parser.add_argument("--encoding", choices=ENCODING_CHOICES, help=f"{encoding} (default: rope)")
    parser.add_argument("--reduction", choices=REDUCTION_CHOICES, help=f"{reduction} (default: image)")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    shard = (
        "process part i of n, such as 1/4 (default: the part of this process under torchrun, accelerate "
        "or srun, else all)"
    )
    parser.add_argument("--shard", metavar="i/n", help=shard)
    parser.add_argument("--overwrite", action="store_true", help="regenerate existing files")


def run_generate(args: argparse.Namespace) -> int:
    """Find regions; print one line per photo."""
    from sam_diffsr.masks.folders import generate_folder, load_generator

    if (cluster := cluster_of(args)) is not None:
        from sam_diffsr.distributed import generate_masks

        if args.shard is not None:
            raise ArgumentError("--shard and --ray exclude each other: Ray divides the photos by itself")
        options = {**given(args, "model", "precision", "longest_side"), "options": given(args, *SAM_OPTIONS)}
        load = partial(load_generator, **options)
        outcomes = generate_masks(args.images, args.out, load, cluster=cluster, overwrite=args.overwrite)
        return _report(outcomes, args, table=True)
    outcomes = generate_folder(
        args.images,
        args.out,
        lambda: _load_generator(args, given(args, *SAM_OPTIONS)),
        shard=_shard(args),
        overwrite=args.overwrite,
    )
    return _report(outcomes, args)


def run_encode(args: argparse.Namespace) -> int:
    """Encode records; print one line per file and the total size."""
    from sam_diffsr.masks.folders import encode_folder

    outcomes = encode_folder(
        args.records,
        args.out,
        photos=args.images,
        shard=_shard(args),
        overwrite=args.overwrite,
        **given(args, "encoding", "reduction", "seed"),
    )
    return _report(outcomes, args)


def run_show(args: argparse.Namespace) -> int:
    """Draw the regions and field of one photo; print the name of the picture."""
    from pathlib import Path

    from sam_diffsr.image import save_image
    from sam_diffsr.image.photos import read_photo
    from sam_diffsr.masks.picture import draw_structure
    from sam_diffsr.masks.spe import StructureField
    from sam_diffsr.masks.store import load_structure

    image = read_photo(args.image)
    size = (image.shape[0], image.shape[1])
    options: dict[str, Any] = given(args, "encoding", "reduction")
    if args.masks is not None:
        structure = load_structure(args.masks, photo_size=size, **options)
    else:
        records = _load_generator(args, {}).generate(image)
        structure = StructureField.from_masks(records, size=size, **options)
    target = args.output or f"{Path(args.image).stem}_structure.png"
    save_image(draw_structure(image, structure), target)
    print(target)
    return 0


def _load_generator(args: argparse.Namespace, options: dict[str, Any]) -> Any:
    import os

    from sam_diffsr.masks.folders import load_generator
    from sam_diffsr.masks.shard import launched_device

    device = args.device or launched_device(os.environ)
    return load_generator(**given(args, "model", "precision", "longest_side"), device=device, options=options)


def _shard(args: argparse.Namespace) -> Shard:
    import os

    from sam_diffsr.masks.shard import Shard

    return Shard.parse(args.shard) if args.shard is not None else Shard.from_environment(os.environ)


def _report(outcomes: Iterator[MaskOutcome], args: argparse.Namespace, *, table: bool = False) -> int:
    counts = {"written": 0, "skipped": 0, "failed": 0}
    started, failures = time.perf_counter(), list[str]()
    stored = npy = 0
    for outcome in outcomes:
        counts[outcome.status] += 1
        stored, npy = stored + outcome.stored_bytes, npy + outcome.npy_bytes
        source, target = as_uri(outcome.source), as_uri(outcome.target)
        place = f"[{outcome.number}/{outcome.total}] {source}"
        if outcome.error is not None:
            if args.debug:
                raise outcome.error
            print(f"{place}: {one_line(outcome.error)}", file=sys.stderr, flush=True)
            failures.append(f"{source}: {one_line(outcome.error)}")
        elif not args.quiet and outcome.status == "skipped":
            print(f"{place}: {target} exists, skipped", flush=True)
        elif not args.quiet:
            rest = outcome.remaining or 0.0
            left = f", {rest / 60:.0f} min left" if rest >= 60 else ""
            took = f"{outcome.regions} regions, {outcome.seconds:.1f} s{left}"
            print(f"{place} -> {target} ({took})", flush=True)
    if table:
        print(summary_table(counts, time.perf_counter() - started, failures))
    else:
        print(f"{counts['written']} written, {counts['skipped']} skipped, {counts['failed']} failed")
    if stored:
        print(f"{stored / 1e6:.2f} MB of fields, {npy / stored:.0f} times smaller than as float32 .npy")
    return 1 if counts["failed"] else 0
