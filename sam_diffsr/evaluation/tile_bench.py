"""What tiles cost, and what they change: time against the untiled image, and differences for every halo."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.environment import describe_machine, describe_versions
from sam_diffsr.evaluation.work_bench import smooth_photo
from sam_diffsr.pipeline.planning import DEFAULT_HALOS, Halos, MemoryPlan
from sam_diffsr.pipeline.progress import Progress
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.run import RunOptions, plan_batch, run_batch

__all__ = ["TileResult", "bench_tiles"]

_TILE = 64
"""Output pixels of the tiles in which differences are looked for: small, so that there are many seams."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TileResult:
    """Figures of one measurement."""

    tile_cost: float
    """Processor time of the image in tiles for that of the image in one piece; median of the turns."""
    halos: Sequence[Mapping[str, float]]
    """Per halo: the largest difference to the image in one piece in levels of 255, with the encoder in tiles
    and with the denoiser in tiles, for every kind of image."""
    settings: Mapping[str, Any]
    """Model, size, tiles and limit."""
    machine: Mapping[str, Any]
    """Device and threads."""
    versions: Mapping[str, str]
    """Software."""

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def bench_tiles(
    resolver: SuperResolver,
    *,
    size: int = 384,
    max_memory: int = 2**30,
    repeats: int = 3,
    halos: Sequence[int] = (16, 24, 32, 40, 48, 64),
    side: int = 64,
    say: Callable[[str], object] = lambda line: None,
) -> TileResult:
    """Time an image in automatic tiles against the same in one piece, and compare results for every halo.

    Args:
        resolver: the model.
        size: side of the low-resolution image that is timed.
        max_memory: bytes that its tiles may take.
        repeats: of both, in turn.
        halos: output pixels around tiles.
        side: of the low-resolution images that are compared.
        say: told what is being measured.

    Raises:
        ArgumentError: a number out of range, or the image needs no tiles.
        DeviceMemoryError: the limit cannot hold the image and one tile.
    """
    if size < 1 or repeats < 1 or side < 1 or max_memory < 1 or not all(halo >= 0 for halo in halos):
        raise ArgumentError(
            f"size, repeats, side and max_memory must be >= 1 and halos >= 0, got {size}, {repeats}, {side}, "
            f"{max_memory} and {list(halos)}"
        )
    free = RunOptions(
        sampling=resolver.config.sampling, tile=None, halos=DEFAULT_HALOS, max_memory=max_memory
    )
    image = _tensor(smooth_photo(size, size, seed=0))
    plan = plan_batch(resolver.model, image.shape, options=free)
    whole = replace(free, tile=0, max_memory=None)
    if plan.tile == plan_batch(resolver.model, image.shape, options=whole).tile:
        raise ArgumentError(
            f"an image of {size} x {size} needs no tiles in {max_memory // 2**20} MB; give a smaller "
            "max_memory or a larger size"
        )
    ratios: list[float] = []
    for turn in range(repeats):
        say(f"{size}x{size} in tiles of {plan.tile[0]} x {plan.tile[1]} and in one piece, turn {turn + 1}")
        ratios.append(_seconds(resolver, image, replace(free, plan=plan)) / _seconds(resolver, image, whole))
    return TileResult(
        tile_cost=statistics.median(ratios),
        halos=_differences(resolver, halos, side=side, say=say),
        settings={
            "model": resolver.name,
            "size": size,
            "max_memory_mb": max_memory / 2**20,
            "tile": plan.tile,
            "encoder_tile": plan.encoder_tile,
            "compared_in_tiles_of": _TILE,
        },
        machine=describe_machine(resolver.device),
        versions=describe_versions(),
    )


def _differences(
    resolver: SuperResolver, halos: Sequence[int], *, side: int, say: Callable[[str], object]
) -> list[dict[str, float]]:
    rows, columns = np.mgrid[:side, :side]
    checks = np.repeat(((rows // 5 + columns // 7) % 2 * 255)[..., None], 3, axis=2)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    images = {"photo": smooth_photo(side, side, seed=1), "noise": noise, "checks": checks}
    options = RunOptions(sampling=resolver.config.sampling, tile=0, halos=DEFAULT_HALOS)
    found: dict[int, dict[str, float]] = {halo: {"halo": halo} for halo in halos}
    for kind, array in images.items():
        image = _tensor(array)
        expected = _upscale(resolver, image, options)
        whole = plan_batch(resolver.model, image.shape, options=options)
        for halo, line in found.items():
            say(f"{kind}, halo of {halo}")
            for network in ("encoder", "denoiser"):
                tiles = {"encoder_tile" if network == "encoder" else "tile": (_TILE, _TILE)}
                plan: MemoryPlan = replace(whole, **tiles)
                tiled = replace(options, plan=plan, halos=Halos.both(halo))
                difference = (_upscale(resolver, image, tiled) - expected).abs().max()
                line[f"{network}_{kind}"] = round(255 * float(difference), 4)
    return list(found.values())


def _upscale(resolver: SuperResolver, image: Tensor, options: RunOptions) -> Tensor:
    with Progress(show=False, callback=None, total=options.sampling.steps) as progress:
        return run_batch(
            resolver.model,
            resolver.config,
            resolver.schedule,
            image.to(resolver.device),
            seeds=[0],
            options=options,
            progress=progress,
        )


def _seconds(resolver: SuperResolver, image: Tensor, options: RunOptions) -> float:
    """Processor time on a CPU, which other work disturbs less; elsewhere time on the clock."""
    clock = time.process_time if resolver.device.type == "cpu" else time.perf_counter
    started = clock()
    float(_upscale(resolver, image, options).sum())
    return clock() - started


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float() / 255
