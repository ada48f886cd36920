"""``sam-diffsr upscale``: files, folders and patterns in, large images out."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.options import (
    SAMPLER_CHOICES,
    Parser,
    Subparsers,
    above_0,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    add_ray_options,
    as_flags,
    cluster_of,
    filled,
    given,
    kind,
    megabytes,
    one_line,
    start_value,
    tile_size,
    whole,
)
from sam_diffsr.cli.output import Bar, say, summary_table
from sam_diffsr.errors import ArgumentError, CancelledError
from sam_diffsr.files import printable
from sam_diffsr.stores import as_uri

if TYPE_CHECKING:
    from sam_diffsr.cluster import Cluster
    from sam_diffsr.image.jobs import Job
    from sam_diffsr.pipeline.batch import FileUpscaler, Outcome
    from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["register"]

EXTENSION_CHOICES = ("png", "jpg", "webp", "tif", "avif", "jp2", "auto")
"""The library's ``Extension``, which cannot be asked without importing torch; a test compares them."""

_EPILOG = """\
examples:
  sam-diffsr photo.jpg                           photo_x4.png next to it
  sam-diffsr upscale photos -r -o large          a folder with its subfolders
  sam-diffsr upscale 'photos/*.jpg' --scale 2    a pattern, twice as large
  sam-diffsr clip.mp4                            clip_x4.mp4; a stopped run goes on
  sam-diffsr upscale s3://a/in -o s3://a/out --ray auto
"""
_RUN = ("steps", "sampler", "start", "fidelity", "ensemble", "tile", "halo", "batch_size", "max_memory")
"""Flags that :func:`sam_diffsr.pipeline.settings.resolve_settings` checks."""


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "upscale",
        help="upscale images and videos",
        description="Upscale images, animations and videos: files, folders or quoted patterns. Unreadable "
        "files are reported and skipped; the exit code is then 1.",
        epilog=_EPILOG,
    )
    parser.usage = "sam-diffsr upscale PATH [PATH ...] [-o PATH] [options]"
    _add_main_options(parser)
    _add_further_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run, parser=parser)


def _add_main_options(parser: Parser) -> None:
    output = "file (for one input), folder, or - (default: NAME_x4.png or NAME_x4/ next to the input)"
    scale = "final size; if not the model's, its result is resized"
    skip = "skip images whose result exists (default: fail)"
    add = parser.add_argument
    add("inputs", nargs="*", metavar="PATH", help="files, folders, patterns, or - for stdin")
    add("-o", "--output", metavar="PATH", type=filled, help=output)
    add_model_option(parser)
    add("-s", "--scale", "--outscale", dest="outscale", type=above_0, metavar="FACTOR", help=scale)
    add("--width", type=whole(1), metavar="N", help="final width, in pixels")
    add("--height", type=whole(1), metavar="N", help="final height; with --width: at most")
    add("-r", "--recursive", action="store_true", help="subfolders too; the tree is kept")
    add_existing = parser.add_mutually_exclusive_group().add_argument
    flag: dict[str, Any] = {"dest": "existing", "action": "store_const"}
    add_existing("--skip-existing", const="skip", help=skip, **flag)
    add_existing("--overwrite", const="overwrite", help="replace existing results", **flag)
    add("--ext", choices=EXTENSION_CHOICES, help="file type of the results (default: png)")
    add("--strip-metadata", action="store_true", help="leave out EXIF, colour profile, ...")
    add("--fidelity", type=float, metavar="0..1", help="1: closest to the input, to 0: most texture")
    add("--dry-run", action="store_true", help="only print what would be done")


