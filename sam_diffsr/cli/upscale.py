"""``sam-diffsr upscale``: files, folders and patterns in, large images out."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from sam_diffsr.cli.options import (
    SAMPLER_CHOICES,
    Parser,
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    as_flags,
    filled,
    given,
    given_limit,
    one_line,
    start_value,
    tile_size,
    whole,
)
from sam_diffsr.cli.output import Bar, say
from sam_diffsr.files import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from sam_diffsr.image import DecodedImage
    from sam_diffsr.pipeline.batch import Outcome

__all__ = ["register"]

EXTENSION_CHOICES = ("png", "jpg", "webp", "tif", "avif", "jp2", "auto")
"""The library's ``Extension``, which cannot be asked without importing torch; a test compares them."""

_EPILOG = """\
examples:
  sam-diffsr photo.jpg                           photo_x4.png next to it
  sam-diffsr upscale photos -r -o large          a folder with its subfolders
  sam-diffsr upscale 'photos/*.jpg' --scale 2    a pattern, twice as large
  sam-diffsr upscale - < a.png > b.png           standard input and output
"""
_CPU_PIXELS = 64 * 64
"""Pixels of a batch on a CPU, which gains little from batches: results are saved as soon as they are made."""
_OPTIONS = ("steps", "sampler", "start", "fidelity", "ensemble", "wrap", "tile", "halo", "batch_size")


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "upscale",
        help="upscale images",
        description="Upscale files, folders or quoted patterns. GIF, APNG and animated WebP stay animations "
        "in .png, .webp and .gif. Unreadable files are reported and skipped; the exit code is then 1.",
        epilog=_EPILOG,
    )
    parser.usage = "sam-diffsr upscale PATH [PATH ...] [-o PATH] [options]"
    parser.add_argument("inputs", nargs="*", metavar="PATH", help="files, folders, patterns, or - for stdin")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=filled,
        help="file (for one input), folder, or - (default: NAME_x4.png or NAME_x4/ next to the input)",
    )
    add_model_option(parser)
    scale = parser.add_argument(
        "-s",
        "--scale",
        dest="outscale",
        type=_above_0,
        metavar="FACTOR",
        help="final size; if not the model's own, its result is resized",
    )
    parser.add_argument("--width", type=whole(1), metavar="N", help="final width, in pixels")
    parser.add_argument("--height", type=whole(1), metavar="N", help="final height; with --width: at most")
    parser.add_argument("-r", "--recursive", action="store_true", help="subfolders too; the tree is kept")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--skip-existing",
        dest="existing",
        action="store_const",
        const="skip",
        help="skip images whose result exists (default: fail)",
    )
    existing.add_argument(
        "--overwrite",
        dest="existing",
        action="store_const",
        const="overwrite",
        help="replace existing results",
    )
    parser.add_argument("--ext", choices=EXTENSION_CHOICES, help="file type of the results (default: png)")
    parser.add_argument("--strip-metadata", action="store_true", help="leave out EXIF, colour profile, ...")
    parser.add_argument(
        "--fidelity",
        type=float,
        metavar="0..1",
        help="1: closest to the input, to 0: most texture",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    _register_further(parser, scale)
    add_common_options(parser)
    parser.set_defaults(run=run, parser=parser)


def _register_further(parser: Parser, scale: argparse.Action) -> None:
    files = parser.further_group("files")
    files.add_argument("-i", "--input", nargs="+", action="extend", metavar="PATH", help="same as PATH")
    factors = files.add_mutually_exclusive_group()
    factors.add_argument("--outscale", type=_above_0, metavar="FACTOR", help="same as --scale")
    factors._group_actions.append(scale)  # pyright: ignore[reportPrivateUsage]
    files.add_argument(
        "--suffix", help="results are {stem}_{suffix}.{ext} (default: out in a folder of -o, else x4)"
    )
    files.add_argument("--megapixels", type=_above_0, metavar="N", help="final size, in 10^6 pixels")
    files.add_argument(
        "--quality",
        type=_quality,
        metavar="1..100|lossless",
        help="of JPEG, WebP, AVIF and HEIC (default: 95); lossless is for WebP",
    )
    files.add_argument(
        "--keep-time", action="store_true", help="give results the modification time of their inputs"
    )
    files.add_argument(
        "--max-pixels", type=whole(0), metavar="N", help="largest input that is accepted, 0 for any size"
    )
    sampling = parser.further_group("sampling (defaults belong to the model)")
    sampling.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps, at most the timesteps from the start on"
    )
    sampling.add_argument("--sampler", choices=SAMPLER_CHOICES, help="sampling method")
    sampling.add_argument(
        "--start",
        type=start_value,
        metavar="noise|T",
        help="start from pure noise, or from the encoder's image with the noise of timestep T",
    )
    sampling.add_argument(
        "--seed", type=whole(0, 2**63 - 1), metavar="N", help="seed of the noise (default: 0)"
    )
    sampling.add_argument(
        "--ensemble",
        action="store_const",
        const=True,
        help="average the results of the eight turned and mirrored inputs; eight times the work",
    )
    sampling.add_argument(
        "--wrap",
        action="store_const",
        const=True,
        help="seamless textures: the borders of input and result continue at the opposite ones",
    )
    machine = parser.further_group("machine")
    add_device_options(machine)
    machine.add_argument(
        "-t",
        "--tile",
        type=tile_size,
        metavar="auto|0|N",
        help="side of the tiles in pixels of the input, 0 for none (default: auto, from free memory)",
    )
    machine.add_argument(
        "--halo",
        type=int,
        metavar="N",
        help="pixels of the input around a tile that its result is computed from as well",
    )
    machine.add_argument(
        "--batch-size", type=int, metavar="N", help="files of equal size, or tiles, computed together"
    )
    machine.add_argument(
        "--max-memory", type=whole(1), metavar="MB", help="memory limit (default: half of what is free)"
    )


