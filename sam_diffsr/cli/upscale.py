"""``sam-diffsr upscale``: files, folders and patterns in, large images out."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, cast

from sam_diffsr.cli.options import (
    SAMPLER_CHOICES,
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    given,
    given_limit,
    one_line,
    start_value,
    tile_size,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from sam_diffsr.pipeline.batch import Outcome

__all__ = ["register"]

EXTENSION_CHOICES = ("png", "jpg", "webp", "tif", "auto")
"""The library's ``Extension``, which cannot be asked without importing torch; a test compares them."""

_EPILOG = """\
examples:
  sam-diffsr upscale -i photo.jpg -o large.png
  sam-diffsr upscale -i photos -o large --recursive --skip-existing
  sam-diffsr upscale -i 'photos/*.jpg' -o large --ext auto --outscale 2
"""
_OPTIONS = (
    *("steps", "sampler", "start", "fidelity"),
    *("outscale", "tile", "tile_overlap", "batch_size", "max_pixels"),
)


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "upscale",
        help="upscale images",
        description="Upscale a file, a folder or a quoted pattern. A file that cannot be read is reported "
        "on stderr, the others go on, and the exit code is 1 at the end.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "-i", "--input", nargs="+", required=True, metavar="PATH", help="files, folders or quoted patterns"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="file name (for one input file) or folder"
    )
    add_model_option(parser)
    parser.add_argument(
        "-s",
        "--outscale",
        type=float,
        metavar="FACTOR",
        help="final size; other factors than the model's are resized from its result (default: the model's)",
    )
    files = parser.add_argument_group("files")
    files.add_argument("-r", "--recursive", action="store_true", help="subfolders too; the tree is kept")
    existing = files.add_mutually_exclusive_group()
    existing.add_argument(
        "--skip-existing",
        dest="existing",
        action="store_const",
        const="skip",
        help="leave out images whose result is there (otherwise it is an error)",
    )
    existing.add_argument(
        "--overwrite", dest="existing", action="store_const", const="overwrite", help="replace such results"
    )
    files.add_argument("--suffix", help="results in a folder are {stem}_{suffix}.{ext} (default: out)")
    files.add_argument(
        "--ext", choices=EXTENSION_CHOICES, help="file type of results in a folder (default: png)"
    )
    files.add_argument("--quality", type=int, metavar="1..100", help="of JPEG and WebP (default: 95)")
    files.add_argument("--strip-metadata", action="store_true", help="leave out EXIF and colour profile")
    files.add_argument(
        "--max-pixels", type=int, metavar="N", help="largest input that is accepted, 0 for any size"
    )
    sampling = parser.add_argument_group("sampling (defaults belong to the model)")
    sampling.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps, at most the timesteps from the start on"
    )
    sampling.add_argument("--sampler", choices=SAMPLER_CHOICES, help="how to step")
    sampling.add_argument(
        "--start",
        type=start_value,
        metavar="noise|T",
        help="start from pure noise, or from the encoder's image with the noise of timestep T",
    )
    sampling.add_argument(
        "--fidelity",
        type=float,
        metavar="0..1",
        help="instead of --start: 1 stays closest to the input (highest PSNR), 0 has the most texture",
    )
    sampling.add_argument("--seed", type=int, metavar="N", help="chooses the noise (default: 0)")
    machine = parser.add_argument_group("machine")
    add_device_options(machine)
    machine.add_argument(
        "-t",
        "--tile",
        type=tile_size,
        metavar="auto|0|N",
        help="side of the tiles in pixels of the input, 0 for none (default: auto, from free memory)",
    )
    machine.add_argument(
        "--tile-overlap",
        type=int,
        metavar="N",
        help="rim around a tile in pixels of the input; wider is slower and closer to no tiles",
    )
    machine.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="files computed together where sizes are equal (default: up to 8, fewer of large images)",
    )
    machine.add_argument(
        "--max-memory", type=int, metavar="MB", help="what an image may take (default: what is free)"
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plan, upscale, print one line a file."""
    from sam_diffsr.image import decode_image
    from sam_diffsr.pipeline.batch import plan_jobs, run_jobs
    from sam_diffsr.pipeline.resolver import SuperResolver

    jobs = plan_jobs(args.input, args.output, recursive=args.recursive, **given(args, "suffix", "ext"))
    dtype = {} if args.precision is None else {"dtype": args.precision}
    resolver = SuperResolver.from_pretrained(args.model, **given(args, "device"), **dtype)
    options = given(args, *_OPTIONS)
    if args.max_pixels == 0:
        options["max_pixels"] = None
    limits = options.keys() & {"max_pixels"}
    options |= given_limit(args)
    if args.quiet:
        options["progress"] = False

    def enlarge(images: list[Any]) -> list[Image]:
        seeds = [args.seed or 0] * len(
            images
        )  # the same for all: a result must not depend on the other files
        return cast("list[Image]", resolver.upscale(images, seed=seeds, **options))

    outcomes = run_jobs(
        jobs,
        enlarge,
        decode=lambda path: decode_image(path, **{name: options[name] for name in limits}),
        strip_metadata=args.strip_metadata,
        **given(args, "existing", "quality", "batch_size"),
    )
    failed = 0
    for number, outcome in enumerate(outcomes, start=1):
        failed += outcome.status == "failed"
        _report(outcome, f"[{number}/{len(jobs)}] " if len(jobs) > 1 else "", debug=args.debug)
    if failed and len(jobs) > 1:
        print(f"sam-diffsr: {failed} of {len(jobs)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _report(outcome: Outcome, prefix: str, *, debug: bool) -> None:
    job = outcome.job
    if outcome.error is not None:
        if debug:
            raise outcome.error
        print(f"{prefix}{job.source}: {one_line(outcome.error)}", file=sys.stderr, flush=True)
    elif outcome.size is None:
        print(f"{prefix}{job.target} is already there, skipped", flush=True)
    else:
        height, width = outcome.size
        print(f"{prefix}{job.source} -> {job.target} ({width}x{height}, {outcome.seconds:.1f} s)", flush=True)