def _add_further_options(parser: Parser) -> None:
    quality = kind("1..100 or lossless", lambda text: text if text == "lossless" else int(text))
    suffix = "results are {stem}_{suffix}.{ext} (default: out in a folder of -o, else x4)"
    lossless = "of JPEG, WebP, AVIF and HEIC (default: 95); lossless is for WebP and video (.mkv)"
    add = parser.further_group("files").add_argument
    add("-i", "--input", nargs="+", action="extend", metavar="PATH", help="same as PATH")
    add("--suffix", help=suffix)
    add("--megapixels", type=above_0, metavar="N", help="final size, in 10^6 pixels")
    add("--quality", type=quality, metavar="1..100|lossless", help=lossless)
    add("--keep-time", action="store_true", help="give results the modification time of their inputs")
    add("--max-pixels", type=whole(0), metavar="N", help="largest input that is accepted, 0 for any size")

    add = parser.further_group("video").add_argument
    add("--start-time", type=float, metavar="SECONDS", help="where to begin; audio is cut too")
    add("--end-time", type=float, metavar="SECONDS", help="where to end")
    add("--crf", type=int, metavar="0..51", help="quality of H.264, 0 is the best (default: 18)")

    start = "start from pure noise, or from the encoder's image with the noise of timestep T"
    ensemble = "average the results of the eight turned and mirrored inputs; eight times the work"
    wrap = "seamless textures: the borders of input and result continue at the opposite ones"
    add = parser.further_group("sampling (defaults belong to the model)").add_argument
    add("--steps", type=int, metavar="N", help="denoising steps, at most the timesteps from the start on")
    add("--sampler", choices=SAMPLER_CHOICES, help="sampling method")
    add("--start", type=start_value, metavar="noise|T", help=start)
    add("--seed", type=whole(0, 2**63 - 1), metavar="N", help="seed of the noise (default: 0)")
    add("--ensemble", action="store_true", default=None, help=ensemble)
    add("--wrap", action="store_true", default=None, help=wrap)

    tile = "side of the tiles in pixels of the input, 0 for none (default: auto, from free memory)"
    halo = "pixels of the input around a tile that its result is computed from as well"
    machine = parser.further_group("machine")
    add_device_options(machine)
    add = machine.add_argument
    add("-t", "--tile", type=tile_size, metavar="auto|0|N", help=tile)
    add("--halo", type=int, metavar="N", help=halo)
    add("--batch-size", type=int, metavar="N", help="files of equal size, or tiles, computed together")
    add("--max-memory", type=megabytes, metavar="MB", help="memory limit (default: half of what is free)")
    add_ray_options(parser.further_group("cluster"))


def run(args: argparse.Namespace) -> int:
    """Plan, upscale, print one line per file and a summary."""
    from sam_diffsr.pipeline.resolver import SuperResolver
    from sam_diffsr.pipeline.settings import resolve_settings

    started = time.perf_counter()
    _check_usage(args)
    cluster = cluster_of(args)
    jobs = None if args.output is None else _plan(args)  # what is refused is refused before a model is loaded
    place: dict[str, Any] = {"device": "cpu"} if cluster else given(args, "device", "dtype")
    resolver = SuperResolver.from_pretrained(args.model, **place)
    resolve_settings(resolver.config, **given(args, *_RUN))
    jobs = _plan(args, scale=resolver.scale) if jobs is None else jobs

    bar = Bar(len(jobs), show=not args.quiet and not args.dry_run and sys.stderr.isatty())
    counts = {"written": 0, "planned": 0, "skipped": 0, "failed": 0}
    failures: list[str] = []
    try:
        for number, outcome in enumerate(_outcomes(jobs, args, resolver, cluster, bar), start=1):
            counts[outcome.status] += 1
            if outcome.status != "written" or cluster:
                bar.count()
            _report(outcome, f"[{number}/{len(jobs)}] " if len(jobs) > 1 else "", args)
            if outcome.error is not None:
                failures.append(f"{as_uri(outcome.job.source)}: {one_line(outcome.error)}")
    finally:
        bar.close()
    seconds = time.perf_counter() - started
    if cluster and not args.quiet:
        say(summary_table(counts, seconds, failures))
    elif len(jobs) > 1 and not args.quiet:
        done = "would be done" if args.dry_run else "done"
        summary = f"{counts['written'] + counts['planned']} {done}, {counts['skipped']} skipped, "
        say(f"{summary}{counts['failed']} failed in {seconds:.1f} s")
    return 1 if counts["failed"] else 0


def _check_usage(args: argparse.Namespace) -> None:
    """Gather the inputs; exit with 2 where there are none, or two kinds of final size."""
    args.inputs += args.input or []
    args.sized = bool(args.width or args.height or args.megapixels)
    if not args.inputs:
        args.parser.error("expected at least one PATH: a file, a folder, a quoted pattern, or - for stdin")
    if args.sized and args.outscale is not None:
        args.parser.error("--scale and --width, --height or --megapixels exclude each other")
    if args.ray and args.output is None:
        args.parser.error("--ray needs the place of the results: -o")
    if args.ray and args.dry_run:
        args.parser.error("--ray makes no dry run")


