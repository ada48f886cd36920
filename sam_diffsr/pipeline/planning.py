"""Decides, from the free memory, the size of the tiles and where the canvas and the condition are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.memory import free_memory
from sam_diffsr.pipeline.prepare import padded_size

__all__ = ["DEFAULT_HALO", "MemoryPlan", "plan_batches", "plan_memory"]

_LOGGER = logging.getLogger(__name__)

DEFAULT_HALO = 64
"""Output pixels around a tile: less than the receptive field (170 in the released architecture), but what a
trained network looks at is nearer. With the bundled one, results differ by at most 2e-5."""
_SHARE = 0.6
"""Part of the free memory that is planned with; the rest is for what the estimate does not know."""
_SMALLEST_AUTO_TILE = 128
"""Output pixels; in smaller tiles most of the work would be spent on halos."""
_ACCELERATOR_BATCH = 8
"""Images in a batch on a GPU where the caller does not say."""
_CANVAS_BYTES = 120
"""Bytes an output pixel takes outside of the networks: ten float32 RGB canvases at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How one batch is computed."""

    tile: int
    """Longest side of a tile in output pixels; 0 for the whole canvas at once."""
    canvas: torch.device
    """Where the noisy residual and everything of its size is kept."""
    condition: Literal["whole", "stored", "recomputed"]
    """Encode the image at once, or in tiles into a store, or every window anew at every step."""
    store: torch.device
    """Where the condition is kept, unless it is recomputed."""


@dataclass(frozen=True, slots=True)
class _Costs:
    """Peak bytes for one pixel, measured on the CPU in channels-last and rounded up."""

    denoiser: int
    """For an output pixel of a window."""
    head: int
    """For an output pixel of a window, while the encoder makes its image."""
    encoder: int
    """For an output pixel of the part that is encoded, the condition itself included."""
    condition: int
    """For an output pixel, for as long as the condition is kept."""

    @classmethod
    def of(cls, model: ModelConfig, itemsize: int) -> _Costs:
        encoder, widths = model.encoder, model.denoiser.channels
        widest = max(width / 4**level for level, width in enumerate(widths))
        features = (
            encoder.channels * (encoder.blocks + len(encoder.condition_indices) + 3) + 4 * encoder.growth
        )
        return cls(
            denoiser=math.ceil(itemsize * (6 * widest + 32)),
            head=itemsize * (4 * encoder.channels + 32),
            encoder=math.ceil(itemsize * (features / model.scale**2 + 2 * widths[0])),
            condition=itemsize * widths[0],
        )

    def window(self) -> int:
        """Peak for an output pixel of a window."""
        return max(self.encoder, self.condition + max(self.head, self.denoiser))

    def whole(self) -> int:
        """Peak for an output pixel when nothing is divided."""
        return _CANVAS_BYTES + self.window()


def plan_memory(
    model: ModelConfig,
    *,
    batch: int,
    height: int,
    width: int,
    itemsize: int,
    tile: int | None,
    halo: int,
    device: torch.device,
    free: int,
    free_on_host: int,
) -> MemoryPlan:
    """Choose what is divided, and log it at INFO level.

    Args:
        model: the networks.
        batch: images that are computed together.
        height: of the padded output.
        width: of the padded output.
        itemsize: bytes of a number in the networks.
        tile: longest side in output pixels that the caller wants, 0 for no tiles; None to choose.
        halo: output pixels around a tile.
        device: where the networks are.
        free: bytes that are free there.
        free_on_host: bytes that are free for the CPU.
    """
    costs, pixels, host = _Costs.of(model, itemsize), batch * height * width, torch.device("cpu")
    budget, host_budget = int(_SHARE * free), 0 if device == host else int(_SHARE * free_on_host)
    if tile == 0 or (tile is None and costs.whole() * pixels <= budget):
        _LOGGER.info("%d x %d output pixels in one piece on %s", height, width, device)
        return MemoryPlan(tile=0, canvas=device, condition="whole", store=device)

    per_window = costs.window()
    least = batch * per_window * ((tile or _SMALLEST_AUTO_TILE) + 2 * halo) ** 2
    canvas, condition, store = device, "recomputed", device
    if device != host and _CANVAS_BYTES * pixels + least > budget:
        canvas = host
        host_budget -= _CANVAS_BYTES * pixels
    else:
        budget -= _CANVAS_BYTES * pixels
    if costs.condition * pixels + least <= budget:
        condition = "whole" if costs.encoder * pixels <= budget else "stored"
        budget -= costs.condition * pixels
    elif costs.condition * pixels <= host_budget:
        condition, store = "stored", host
    if tile is None:
        side = math.isqrt(max(budget, 0) // (batch * per_window)) - 2 * halo
        tile = max(side, _SMALLEST_AUTO_TILE)
    _LOGGER.info(
        "%d x %d output pixels on %s in tiles of %d with a halo of %d; canvas on %s, condition %s on %s",
        *(height, width, device, tile, halo, canvas, condition, store),
    )
    return MemoryPlan(tile=tile, canvas=canvas, condition=condition, store=store)


def plan_batches(
    model: ModelConfig,
    sizes: Sequence[tuple[int, int]],
    *,
    batch_size: int | None,
    tiled: bool,
    itemsize: int,
    device: torch.device,
) -> list[list[int]]:
    """Put images of equal size together.

    Args:
        model: the networks.
        sizes: low-resolution height and width of every image.
        batch_size: most images in a batch; None for 8 on a GPU and 1 on a CPU, which gains nothing from more.
        tiled: whether a batch may be made smaller, so that it needs no tiles.
        itemsize: bytes of a number in the networks.
        device: where the networks are.

    Returns:
        Indices of the images of every batch.
    """
    if batch_size is None:
        batch_size = 1 if device.type == "cpu" else _ACCELERATOR_BATCH
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    batches: list[list[int]] = []
    for size, indices in groups.items():
        together = min(batch_size, len(indices))
        if together > 1 and tiled:
            height, width = padded_size(*size, model)
            fitting = int(_SHARE * free_memory(device)) // (
                _Costs.of(model, itemsize).whole() * height * width * model.scale**2
            )
            together = max(1, min(together, fitting))
        batches += [indices[first : first + together] for first in range(0, len(indices), together)]
    return batches
