"""``sam-diffsr bench``: speed and memory against the published procedure."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.bench_training import register as register_training
from sam_diffsr.cli.measured import sayer, tell
from sam_diffsr.cli.options import (
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    given,
    given_limit,
    hush_pipeline,
    int_list,
    tile_size,
)

if TYPE_CHECKING:
    from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["register"]

_QUICK = {"size": 32, "repeats": 2}
_QUICK_SIZES = (64, 128, 256)
_QUICK_TILES = {"size": 64, "max_memory": 60 * 2**20, "repeats": 1, "halos": (16, 32), "side": 32}


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "bench",
        help="measure speed and memory against the published procedure",
        description="Measure this library and the published inference procedure side by side, on the "
        "released architecture (with random weights, which cost the same) and on a model. What counts "
        "are the ratios.",
    )
    add_model_option(parser)
    parser.add_argument(
        "--size", type=int, metavar="N", help="side of the low-resolution image (default: 64)"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="measurements of each step (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a smaller image and fewer measurements")
    parser.add_argument(
        "--full", action="store_true", help="run every step of the reference's image instead of extrapolating"
    )
    _add_machine_options(parser)
    parser.set_defaults(run=run)
    others = parser.add_subparsers(
        metavar="[masks|train|memory|tiles|folder|start]", dest="bench_command", title="other measurements"
    )
    register_training(others)
    _register_memory(others)
    _register_tiles(others)
    _register_work(others)


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Where and with what to measure, where the result goes, and messages."""
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--json", metavar="FILE", help="write the result, with device, threads and versions")
    add_device_options(parser)
    add_common_options(parser)


def _register_work(subparsers: Subparsers) -> None:
    folder = add_command(
        subparsers,
        "folder",
        help="measure a folder of small photographs against its files one by one",
        description="Upscale a folder of made-up small photographs as `sam-diffsr upscale` does, and file by "
        "file, in turn; first photographs of equal size, then each of another size.",
    )
    add_model_option(folder)
    folder.add_argument("--files", type=int, metavar="N", help="photographs in the folder (default: 32)")
    folder.add_argument("--size", type=int, metavar="N", help="height of the smallest (default: 32)")
    folder.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    add_device_options(folder)
    start = add_command(
        subparsers,
        "start",
        help="measure imports and what a command spends outside of the networks",
        description="Import the package, and upscale a 64x64 image by the command, in new processes; the "
        "fastest of them counts.",
    )
    for parser in (folder, start):
        parser.add_argument("--repeats", type=int, metavar="N", help="measurements of each (default: 3)")
        parser.add_argument("--json", metavar="FILE", help="write the result, with machine and versions")
        add_common_options(parser)
    folder.set_defaults(run=run_folder)
    start.set_defaults(run=run_start)


def run_folder(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from sam_diffsr.evaluation.work_bench import bench_folder

    options = given(args, "files", "size", "repeats")
    return tell(bench_folder(_load_resolver(args), **options, say=sayer(args)), args)


def run_start(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from sam_diffsr.evaluation.work_bench import bench_start

    return tell(bench_start(**given(args, "repeats"), say=sayer(args)), args)


def _load_resolver(args: argparse.Namespace) -> SuperResolver:
    """The model that the options name, with the threads that they ask for."""
    import torch

    from sam_diffsr.pipeline.resolver import SuperResolver

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if not args.debug:
        hush_pipeline()
    dtype = {} if args.precision is None else {"dtype": args.precision}
    return SuperResolver.from_pretrained(args.model, **given(args, "device"), **dtype)


def _register_memory(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "memory",
        help="measure the memory of images of growing size",
        description="Upscale one image of every size, each in a process of its own, and print the peak of "
        "its memory beyond what it held before, and what one more output pixel takes.",
    )
    add_model_option(parser)
    parser.add_argument(
        "--sizes",
        type=int_list,
        metavar="N,...",
        help="sides of the low-resolution images (default: 64 to 2048, doubling)",
    )
    parser.add_argument("--quick", action="store_true", help="up to 256 only")
    parser.add_argument(
        "-t", "--tile", type=tile_size, metavar="auto|0|N", help="side of the tiles (default: auto)"
    )
    parser.add_argument(
        "--max-memory", type=int, metavar="MB", help="what an image may take (default: what is free)"
    )
    _add_machine_options(parser)
    parser.set_defaults(run=run_memory)


def run_memory(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    import torch

    from sam_diffsr.evaluation.memory import memory_table
    from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL, load_pretrained

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    options: dict[str, Any] = {"sizes": _QUICK_SIZES} if args.quick else {}
    options |= given(args, "sizes", "tile", "device") | given_limit(args)
    if args.precision is not None:
        options["dtype"] = args.precision
    table = memory_table(
        load_pretrained(args.model)[0],
        model_name=args.model or DEFAULT_MODEL,
        say=sayer(args),
        **options,
    )
    return tell(table, args)


def _register_tiles(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "tiles",
        help="measure what tiles cost and how far they change a result",
        description="Upscale an image in automatic tiles and in one piece, in turn, for the ratio of their "
        "times; and small images in small tiles with halos of several widths around them, for the "
        "largest difference to the image in one piece, in levels of 255.",
    )
    add_model_option(parser)
    parser.add_argument(
        "--size", type=int, metavar="N", help="side of the low-resolution image (default: 384)"
    )
    parser.add_argument(
        "--max-memory", type=int, metavar="MB", help="what its tiles may take (default: 1024)"
    )
    parser.add_argument(
        "--halos",
        type=int_list,
        metavar="N,...",
        help="output pixels around tiles (default: 16,24,32,40,48,64)",
    )
    parser.add_argument("--quick", action="store_true", help="smaller images and one turn")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns (default: 3)")
    _add_machine_options(parser)
    parser.set_defaults(run=run_tiles)


def run_tiles(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from sam_diffsr.evaluation.tile_bench import bench_tiles

    options: dict[str, Any] = dict(_QUICK_TILES) if args.quick else {}
    options |= given(args, "size", "halos", "repeats") | given_limit(args)
    return tell(bench_tiles(_load_resolver(args), **options, say=sayer(args)), args)


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from sam_diffsr.evaluation.bench import run_bench
    from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL

    options: dict[str, Any] = {**(_QUICK if args.quick else {}), **given(args, "size", "repeats")}
    result = run_bench(
        _load_resolver(args),
        model_name=args.model or DEFAULT_MODEL,
        full=args.full,
        say=sayer(args),
        **options,
    )
    return tell(result, args)