def _above_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _quality(text: str) -> int | str:
    try:
        return text if text == "lossless" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected 1..100 or lossless, got {text!r}") from None


def run(args: argparse.Namespace) -> int:
    """Plan, upscale, print one line per file and a summary."""
    from sam_diffsr.image import MAX_PIXELS_DEFAULT, Animation, decode_frames
    from sam_diffsr.image.jobs import STDOUT, plan_jobs
    from sam_diffsr.pipeline.batch import PIXELS_TOGETHER, run_jobs
    from sam_diffsr.pipeline.images import output_size
    from sam_diffsr.pipeline.resolver import SuperResolver
    from sam_diffsr.pipeline.settings import RunOptions, resolve_settings

    started = time.perf_counter()
    inputs: list[str] = [*args.inputs, *(args.input or [])]
    sized = args.width or args.height or args.megapixels
    if not inputs:
        args.parser.error("expected at least one PATH: a file, a folder, a quoted pattern, or - for stdin")
    if sized and args.outscale is not None:
        args.parser.error("--scale and --width, --height or --megapixels exclude each other")
    plan: dict[str, Any] = {"recursive": args.recursive, **given(args, "suffix", "ext")}
    jobs = [] if args.output is None else plan_jobs(inputs, args.output, **plan)  # before a model is loaded
    dtype = {} if args.precision is None else {"dtype": args.precision}
    resolver = SuperResolver.from_pretrained(args.model, **given(args, "device"), **dtype)
    if args.output is None:
        factor = resolver.scale if args.outscale is None else args.outscale
        plan.setdefault("suffix", "large" if sized else f"x{factor:g}")
        jobs = plan_jobs(inputs, **plan)
    max_pixels = MAX_PIXELS_DEFAULT if args.max_pixels is None else args.max_pixels or None
    options: dict[str, Any] = given(args, *_OPTIONS) | given_limit(args)
    if args.max_pixels is not None:
        options["max_pixels"] = max_pixels
    resolve_settings(
        resolver.config,
        **{name: value for name, value in options.items() if name in RunOptions.__annotations__},
    )

    def factor_of(height: int, width: int) -> float | None:
        wanted = [args.outscale] if args.outscale is not None else []
        wanted += [side / own for side, own in ((args.width, width), (args.height, height)) if side]
        wanted += [math.sqrt(args.megapixels * 1e6 / (height * width))] if args.megapixels else []
        return min(wanted, default=None)

    def result_size(height: int, width: int) -> tuple[int, int]:
        factor, scale = factor_of(height, width), resolver.scale
        size = output_size(height, width, scale=scale, outscale=factor, max_pixels=max_pixels)
        return size or (height * scale, width * scale)

    bar = Bar(len(jobs), show=not args.quiet and not args.dry_run and sys.stderr.isatty())

    upscale_list = cast("Any", resolver.upscale)

    def enlarge(images: list[DecodedImage | Animation]) -> list[Image]:
        results: list[Image] = []
        for (moving, factor), together in itertools.groupby(
            images,
            lambda image: (isinstance(image, Animation) and id(image), factor_of(*image.rgb.shape[-2:])),
        ):
            group: Any = list(together)
            size = {} if factor is None else {"outscale": factor}
            with bar.files(len(group)) as callback:
                arguments: dict[str, Any] = {"progress": False, **callback, **options, **size}
                if moving:
                    large = [resolver.upscale_animation(group[0], seed=args.seed or 0, **arguments)]
                else:
                    seeds = [args.seed or 0] * len(group)  # a result must not depend on the other files
                    large = upscale_list(group, seed=seeds, **arguments)
            results += cast("list[Image]", large)
        return results

    outcomes = run_jobs(
        jobs,
        enlarge,
        decode=lambda source: decode_frames(source, max_pixels=max_pixels),
        result_size=result_size,
        strip_metadata=args.strip_metadata,
        keep_time=args.keep_time,
        dry_run=args.dry_run,
        pixels_together=_CPU_PIXELS if resolver.device.type == "cpu" else PIXELS_TOGETHER,
        **given(args, "existing", "quality", "batch_size"),
    )
    counts = {"written": 0, "planned": 0, "skipped": 0, "failed": 0}
    piped = jobs[0].target is STDOUT
    if piped and sys.stdout.isatty():
        args.parser.error("an image is not written to a terminal; redirect it, or name a file with -o")
    try:
        for number, outcome in enumerate(outcomes, start=1):
            counts[outcome.status] += 1
            if outcome.status != "written":
                bar.count()
            prefix = f"[{number}/{len(jobs)}] " if len(jobs) > 1 else ""
            _report(outcome, prefix, args, piped=piped)
    finally:
        bar.close()
    if len(jobs) > 1 and not args.quiet:
        done = "would be done" if args.dry_run else "done"
        seconds = time.perf_counter() - started
        summary = f"{counts['written'] + counts['planned']} {done}, {counts['skipped']} skipped, "
        say(f"{summary}{counts['failed']} failed in {seconds:.1f} s")
    return 1 if counts["failed"] else 0


def _report(outcome: Outcome, prefix: str, args: argparse.Namespace, *, piped: bool) -> None:
    source, target = printable(outcome.job.source), printable(outcome.job.target)
    if outcome.error is not None:
        if args.debug:
            raise outcome.error
        say(f"{prefix}{source}: {as_flags(one_line(outcome.error), args.parser.flags)}", error=True)
    elif args.quiet:
        return
    elif outcome.size is None:
        say(f"{prefix}{target} already exists, skipped", error=piped)
    else:
        height, width = outcome.size
        time_taken = "would be made" if args.dry_run else f"{outcome.seconds:.1f} s"
        say(f"{prefix}{source} -> {target} ({width}x{height}, {time_taken})", error=piped)
