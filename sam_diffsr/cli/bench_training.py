"""``sam-diffsr bench masks`` and ``bench train``: what regions and batches cost a training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.measured import sayer, tell
from sam_diffsr.cli.options import Subparsers, add_command, add_common_options, given

if TYPE_CHECKING:
    from sam_diffsr.training.stages import StageName

__all__ = ["register"]

_STAGES: dict[str, StageName] = {"rrdb": "encoder", "diffusion": "denoiser"}
_QUICK_MASKS = {"size": (340, 510), "region_counts": (10, 100), "megapixels": (0.2, 0.8), "repeats": 3}


def register(subparsers: Subparsers) -> None:
    """Add both below ``bench``."""
    _register_masks(subparsers)
    _register_train(subparsers)


def _register_masks(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "masks",
        help="measure the encoding of regions, their codec and their files",
        description="Measure structural position encoding against the straightforward way, the run-length "
        "codec against pycocotools (if installed), and reading a training crop of a stored field against "
        "reading that of the image. What counts are the ratios.",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller image and fewer measurements")
    parser.add_argument("--json", metavar="FILE", help="write the result, with device, threads and versions")
    add_common_options(parser)
    parser.set_defaults(run=run_masks)


def _register_train(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "train",
        help="measure what making batches costs a training step",
        description="Measure training steps on batches that are made as in a run, in turns with the same "
        "steps on random tensors that lie on the device already. What counts is the ratio.",
    )
    parser.add_argument(
        "stage",
        metavar="STAGE",
        choices=tuple(_STAGES),
        nargs="?",
        help=f"{' or '.join(_STAGES)} (default: diffusion)",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="YAML file or preset of the run, measured on its own data; without one it is the preset "
        "small, on crops and on synthetic images that are made for the measurement",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="change a value of the config; may be repeated",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="turns (default: 5)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each kind in a turn (default: 16)")
    parser.add_argument("--json", metavar="FILE", help="write the result, with device, threads and versions")
    add_common_options(parser)
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from sam_diffsr.training.bench import run_train_bench
    from sam_diffsr.training.compose import load_config

    stage = args.stage or "diffusion"
    result = run_train_bench(
        _STAGES[stage],
        load_config(args.config or f"small/{stage}", overrides=args.overrides),
        own_data=args.config is not None,
        say=sayer(args),
        **given(args, "rounds", "steps"),
    )
    return tell(result, args, device=result.device)


def run_masks(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from sam_diffsr.data.mask_bench import run_mask_bench

    options: dict[str, Any] = dict(_QUICK_MASKS) if args.quick else {}
    return tell(run_mask_bench(say=sayer(args), **options), args, device="cpu")
