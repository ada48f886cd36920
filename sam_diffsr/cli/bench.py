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
    given_limit,
    hush_pipeline,
    int_list,
    tile_size,
    whole,
)
from sam_diffsr.errors import ArgumentError

if TYPE_CHECKING:
    from sam_diffsr.bench import BenchResult
    from sam_diffsr.training.stages import StageName

__all__ = ["register"]

_STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
_QUICK: dict[str, dict[str, Any]] = {
    "step": {"size": 32, "repeats": 2},
    "image": {"size": 32, "repeats": 2},
    "memory": {"sizes": (64, 128, 256)},
    "folder": {"files": 8, "repeats": 1},
    "train": {"rounds": 2, "steps": 4},
    "masks": {"size": (340, 510), "region_counts": (10,), "megapixels": (0.5,), "repeats": 3},
}
"""Options of each measurement under ``--quick``; its keys are all measurements, in the order they are run."""
_DEFAULT = ("step", "image")
_ONLY_FOR = {
    "size": _DEFAULT,
    "sizes": ("memory",),
    "tile": ("memory",),
    "max_memory": ("memory",),
    "stage": ("train",),
    "config": ("train",),
    "overrides": ("train",),
}
"""Measurements that an option belongs to; the others go with any."""


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
    add = parser.add_argument
    add("what", metavar="WHAT", nargs="*", type=_measurement, help="measurements (default: step image)")
    add_model_option(parser)
    add("--repeats", type=whole(1), metavar="N", help="rounds of every measurement but memory")
    add("--quick", action="store_true", help="smaller inputs and fewer rounds")
    add("--threads", type=whole(1), metavar="N", help="CPU threads (default: torch's choice)")
    add("--json", metavar="FILE", help="write all numbers, with machine and versions")
    add_device_options(parser)
    add = parser.add_argument_group("step and image").add_argument
    add("--size", type=whole(1), metavar="N", help="side of the low-resolution image (default: 64)")
    add = parser.add_argument_group("memory").add_argument
    add("--sizes", type=int_list, metavar="N,...", help="sides of the inputs (default: 512,1024,2048)")
    add("-t", "--tile", type=tile_size, metavar="auto|0|N", help="side of the tiles (default: auto)")
    add("--max-memory", type=whole(1), metavar="MB", help="memory limit per image (default: free memory)")
    add = parser.add_argument_group("train").add_argument
    add("--stage", choices=tuple(_STAGES), help="networks to train (default: diffusion)")
    add(
        "--config",
        metavar="CONFIG",
        help="YAML file or preset to measure on its own data (default: the preset small, on made-up data)",
    )
    add(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        help="change a value of the config; may be repeated",
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print each result as soon as it is known, and write the JSON file."""
    asked = args.what or _DEFAULT
    chosen = [name for name in _QUICK if name in asked or "all" in asked]
    for option, owners in _ONLY_FOR.items():
        if getattr(args, option) is not None and not set(owners) & set(chosen):
            flag = "set" if option == "overrides" else option.replace("_", "-")
            raise ArgumentError(
                f"--{flag} belongs to bench {' and '.join(owners)}, not to bench {' '.join(chosen)}"
            )

    from sam_diffsr.bench import to_json
    from sam_diffsr.evaluation.report import write_json
    from sam_diffsr.image.formats import check_file

    if args.json is not None:
        check_file(Path(args.json))
    measurements = _prepare(args, chosen)
    results: list[BenchResult] = []
    for measure in measurements:
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

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if not args.debug:
        hush_pipeline()

    # options of each measurement: --quick first, what was given after it
    options = {name: dict(_QUICK[name]) if args.quick else {} for name in _QUICK}
    for name in options:
        if args.repeats is not None and name != "memory":
            options[name]["rounds" if name == "train" else "repeats"] = args.repeats
    for name in _DEFAULT:
        options[name] |= given(args, "size")
    options["memory"] |= given(args, "sizes", "tile") | given_limit(args)

    # models and configs
    measures: dict[str, Callable[..., BenchResult]] = {"masks": bench.measure_masks}
    if {"step", "image", "memory", "folder"} & set(chosen):
        precision = {} if args.precision is None else {"dtype": args.precision}
        resolver = SuperResolver.from_pretrained(args.model, **given(args, "device"), **precision)
        for name in ("step", "image", "memory", "folder"):
            measures[name] = partial(getattr(bench, f"measure_{name}"), resolver)
    if "train" in chosen:
        from sam_diffsr.training.compose import load_config

        stage = args.stage or "diffusion"
        config = load_config(args.config or f"small/{stage}", overrides=args.overrides or [])
        measures["train"] = partial(bench.measure_training, _STAGES[stage], config)
        options["train"]["own_data"] = args.config is not None
    return [partial(measures[name], **options[name]) for name in chosen]


def _measurement(text: str) -> str:
    if text not in (*_QUICK, "all"):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(_QUICK)} and all")
    return text
