"""Flags that several commands have, and the types of their values.

A flag that is not given is None and is dropped, so every default is written once, in the library.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sam_diffsr.cli.parser import Group, Parser
from sam_diffsr.errors import ArgumentError

if TYPE_CHECKING:
    from sam_diffsr.cluster import Cluster

T = TypeVar("T")

CHOICES = {
    "encoding": ("rope", "cosine", "sincos", "random"),
    "ext": ("png", "jpg", "webp", "tif", "avif", "jp2", "auto"),
    "measures": ("ringing", "grain", "colour"),
    "missing_masks": ("error", "zero"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
    "protocol": ("matlab", "paper"),
    "reduction": ("image", "region"),
    "stored_precision": ("fp32", "fp16", "bf16"),
    "sampler": ("ddpm", "ddim", "dpmpp_2m"),
    "segmenter": ("graph", "none"),
    "spacing": ("linspace", "trailing"),
}
"""Values of the library's ``Literal`` types, which need torch to be imported; a test compares them."""


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options that were given, as keyword arguments."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


# Flags


def add_message_options(parser: Parser) -> None:
    """``--quiet``, ``--verbose`` and ``--debug``, which every command has."""
    add = parser.add_argument_group("messages").add_argument
    add("-q", "--quiet", action="store_true", help="only warnings and errors")
    add("-v", "--verbose", action="store_true", help="every message")
    add("--debug", action="store_true", help="every message, and the traceback of an error")


def add_model_option(parser: Parser) -> None:
    """``-m`` and its alias ``-n``."""
    text = "photo, small, base, a folder, a .safetensors file or a Hub id (default: photo)"
    parser.add_argument("-m", "--model", "-n", metavar="MODEL", type=filled, help=text)


def add_device_options(parser: Parser | Group) -> None:
    """``--device`` and ``--precision``, which is the library's ``dtype``."""
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    text = "floating type of the networks (default: auto, fp16 on CUDA and fp32 elsewhere)"
    parser.add_argument("--precision", dest="dtype", choices=CHOICES["precision"], help=text)


def add_ray_options(group: Group) -> None:
    """``--ray`` and the size of its workers."""
    add = group.add_argument
    ray = "on a Ray cluster (extra ray): auto or host:port; without an address, workers on this machine"
    gpus = "GPUs per worker, such as 0.5 (default: 1 if there are any)"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=ray)
    add("--ray-workers", type=whole(1), metavar="N", help="workers (default: what the nodes have room for)")
    add("--ray-cpus", type=above_0, metavar="N", help="cores per worker (default: 1)")
    add("--ray-gpus", type=float, metavar="N", help=gpus)


def cluster_of(args: argparse.Namespace) -> Cluster | None:
    """The cluster of ``--ray``; None without it."""
    if args.ray is None:
        if given(args, "ray_workers", "ray_cpus", "ray_gpus"):
            raise ArgumentError("ray_workers, ray_cpus and ray_gpus belong to --ray, which is not given")
        return None
    from sam_diffsr.cluster import Cluster

    if args.device not in (None, "auto", "cpu"):
        raise ArgumentError("a Ray worker gets its device from Ray; use --ray-gpus instead of --device")
    gpus = 0 if args.device == "cpu" else args.ray_gpus
    numbers = {"workers": args.ray_workers, "num_cpus": args.ray_cpus, "num_gpus": gpus}
    chosen: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    return Cluster(address=None if args.ray == "local" else args.ray, **chosen)


# Types of values


def kind(
    expected: str, parse: Callable[[str], T], *, holds: Callable[[T], bool] = lambda value: True
) -> Callable[[str], T]:
    """Type of an option: what ``parse`` makes of a text, if that ``holds``."""

    def parsed(text: str) -> T:
        """The value of an option, from its text."""
        with suppress(ValueError):
            if holds(value := parse(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parsed


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Type of an option: a whole number from ``least`` to ``most``."""
    limits = f">= {least}" if most == math.inf else f"from {least} to {most}"
    return kind(f"a whole number {limits}", int, holds=lambda number: least <= number <= most)


above_0 = kind("a number above 0", float, holds=lambda number: 0 < number < math.inf)
filled = kind("a name", str, holds=bool)
megabytes = kind("a whole number >= 1", lambda text: int(text) * 2**20, holds=lambda size: size >= 1)
int_list = kind("whole numbers like '1,2,4'", lambda text: [int(part) for part in text.split(",")])
number_list = kind("numbers like '1,2.5'", lambda text: [float(part) for part in text.split(",")])
tile_size = kind("auto, 0 or a number of pixels", lambda text: text if text == "auto" else int(text))
start_value: Callable[[str], int | Literal["noise"]] = kind(
    "noise or a timestep", lambda text: "noise" if text == "noise" else int(text)
)


def word_list(text: str) -> list[str]:
    """Words with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def start_list(text: str) -> list[int | Literal["noise"]]:
    """Timesteps, or ``noise`` for a start from pure noise, with commas between them."""
    return [start_value(part) for part in word_list(text)]
