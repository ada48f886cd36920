"""``sam-diffsr bench``: measures speed and memory, as ratios of one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.options import (
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    given,
    hush_pipeline,
    int_list,
    megabytes,
    tile_size,
    whole,
)
from sam_diffsr.errors import ArgumentError

if TYPE_CHECKING:
    from sam_diffsr.bench import BenchResult
    from sam_diffsr.training.stages import StageName

__all__ = ["register"]

_STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "step": ("size", "repeats"),
    "image": ("size", "repeats"),
    "memory": ("sizes", "tile", "max_memory"),
    "folder": ("size", "repeats"),
    "train": ("repeats",),
    "masks": ("repeats",),
}
"""Arguments of all measurements, in the order they are run, that are flags as well."""
_CONFIG = ("stage", "config", "overrides")
"""Flags that make the config of ``train``."""
_QUICK: dict[str, dict[str, Any]] = {
    "step": {"size": 32, "repeats": 2},
    "image": {"size": 32, "repeats": 2},
    "memory": {"sizes": (64, 128, 256)},
    "folder": {"files": 8, "repeats": 1},
    "train": {"repeats": 2, "steps": 4},
    "masks": {"size": (340, 510), "region_counts": (10,), "megapixels": (0.5,), "repeats": 3},
}
"""Options of each measurement under ``--quick``."""


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "bench",
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
    change: dict[str, Any] = {"dest": "overrides", "metavar": "SECTION.KEY=VALUE", "action": "append"}
    add = parser.add_argument
    add("what", metavar="WHAT", nargs="*", type=_measurement, help="measurements (default: step image)")
    add_model_option(parser)
    add("--repeats", type=whole(1), metavar="N", help="rounds of every measurement but memory")
    add("--quick", action="store_true", help="smaller inputs and fewer rounds")
    add("--threads", type=whole(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--json", metavar="FILE", help="write all numbers, with machine and versions")
    add_device_options(parser)
    add = parser.add_argument_group("step, image and folder").add_argument
    add("--size", type=whole(1), metavar="N", help="height of the input (default: 64; of a folder's: 32)")
    add = parser.add_argument_group("memory").add_argument
    add("--sizes", type=int_list, metavar="N,...", help="sides of the inputs (default: 512,1024,2048)")
    add("-t", "--tile", type=tile_size, metavar="auto|0|N", help="side of the tiles (default: auto)")
    add("--max-memory", type=megabytes, metavar="MB", help="memory limit per image (default: free memory)")
    add = parser.add_argument_group("train").add_argument
    add("--stage", choices=tuple(_STAGES), help="networks to train (default: diffusion)")
    add("--config", metavar="CONFIG", help=config)
    add("--set", help="change a value of the config; may be repeated", **change)
    add_common_options(parser)
    parser.set_defaults(run=run, flags=parser.flags)


def _measurement(text: str) -> str:
    if text not in (*_OPTIONS, "all"):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(_OPTIONS)} and all")
    return text


def run(args: argparse.Namespace) -> int:
    """Measure, print each result as soon as it is known, and write the JSON file."""
    asked = args.what or ("step", "image")
    chosen = [name for name in _OPTIONS if name in asked or "all" in asked]
    for option in given(args, "size", *_OPTIONS["memory"], *_CONFIG):
        owners = [name for name in _OPTIONS if option in _OPTIONS[name]] or ["train"]
        if not set(owners) & set(chosen):
            belongs = f"{args.flags[option]} belongs to bench {' and '.join(owners)}"
            raise ArgumentError(f"{belongs}, not to bench {' '.join(chosen)}")

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
    options = {name: (_QUICK[name] if args.quick else {}) | given(args, *_OPTIONS[name]) for name in chosen}
    measures: dict[str, Callable[..., BenchResult]] = {"masks": bench.measure_masks}
    with_model = ("step", "image", "memory", "folder")
    if set(with_model) & set(chosen):
        resolver = SuperResolver.from_pretrained(args.model, **given(args, "device", "dtype"))
        measures |= {name: partial(getattr(bench, f"measure_{name}"), resolver) for name in with_model}
    if "train" in chosen:
        stage = args.stage or "diffusion"
        config = load_config(args.config or f"small/{stage}", overrides=args.overrides or [])
        own_data = args.config is not None
        measures["train"] = partial(bench.measure_training, _STAGES[stage], config, own_data=own_data)
    return [partial(measures[name], **options[name]) for name in chosen]