def _plan(args: argparse.Namespace, *, scale: int | None = None) -> list[Job]:
    """Which file each result goes to. Without ``-o``, a name tells the factor, which may be the model's."""
    from sam_diffsr.image.jobs import STDOUT, plan_jobs

    plan: Callable[..., list[Job]] = plan_jobs
    if args.ray:
        from sam_diffsr.distributed import plan_files as plan
    names = given(args, "suffix", "ext")
    if args.output is None:
        names.setdefault("suffix", "large" if args.sized else f"x{args.outscale or scale:g}")
    jobs = plan(args.inputs, args.output, recursive=args.recursive, **names)
    if args.quality == "lossless":
        for number, job in enumerate(jobs):
            if job.problem is None and job.is_video and str(job.target) != args.output:
                jobs[number] = replace(job, target=job.target.with_suffix(".mkv"))
    if jobs[0].target is STDOUT and sys.stdout.isatty():
        args.parser.error("an image is not written to a terminal; redirect it, or name a file with -o")
    return jobs


def _factor(args: argparse.Namespace) -> Callable[[int, int], float | None]:
    """Final factor of an image by its height and width; None for the model's own."""
    outscale, wide, high, megapixels = args.outscale, args.width, args.height, args.megapixels

    def factor(height: int, width: int) -> float | None:
        wanted = [outscale] if outscale is not None else []
        wanted += [side / own for side, own in ((wide, width), (high, height)) if side]
        wanted += [math.sqrt(megapixels * 1e6 / (height * width))] if megapixels else []
        return min(wanted, default=None)

    return factor


def _outcomes(
    jobs: list[Job], args: argparse.Namespace, resolver: SuperResolver, cluster: Cluster | None, bar: Bar
) -> Iterator[Outcome]:
    """Do the images, then the videos; here is decided by what."""
    from sam_diffsr.pipeline.batch import FileUpscaler

    limits = given(args, "seed", "max_pixels")
    if args.max_pixels == 0:
        limits["max_pixels"] = None
    options = given(args, "wrap", *_RUN)
    upscaler = FileUpscaler(resolver=resolver, factor=_factor(args), options=options, **limits)
    files = given(args, "strip_metadata", "keep_time", "dry_run", "existing", "quality", "batch_size")
    if cluster is None:
        videos = [job for job in jobs if job.problem is None and job.is_video]
        images = [job for job in jobs if job.problem is not None or not job.is_video]
        yield from replace(upscaler, watch=bar.files).run(images, **files)
        for job in videos:
            yield _video_outcome(job, args, upscaler, bar)
        return
    from sam_diffsr.distributed import upscale_files

    yield from upscale_files(jobs, upscaler, cluster=cluster, **given(args, "dtype"), **files)


def _video_outcome(job: Job, args: argparse.Namespace, upscaler: FileUpscaler, bar: Bar) -> Outcome:
    from sam_diffsr.pipeline.batch import Outcome

    started = time.perf_counter()
    try:
        skipped = args.existing == "skip" and job.target.exists()
        size = None if skipped else _write_video(job, args, upscaler, bar)
        status = "skipped" if size is None else "planned" if args.dry_run else "written"
        return Outcome(job=job, status=status, seconds=time.perf_counter() - started, size=size)
    except (ArgumentError, CancelledError):
        raise
    except Exception as error:  # the other videos go on
        return Outcome(job=job, status="failed", seconds=time.perf_counter() - started, error=error)


def _write_video(job: Job, args: argparse.Namespace, upscaler: FileUpscaler, bar: Bar) -> tuple[int, int]:
    """Upscale a video; give the height and width of the result, which a dry run only plans."""
    from sam_diffsr.video import upscale_video, video_size

    lossless = args.quality == "lossless"
    height, width = video_size(job.source, job.target, lossless=lossless)
    if args.dry_run:
        return upscaler.result_size(height, width)
    options: dict[str, Any] = given(args, "start_time", "end_time", "crf", "strip_metadata")
    if (factor := upscaler.factor(height, width)) is not None:
        options["outscale"] = factor
    options |= {"lossless": lossless, "overwrite": args.existing == "overwrite"}
    options |= {**upscaler.options, "seed": upscaler.seed, "max_pixels": upscaler.max_pixels}
    with bar.files(1) as callback:
        options |= {"progress": False, **callback}
        result = upscale_video(upscaler.resolver, job.source, job.target, **options)
    if args.keep_time:
        state = job.source.stat()
        os.utime(job.target, ns=(state.st_atime_ns, state.st_mtime_ns))
    return result.size


def _report(outcome: Outcome, prefix: str, args: argparse.Namespace) -> None:
    """Print what became of a file; to standard error where standard output holds the image."""
    from sam_diffsr.image.jobs import STDOUT

    source, target = printable(as_uri(outcome.job.source)), printable(as_uri(outcome.job.target))
    piped = outcome.job.target is STDOUT
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
