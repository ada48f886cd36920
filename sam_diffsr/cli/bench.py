"""``sam-diffsr bench``: measures speed and memory, as ratios of one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sam_diffsr.cli.options as options
from sam_diffsr.cli.output import hush_pipeline
from sam_diffsr.cli.parser import Parser
from sam_diffsr.cli.train import STAGES
from sam_diffsr.errors import ArgumentError

if TYPE_CHECKING:
    from sam_diffsr.bench import BenchResult

_OPTIONS: dict[str, tuple[str, ...]] = {
    "step": ("size", "repeats"),
    "image": ("size", "repeats"),
    "memory": ("sizes", "tile", "max_memory"),
    "folder": ("size", "repeats"),
    "train": ("repeats",),
    "masks": ("repeats",),
}
"""Measurements in the order they run, with those of their arguments that are flags."""
_CONFIG = ("stage", "config", "overrides")
"""Flags that make the config of ``train``."""
_WITH_MODEL = ("step", "image", "memory", "folder")
_MODEL = ("model", "device", "dtype")
"""Flags of the measurements that have a model."""
_QUICK: dict[str, dict[str, Any]] = {
    "step": {"size": 32, "repeats": 2},
    "image": {"size": 32, "repeats": 2},
    "memory": {"sizes": (64, 128, 256)},
    "folder": {"files": 8, "repeats": 1},
    "train": {"repeats": 2, "steps": 4},
    "masks": {"size": (340, 510), "region_counts": (10,), "megapixels": (0.5,), "repeats": 3},
}
"""Options of each measurement under ``--quick``."""


def add_bench(parser: Parser) -> None:
    """Add the subcommand."""
    command = parser.add_command(
        "bench",
        _run,
        help="measure speed and memory",
        description="Measure this library on this machine. Results are ratios: what is compared is timed in "
        "turns in one run. The reference is the published inference procedure, written out plainly.",
        epilog="measurements:\n"
        "  step    a denoising step against the reference's\n"
        "  image   a whole image against the reference's, and the memory of a process\n"
        "  memory  memory and time of images of growing size, each in a fresh process\n"
        "  folder  a folder of small photographs against its files one by one\n"
        "  train   training steps on real batches against steps on random tensors\n"
        "  masks   structural position encoding\n"
        "  all     all of these",
    )
    config = "YAML file or preset to measure on its own data (default: the preset small, on made-up data)"
    setting = "change a value of the config; may be repeated"
    limit = "memory limit per image (default: half of what is free)"
    add = command.add_argument
    add("what", metavar="WHAT", nargs="*", type=_measurement, help="measurements (default: step image)")
    options.add_model_option(command)
    add("--repeats", type=options.whole(1), metavar="N", help="rounds of every measurement but memory")
    add("--quick", action="store_true", help="smaller inputs and fewer rounds")
    add("--threads", type=options.whole(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--json", metavar="FILE", help="write all numbers, with machine and versions")
    options.add_device_options(command)
    add = command.add_argument_group("step, image and folder").add_argument
    size = "height of the input (default: 64; of a folder's: 32)"
    add("--size", type=options.whole(1), metavar="N", help=size)
    add = command.add_argument_group("memory").add_argument
    sides = "sides of the inputs (default: 512,1024,2048)"
    add("--sizes", type=options.int_list, metavar="N,...", help=sides)
    add("-t", "--tile", type=options.tile_size, metavar="auto|0|N", help="side of the tiles (default: auto)")
    add("--max-memory", type=options.megabytes, metavar="MB", help=limit)
    add = command.add_argument_group("train").add_argument
    add("--stage", choices=tuple(STAGES), help="networks to train (default: diffusion)")
    add("--config", metavar="CONFIG", help=config)
    add("--set", dest="overrides", metavar="SECTION.KEY=VALUE", action="append", help=setting)


def _measurement(text: str) -> str:
    if text not in (*_OPTIONS, "all"):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(_OPTIONS)} and all")
    return text


def _run(args: argparse.Namespace) -> int:
    asked = args.what or ("step", "image")
    chosen = [name for name in _OPTIONS if name in asked or "all" in asked]
    for option in options.given(args, "size", "repeats", *_OPTIONS["memory"], *_CONFIG, *_MODEL):
        owners = [name for name in _OPTIONS if option in _OPTIONS[name]]
        owners = owners or [*(_WITH_MODEL if option in _MODEL else ["train"])]
        if not set(owners) & set(chosen):
            others = f"bench {', '.join(owners)}, not to bench {' '.join(chosen)}"
            raise ArgumentError(f"{option} belongs to {others}")

    from sam_diffsr.bench import to_json
    from sam_diffsr.evaluation.report import write_json
    from sam_diffsr.image.formats import check_file

    if args.json is not None:
        check_file(Path(args.json))
    results: list[BenchResult] = []
    for measure in _prepare(args, chosen):
        results.append(measure())
        print(results[-1].text(), flush=True)
    if args.json is not None:
        write_json(args.json, to_json(results, device=args.device or "auto"))
    return 0


def _prepare(args: argparse.Namespace, chosen: list[str]) -> list[Callable[[], BenchResult]]:
    """Load what the measurements need, so that anything missing is an error before the first of them."""
    import torch

    from sam_diffsr import bench
    from sam_diffsr.pipeline.resolver import SuperResolver
    from sam_diffsr.training.compose import load_config

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if not args.debug:
        hush_pipeline()
    given = {name: options.given(args, *_OPTIONS[name]) for name in chosen}
    if args.quick:
        given = {name: _QUICK[name] | values for name, values in given.items()}
    measures: dict[str, Callable[..., BenchResult]] = {"masks": bench.measure_masks}
    if set(_WITH_MODEL) & set(chosen):
        resolver = SuperResolver.from_pretrained(args.model, **options.given(args, "device", "dtype"))
        measures |= {name: partial(getattr(bench, f"measure_{name}"), resolver) for name in _WITH_MODEL}
    if "train" in chosen:
        stage = args.stage or "diffusion"
        config = load_config(args.config or f"small/{stage}", overrides=args.overrides or [])
        own_data = args.config is not None
        measures["train"] = partial(bench.measure_training, STAGES[stage], config, own_data=own_data)
    return [partial(measures[name], **given[name]) for name in chosen]
