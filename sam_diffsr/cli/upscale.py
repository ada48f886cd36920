"""``sam-diffsr upscale``: files, folders and patterns in, large images out."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sam_diffsr.cli.options as options
from sam_diffsr.cli.options import CHOICES, above_0, given, whole
from sam_diffsr.cli.output import Bar, Report, say
from sam_diffsr.cli.parser import Parser

if TYPE_CHECKING:
    from sam_diffsr.cluster import Cluster
    from sam_diffsr.image.jobs import Job
    from sam_diffsr.pipeline.batch import FileUpscaler, Outcome

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


def add_upscale(parser: Parser) -> None:
    """Add the subcommand."""
    command = parser.add_command(
        "upscale",
        _run,
        help="upscale images and videos",
        description="Upscale images, animations and videos: files, folders or quoted patterns. Unreadable "
        "files are reported and skipped; the exit code is then 1.",
        epilog=_EPILOG,
    )
    command.usage = "sam-diffsr upscale PATH [PATH ...] [-o PATH] [options]"
    output = "file (for one input), folder, or - (default: NAME_x4.png or NAME_x4/ next to the input)"
    scale = "final factor (default: that of the model)"
    skip = "skip images whose result exists (default: fail)"
    existing: dict[str, Any] = {"dest": "existing", "action": "store_const"}
    add = command.add_argument
    add("inputs", nargs="*", metavar="PATH", help="files, folders, patterns, or - for stdin")
    add("-o", "--output", metavar="PATH", type=options.filled, help=output)
    options.add_model_option(command)
    add("-s", "--scale", "--outscale", dest="outscale", type=above_0, metavar="FACTOR", help=scale)
    add("--width", type=whole(1), metavar="N", help="final width, in pixels")
    add("--height", type=whole(1), metavar="N", help="final height; with --width the result fits into both")
    add("-r", "--recursive", action="store_true", help="subfolders too; the tree is kept")
    add_one = command.add_mutually_exclusive_group().add_argument
    add_one("--skip-existing", const="skip", help=skip, **existing)
    add_one("--overwrite", const="overwrite", help="replace existing results", **existing)
    add("--ext", choices=CHOICES["ext"], help="file type; auto: that of the input (default: png)")
    add("--strip-metadata", action="store_true", help="leave out EXIF, colour profile, ...")
    add("--fidelity", type=float, metavar="0..1", help="1: closest to the input, to 0: most texture")
    add("--dry-run", action="store_true", help="only print what would be done")

    quality = options.kind("1..100 or lossless", lambda text: text if text == "lossless" else int(text))
    suffix = "results are {stem}_{suffix}.{ext} (default: out in a folder of -o; else x4 or large)"
    lossless = "of JPEG, WebP, AVIF and HEIC (default: 95); lossless is for WebP and video (.mkv)"
    add = command.further_group("files").add_argument
    add("-i", "--input", nargs="+", action="extend", metavar="PATH", help="same as PATH")
    add("--suffix", help=suffix)
    add("--megapixels", type=above_0, metavar="N", help="final size, in 10^6 pixels")
    add("--quality", type=quality, metavar="1..100|lossless", help=lossless)
    add("--keep-time", action="store_true", help="give results the modification time of their inputs")
    largest = "largest input in pixels (default: 64 million; 0: any)"
    add("--max-pixels", type=whole(0), metavar="N", help=largest)

    add = command.further_group("video").add_argument
    add("--start-time", type=float, metavar="SECONDS", help="where to begin; audio is cut too")
    add("--end-time", type=float, metavar="SECONDS", help="where to end")
    add("--crf", type=int, metavar="0..51", help="quality of H.264, 0 is the best (default: 18)")

    steps = "denoising steps, at most the timesteps from the start on"
    start = "start from pure noise, or from the encoder's image with the noise of timestep T"
    ensemble = "average the results of the eight turned and mirrored inputs; eight times the work"
    wrap = "seamless textures: the borders of input and result continue at the opposite ones"
    add = command.further_group("sampling (defaults belong to the model)").add_argument
    add("--steps", type=int, metavar="N", help=steps)
    add("--sampler", choices=CHOICES["sampler"], help="sampling method")
    add("--start", type=options.start_value, metavar="noise|T", help=start)
    add("--seed", type=whole(0, 2**63 - 1), metavar="N", help="seed of the noise (default: 0)")
    add("--ensemble", action="store_true", default=None, help=ensemble)
    add("--wrap", action="store_true", default=None, help=wrap)

    tile = "side of the tiles in pixels of the input, 0 for none (default: auto, from free memory)"
    halo = "input pixels around each tile that are read with it"
    limit = "memory limit (default: half of what is free)"
    machine = command.further_group("machine")
    options.add_device_options(machine)
    add = machine.add_argument
    add("-t", "--tile", type=options.tile_size, metavar="auto|0|N", help=tile)
    add("--halo", type=int, metavar="N", help=halo)
    add("--batch-size", type=int, metavar="N", help="tiles, or files of equal size, computed together")
    add("--max-memory", type=options.megabytes, metavar="MB", help=limit)
    options.add_ray_options(command.further_group("cluster"))


def _run(args: argparse.Namespace) -> int:
    """Plan, upscale, print one line per file and a summary."""
    from sam_diffsr.pipeline.batch import FileUpscaler
    from sam_diffsr.pipeline.resolver import SuperResolver
    from sam_diffsr.pipeline.settings import resolve_settings

    report = Report(args)
    _check_usage(args)
    cluster = options.cluster_of(args)
    jobs = None if args.output is None else _plan(args)  # what is refused is refused before a model is loaded
    device: dict[str, Any] = {"device": "cpu"} if cluster else given(args, "device", "dtype")
    resolver = SuperResolver.from_pretrained(args.model, **device)
    resolve_settings(resolver.config, **given(args, *_RUN))
    jobs = _plan(args, scale=resolver.scale) if jobs is None else jobs
    _warn_of_unused(args, jobs)

    limits = given(args, "seed", "max_pixels")
    if args.max_pixels == 0:
        limits["max_pixels"] = None
    chosen = given(args, "wrap", *_RUN)
    upscaler = FileUpscaler(resolver=resolver, factor=_factor(args), options=chosen, **limits)
    drawn = not args.quiet and not args.dry_run and sys.stderr.isatty()
    with closing(Bar(len(jobs), show=drawn)) as bar:
        upscaler = upscaler if cluster else replace(upscaler, watch=bar.files)
        for number, outcome in enumerate(_outcomes(jobs, args, upscaler, cluster), start=1):
            if outcome.status != "written" or cluster:
                bar.count()
            height, width = outcome.size or (0, 0)
            took = "would be made" if args.dry_run else f"{outcome.seconds:.1f} s"
            place = f"[{number}/{len(jobs)}] " if len(jobs) > 1 else ""
            job = outcome.job
            report.add(job.source, job.target, outcome, place, f"{width}x{height}, {took}")
    counts, done = report.counts, "would be done" if args.dry_run else "done"
    if cluster and not args.quiet:
        say(report.table())
    elif len(jobs) > 1 and not args.quiet:
        summary = f"{counts['written'] + counts['planned']} {done}, {counts['skipped']} skipped, "
        say(f"{summary}{counts['failed']} failed in {report.seconds:.1f} s")
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
    from sam_diffsr.image.jobs import STDIN, STDOUT, plan_jobs

    plan: Callable[..., list[Job]] = plan_jobs
    if args.ray:
        from sam_diffsr.distributed import plan_files as plan
    names = given(args, "suffix", "ext")
    if args.output is None:
        names.setdefault("suffix", "large" if args.sized else f"x{args.outscale or scale:g}")
    if not args.ray:
        names["lossless"] = args.quality == "lossless"
    jobs = plan(args.inputs, args.output, recursive=args.recursive, **names)
    if jobs[0].source is STDIN and sys.stdin is None:
        args.parser.error("standard input is closed; name a file")
    if jobs[0].target is STDOUT and (sys.stdout is None or sys.stdout.isatty()):
        where = "closed" if sys.stdout is None else "a terminal, which shows no image"
        args.parser.error(f"standard output is {where}; redirect it, or name a file with -o")
    return jobs


def _warn_of_unused(args: argparse.Namespace, jobs: list[Job]) -> None:
    """Name the given options that change nothing in this run."""
    from sam_diffsr.image.formats import output_format
    from sam_diffsr.image.save import LOSSY

    videos, lossless = [job for job in jobs if job.is_video], args.quality == "lossless"
    images = [job for job in jobs if not job.is_video]
    exact = all(output_format(job.target.suffix or job.ending) not in LOSSY for job in images)
    for unused, names, reason in (
        (not videos, ("start_time", "end_time", "crf"), "no input is a video"),
        (not images, ("ext", *(() if lossless else ("quality",))), "all inputs are videos"),
        (images and exact and not lossless, ("quality",), "no result is JPEG, WebP, AVIF or HEIC"),
        (videos and lossless, ("crf",), "lossless video has no loss to choose"),
    ):
        if unused and (found := given(args, *names)):
            flags = " and ".join(args.parser.flags[name] for name in found)
            have = "has" if len(found) == 1 else "have"
            warnings.warn(f"{flags} {have} no effect: {reason}", stacklevel=2)


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
    jobs: list[Job], args: argparse.Namespace, upscaler: FileUpscaler, cluster: Cluster | None
) -> Iterator[Outcome]:
    """Do the images, then the videos; or the images on a cluster."""
    common = given(args, "strip_metadata", "keep_time", "dry_run", "existing")
    files = {**common, **given(args, "quality", "batch_size")}
    if cluster is not None:
        from sam_diffsr.distributed import upscale_files

        yield from upscale_files(jobs, upscaler, cluster=cluster, **given(args, "dtype"), **files)
        return
    videos = [job for job in jobs if job.problem is None and job.is_video]
    yield from upscaler.run([job for job in jobs if job.problem is not None or not job.is_video], **files)
    if videos:
        from sam_diffsr.video import run_videos

        common |= given(args, "start_time", "end_time", "crf")
        yield from run_videos(videos, upscaler, lossless=args.quality == "lossless", **common)
