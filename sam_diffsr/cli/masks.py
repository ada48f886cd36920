"""``sam-diffsr masks``: find the regions of photos, encode them as structure fields, draw both."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.options import CHOICES, add_ray_options, cluster_of, given
from sam_diffsr.cli.output import Report, say
from sam_diffsr.cli.parser import Parser
from sam_diffsr.errors import ArgumentError

if TYPE_CHECKING:
    from sam_diffsr.masks.folders import MaskOutcome
    from sam_diffsr.masks.shard import Shard

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


def add_masks(parser: Parser) -> None:
    """Add the subcommand and its own ones."""
    group = parser.add_command(
        "masks",
        help="find regions, encode them, draw them",
        description="Find the regions of photos, encode them as structure fields, draw both.",
    )
    generate = group.add_command(
        "generate",
        _generate,
        help="find the regions of photos",
        description="Write OUT/<stem>.json for every photo, in the format of amg.py --convert-to-rle. "
        "Finished files are skipped, so a stopped run can be repeated. Several processes share a folder "
        "with --shard. "
        "Photos that fail are reported and skipped; the exit code is then 1.",
        epilog=_EPILOG,
    )
    generate.add_argument("images", metavar="IMAGES", help="folder (with its subfolders) or file")
    generate.add_argument("out", metavar="OUT", help="output folder; it keeps the tree of the input")
    _add_generator_options(generate)
    _add_run_options(generate)
    add = generate.add_argument_group("SAM's automatic mask generator (defaults in brackets)").add_argument
    for name, (kind, text) in SAM_OPTIONS.items():
        add(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)
    add_ray_options(generate.add_argument_group("cluster"))

    encode = group.add_command(
        "encode",
        _encode,
        help="turn records into stored structure fields",
        description="Write OUT/<stem>.npz, a label map and one value per region, for every .json file "
        "(of amg.py, SA-1B or masks generate) and every PNG folder of amg.py. Finished files are skipped.",
    )
    images = "photos; their sizes are checked, and needed for files without regions"
    add = encode.add_argument
    add("records", metavar="RECORDS", help="folder (with its subfolders)")
    add("out", metavar="OUT", help="output folder; it keeps the tree of the input")
    add("--images", metavar="DIR", help=images)
    _add_encoding_options(encode)
    add("--seed", type=int, metavar="N", help="seed of the encoding random (default: 0)")
    _add_run_options(encode)

    show = group.add_command(
        "show",
        _show,
        help="draw regions and field of one photo",
        description="Draw the regions in colours over the photo, next to the field E with a colour bar.",
    )
    output = "output file (default: <stem>_structure.png in the current folder)"
    masks = "records or stored field: .json, .npz, .npy or a folder of amg.py (default: find the regions)"
    add = show.add_argument
    add("image", metavar="IMAGE", help="the photo")
    add("-o", "--output", metavar="FILE", help=output)
    add("--masks", metavar="FILE", help=masks)
    _add_encoding_options(show)
    _add_generator_options(show)


def _add_generator_options(parser: Parser) -> None:
    model = (
        "SAM as vit_b, vit_l, vit_h (from the Hub), a .pth or .safetensors file, folder or Hub id; or "
        "graph, which needs no weights but the extra segments (default: vit_h)"
    )
    precision = "precision of SAM's image encoder on CUDA (default: fp32)"
    side = "segment larger photos at this longest side (default: no limit for SAM, 512 for graph)"
    add = parser.add_argument
    add("-m", "--model", metavar="MODEL", help=model)
    add("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--precision", choices=CHOICES["stored_precision"], help=precision)
    add("--longest-side", type=int, metavar="N", help=side)


def _add_encoding_options(parser: Parser) -> None:
    encoding, reduction = "position encoding of a region", "divisor of a region's value"
    parser.add_argument("--encoding", choices=CHOICES["encoding"], help=f"{encoding} (default: rope)")
    parser.add_argument("--reduction", choices=CHOICES["reduction"], help=f"{reduction} (default: image)")


def _add_run_options(parser: Parser) -> None:
    shard = (
        "process part i of n, such as 1/4 (default: the part of this process under torchrun, accelerate "
        "or srun, else all)"
    )
    parser.add_argument("--shard", metavar="i/n", help=shard)
    parser.add_argument("--overwrite", action="store_true", help="regenerate existing files")


def _generate(args: argparse.Namespace) -> int:
    from sam_diffsr.masks.folders import generate_folder

    load = _loader(args, given(args, *SAM_OPTIONS))
    if (cluster := cluster_of(args)) is None:
        files: dict[str, Any] = {"shard": _shard(args), "overwrite": args.overwrite}
        return _report(generate_folder(args.images, args.out, load, **files), args)
    from sam_diffsr.distributed import generate_masks

    if args.shard is not None:
        raise ArgumentError("--shard and --ray exclude each other: Ray divides the photos by itself")
    outcomes = generate_masks(args.images, args.out, load, cluster=cluster, overwrite=args.overwrite)
    return _report(outcomes, args, table=True)


def _encode(args: argparse.Namespace) -> int:
    from sam_diffsr.masks.folders import encode_folder

    options = given(args, "encoding", "reduction", "seed")
    files = {"photos": args.images, "shard": _shard(args), "overwrite": args.overwrite}
    return _report(encode_folder(args.records, args.out, **files, **options), args)


def _show(args: argparse.Namespace) -> int:
    from sam_diffsr.image import save_image
    from sam_diffsr.image.jobs import Job
    from sam_diffsr.image.photos import read_photo
    from sam_diffsr.masks.picture import draw_structure
    from sam_diffsr.masks.spe import StructureField
    from sam_diffsr.masks.store import load_structure

    image = read_photo(args.image)
    size = (image.shape[0], image.shape[1])
    options = given(args, "encoding", "reduction")
    if args.masks is not None:
        structure = load_structure(args.masks, photo_size=size, **options)
    else:
        records = _loader(args, {})().generate(image)
        structure = StructureField.from_masks(records, size=size, **options)
    target = args.output or f"{Path(args.image).stem}_structure.png"
    Job(source=Path(args.image), target=Path(target)).check_target()
    save_image(draw_structure(image, structure), target)
    print(target)
    return 0


def _loader(args: argparse.Namespace, options: dict[str, Any]) -> Callable[..., Any]:
    """Loads the generator of the flags, on their device unless called with another."""
    from sam_diffsr.masks.folders import load_generator
    from sam_diffsr.masks.shard import launched_device

    device = args.device or launched_device(os.environ)
    chosen = given(args, "model", "precision", "longest_side")
    return partial(load_generator, **chosen, device=device, options=options)


def _shard(args: argparse.Namespace) -> Shard:
    from sam_diffsr.masks.shard import Shard

    return Shard.parse(args.shard) if args.shard is not None else Shard.from_environment(os.environ)


def _report(outcomes: Iterator[MaskOutcome], args: argparse.Namespace, *, table: bool = False) -> int:
    """Print a line per file and a summary; give the exit code."""
    report, stored, npy = Report(args), 0, 0
    for outcome in outcomes:
        stored, npy = stored + outcome.stored_bytes, npy + outcome.npy_bytes
        rest = outcome.remaining or 0.0
        left = f", {rest / 60:.0f} min left" if rest >= 60 else ""
        details = f"{outcome.regions} regions, {outcome.seconds:.1f} s{left}"
        place = f"[{outcome.number}/{outcome.total}] "
        report.add(outcome.source, outcome.target, outcome, place, details)
    counts = report.counts
    text = f"{counts['written']} written, {counts['skipped']} skipped, {counts['failed']} failed"
    if not args.quiet:
        say(report.table() if table else text)
    if stored and not args.quiet:
        say(f"{stored / 1e6:.2f} MB of fields, {npy / stored:.0f} times smaller than as float32 .npy")
    return 1 if counts["failed"] else 0
