"""Decides, from the free memory, the size of the tiles and where the canvas and the condition are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from sam_diffsr.errors import DeviceMemoryError
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
_SHARE_OF_LIMIT = 0.9
"""Part of a limit that the caller gave: that is a promise, and not a guess at what else runs."""
_ACCELERATOR_BATCH = 8
"""Images in a batch on a GPU where the caller does not say."""
_CPU_BATCH_PIXELS = 2**17
"""Output pixels of a batch on a CPU, likewise: less than that is computed at a lower rate."""
_SMALLEST_AUTO_TILE = 64
"""Output pixels, unless a limit asks for less: in smaller tiles nearly all of the work is spent on halos."""
_CANVAS_BYTES = 60
"""Bytes an output pixel takes outside of the networks: four or five float32 RGB canvases at the same time."""
_FIXED_BYTES = 32 * 2**20
"""What does not depend on sizes: scratch of convolutions and of activations, strips of the canvas."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How one batch is computed."""

    tile: int
    """Longest side of a tile in output pixels; 0 for the whole canvas at once."""
    canvas: torch.device
    """Where the noisy residual and everything of its size is kept."""
    condition: Literal["whole", "encoded", "stored", "recomputed"]
    """Keep the condition, or only the features that it is made from, encoded at once or in tiles, or encode
    every window anew at every step."""
    store: torch.device
    """Where features are kept, unless they are recomputed."""


@dataclass(frozen=True, slots=True)
class _Costs:
    """Peak bytes for one pixel, measured on the CPU in channels-last and rounded up."""

    denoiser: int
    """For an output pixel of a window."""
    head: int
    """For an output pixel of a window, while the encoder makes its image."""
    encoder: int
    """For an output pixel of the part that is encoded, the features themselves included."""
    condition: int
    """For an output pixel of a window, its projected condition."""
    features: int
    """For an output pixel, for as long as features are kept."""

    @classmethod
    def of(cls, model: ModelConfig, itemsize: int) -> _Costs:
        encoder, widths = model.encoder, model.denoiser.channels
        widest = max(width / 4**level for level, width in enumerate(widths))
        kept = encoder.channels * (len(encoder.condition_indices) + 1)
        growing = 7 * encoder.channels + 10 * encoder.growth
        return cls(
            denoiser=math.ceil(itemsize * (6 * widest + 32)),
            head=4 * (4 * encoder.channels + 32),
            encoder=math.ceil(itemsize * (2 * kept + growing) / model.scale**2),
            condition=itemsize * widths[0],
            features=math.ceil(itemsize * kept / model.scale**2),
        )

    def window(self) -> int:
        """Peak for an output pixel of a window."""
        projected = self.features + self.condition
        return max(self.encoder, self.features + self.head, projected + self.denoiser)

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
    limit: int | None = None,
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
        limit: bytes that the computation may take; None for what is free.

    Raises:
        DeviceMemoryError: the limit cannot hold the canvas and one tile.
    """
    costs, pixels, host = _Costs.of(model, itemsize), batch * height * width, torch.device("cpu")
    budget, host_budget = int(_SHARE * free), 0 if device == host else int(_SHARE * free_on_host)
    if limit is not None:
        budget = min(int(_SHARE_OF_LIMIT * limit), free)
    budget -= _FIXED_BYTES
    needs_whole = costs.whole() * pixels
    if (tile == 0 and limit is None) or (tile in (0, None) and needs_whole <= budget):
        _LOGGER.info("%d x %d output pixels in one piece on %s", height, width, device)
        return MemoryPlan(tile=0, canvas=device, condition="whole", store=device)

    per_window, align = batch * costs.window(), model.lr_multiple * model.scale
    smallest = align if limit is not None else max(align, _SMALLEST_AUTO_TILE)
    least = per_window * ((tile or smallest) + 2 * halo) ** 2
    canvas, condition, store = device, "recomputed", device
    if device != host and _CANVAS_BYTES * pixels + least > budget:
        canvas = host
        host_budget -= _CANVAS_BYTES * pixels
    else:
        budget -= _CANVAS_BYTES * pixels
    if limit is not None and (tile == 0 or budget < least):
        missing = needs_whole - budget if tile == 0 else least - budget
        needed = math.ceil((limit + missing / _SHARE_OF_LIMIT) / 2**20)
        raise DeviceMemoryError(
            f"a limit of {limit // 2**20} MB cannot hold an image of {height} x {width} output pixels "
            f"{'without tiles' if tile == 0 else 'and one tile'}: about {needed} MB are needed; raise "
            "max_memory, or use a smaller tile, tile_overlap or batch_size"
        )
    if costs.features * pixels + least <= budget:
        budget -= costs.features * pixels
        condition = "stored"
    elif costs.features * pixels <= host_budget:
        condition, store = "stored", host
    if tile is None:
        side = math.isqrt(max(budget, 0) // per_window) - 2 * halo
        tile = max(side // align * align, smallest)
    if condition == "stored" and costs.encoder * pixels <= per_window * (tile + 2 * halo) ** 2:
        condition = "encoded"  # takes no more than a window, and is exact
    _LOGGER.info(
        "%d x %d output pixels on %s in tiles of %d with a halo of %d; canvas on %s, features %s on %s",
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
    limit: int | None = None,
) -> list[list[int]]:
    """Put images of equal size together.

    Args:
        model: the networks.
        sizes: low-resolution height and width of every image.
        batch_size: most images in a batch; None for 8, and on a CPU for fewer where images are not small: it
            gains nothing from more.
        tiled: whether a batch may be made smaller, so that it needs no tiles.
        itemsize: bytes of a number in the networks.
        device: where the networks are.
        limit: bytes that a batch may take; None for what is free.

    Returns:
        Indices of the images of every batch.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    batches: list[list[int]] = []
    for size, indices in groups.items():
        height, width = padded_size(*size, model)
        most = _ACCELERATOR_BATCH if batch_size is None else batch_size
        if batch_size is None and device.type == "cpu":
            most = max(1, min(most, _CPU_BATCH_PIXELS // (height * width * model.scale**2)))
        together = min(most, len(indices))
        if together > 1 and tiled:
            free = int(_SHARE * free_memory(device)) if limit is None else int(_SHARE_OF_LIMIT * limit)
            fitting = max(free - _FIXED_BYTES, 0) // (
                _Costs.of(model, itemsize).whole() * height * width * model.scale**2
            )
            together = max(1, min(together, fitting))
        count = math.ceil(len(indices) / together)
        bounds = [math.ceil(len(indices) * number / count) for number in range(count + 1)]  # 4 + 4, not 5 + 3
        batches += [indices[first:last] for first, last in pairwise(bounds)]
    return batches
