"""Decides, from the free memory, the size of the tiles and where the canvas and the features are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.costs import Costs
from sam_diffsr.pipeline.memory import free_memory
from sam_diffsr.pipeline.prepare import padded_size
from sam_diffsr.pipeline.tiling import aligned_halo, window_size

__all__ = ["DEFAULT_HALOS", "Halos", "MemoryPlan", "plan_batches", "plan_memory"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Halos:
    """Output pixels around the tiles of the networks."""

    encoder: int
    """Around what is encoded."""
    denoiser: int
    """Around what is denoised, and around the windows of the encoder's image head."""

    @classmethod
    def both(cls, halo: int | None) -> Halos:
        """The same for both networks, or their defaults for None."""
        return DEFAULT_HALOS if halo is None else cls(encoder=halo, denoiser=halo)

    @property
    def margin(self) -> int:
        """What has to be encoded around a denoiser's window, where that is encoded for itself."""
        return max(self.encoder - self.denoiser, 0)


DEFAULT_HALOS = Halos(encoder=64, denoiser=32)
"""Less than the receptive fields (170 for the released denoiser, thousands for its encoder), but what trained
networks look at is nearer. With the bundled ones, 40 and 16 are what keeps the worst case within half a level
of 255 of the untiled image (`sam-diffsr bench tiles`); the rest is room for other weights."""
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
_WORK_FOR_FEATURES = 2.0
"""Features are encoded anew for every window if keeping them makes windows so small that the denoiser has
this many times the work: encoding a window twice, once for its image, costs as much as denoising it."""
_FIXED_BYTES = 32 * 2**20
"""What does not depend on sizes: scratch of convolutions and of activations, strips of the canvas."""

Size = tuple[int, int]
"""Height and width in output pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How one batch is computed."""

    tile: Size
    """Most rows and columns of a tile of the denoiser and of the encoder's image head."""
    encoder_tile: Size | None
    """Likewise of the encoder, whose features are kept; None to encode every window anew at every step."""
    canvas: torch.device
    """Where the noisy residual and everything of its size is kept."""
    store: torch.device
    """Where features are kept, if they are."""
    rolling: bool = False
    """Whether what is kept is encoded row of tiles by row of tiles ahead of the denoiser, which comes only
    once, and forgotten behind it."""
    peak: int = 0
    """Bytes that this takes on the networks' device, as far as it was planned."""


@dataclass(frozen=True, slots=True)
class _Canvas:
    """What is divided into tiles."""

    height: int
    width: int
    align: int

    def whole_or(self, side: int) -> Size:
        """A square tile of a given side, or of everything for 0."""
        side = math.ceil(side / self.align) * self.align or max(self.height, self.width)
        return min(side, self.height), min(side, self.width)

    def window(self, tile: Size, halo: int) -> Size:
        """The windows of tiles of this size."""
        return window_size(self.height, self.width, tile=tile, halo=aligned_halo(halo, self.align))

    def pixels(self, tile: Size, halo: int) -> int:
        """Output pixels of one window."""
        rows, columns = self.window(tile, halo)
        return rows * columns

    def work(self, tile: Size, halo: int) -> int:
        """Output pixels of all windows together."""
        rows, columns = self.window(tile, halo)
        return rows * _count(self.height, tile[0]) * columns * _count(self.width, tile[1])

    def best_tile(self, fits: Callable[[Size], bool], *, halo: int, smallest: int) -> Size | None:
        """The tile with the least work among those that fit, if there is one.

        The more rows of tiles there are, the fewer columns are needed.
        """
        best: Size | None = None
        columns = _count(self.width, smallest)
        for rows in range(1, _count(self.height, smallest) + 1):
            while columns > 1 and fits(self._tile(rows, columns - 1)):
                columns -= 1
            tile = self._tile(rows, columns)
            if fits(tile) and (best is None or self.work(tile, halo) < self.work(best, halo)):
                best = tile
        return best

    def _tile(self, rows: int, columns: int) -> Size:
        return (
            math.ceil(self.height / rows / self.align) * self.align,
            math.ceil(self.width / columns / self.align) * self.align,
        )


def _count(side: int, part: int) -> int:
    return math.ceil(side / part)


def plan_memory(
    model: ModelConfig,
    *,
    batch: int,
    height: int,
    width: int,
    itemsize: int,
    tile: int | None,
    halos: Halos,
    canvases: int,
    once: bool,
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
        halos: around tiles.
        canvases: float32 RGB images of the size of the output that sampling holds at the same time.
        once: whether every window is denoised once only, so that features can be forgotten behind.
        device: where the networks are.
        free: bytes that are free there.
        free_on_host: bytes that are free for the CPU.
        limit: bytes that the computation may take; None for what is free.

    Raises:
        DeviceMemoryError: the limit cannot hold the canvas and one tile.
    """
    costs, host = Costs.of(model, itemsize, canvases=canvases), torch.device("cpu")
    area, pixels = _Canvas(height, width, model.lr_multiple * model.scale), batch * height * width
    budget, host_budget = int(_SHARE * free), 0 if device == host else int(_SHARE * free_on_host)
    if limit is not None:
        budget = min(int(_SHARE_OF_LIMIT * limit), free)
    whole, smallest = (height, width), max(area.align, 1 if limit is not None else _SMALLEST_AUTO_TILE)
    wanted = None if tile is None else area.whole_or(tile)

    halo, finished = aligned_halo(halos.denoiser, area.align), costs.samples * pixels if device == host else 0

    def at_work(tile: Size) -> int:
        """Bytes for a window, also if it is encoded for itself, with a margin."""
        rows, columns = area.window(tile, halo)
        margin = 2 * halos.margin
        encoded = batch * min(rows + margin, height) * min(columns + margin, width)
        return max(costs.window(batch * rows * columns), costs.encoder * encoded)

    def tallest(tile: Size) -> int:
        """Rows of the encoder's tiles, where features roll and there is no room for more."""
        return height if tile[0] == height else max(tile[0] // 2, 2 * halos.encoder, area.align)

    def features(tile: Size, encoded: int | None = None) -> int:
        """Bytes of the features that are kept.

        Where they roll, these are a row of the denoiser's tiles, the next one, of which the encoder's image
        is needed, and a row of the encoder's tiles.
        """
        rows, margin = area.window(tile, halo)[0], halo // 2 + aligned_halo(halos.encoder, area.align)
        rolling = rows + tile[0] + 2 * halo + (encoded or tallest(tile)) + margin + area.align
        return costs.features * batch * width * (min(rolling, height) if once else height)

    def results(tile: Size, *, keep: bool) -> int:
        """Bytes for what a row of tiles gives, before it is put into the canvas, on the canvas's device."""
        rows = min(area.window(tile, halo)[0] + halo // 2, height)
        if once and keep and tile[0] < height:  # and the encoder's image of the next row of tiles
            rows += min(tile[0] + halo, height)
        return costs.results * batch * rows * width if canvas == device else 0

    def needs(tile: Size, *, keep: bool, elsewhere: bool = False) -> int:
        """Bytes on the networks' device, with features that are kept there or elsewhere, or not kept."""
        kept = features(tile) if keep and not elsewhere else 0
        return max(at_work(tile) + results(tile, keep=keep) + kept, finished)

    def best_for(room: int, *, keep: bool, elsewhere: bool = False) -> Size | None:
        """The best tile of which a window fits."""

        def fits(tile: Size) -> bool:
            return needs(tile, keep=keep, elsewhere=elsewhere) <= room

        if wanted is not None:
            return wanted if fits(wanted) else None
        return area.best_tile(fits, halo=halo, smallest=smallest)

    spent, canvas = _FIXED_BYTES + costs.inputs * pixels, device
    chosen = best_for(budget - spent - costs.canvases * pixels, keep=False)
    if chosen is None and device != host:
        canvas = host
        chosen = best_for(budget - spent, keep=False)
        host_budget -= (costs.canvases + 2 * costs.results) * pixels
    else:
        spent += costs.canvases * pixels
    if chosen is None:
        chosen = wanted or area.whole_or(smallest)
        missing = spent + needs(chosen, keep=False) - budget
        if limit is not None:
            raise DeviceMemoryError(
                f"a limit of {limit // 2**20} MB cannot hold an image of {height} x {width} output pixels "
                f"{'without tiles' if tile == 0 else 'and one tile'}: about "
                f"{math.ceil((limit + missing / _SHARE_OF_LIMIT) / 2**20)} MB are needed; raise max_memory, "
                "or use a smaller tile, tile_overlap or batch_size"
            )
    store, keep = device, True
    most = _WORK_FOR_FEATURES * area.work(chosen, halo)
    beside = best_for(budget - spent, keep=True)
    apart = None if device == host else best_for(budget - spent, keep=True, elsewhere=True)
    if beside is not None and area.work(beside, halo) <= most:
        chosen = beside
    elif apart is not None and features(apart) <= host_budget:
        chosen, store = apart, host
    else:
        keep = tile == 0 and limit is None
    taken = features(chosen)
    room = taken  # of an asked-for tile memory is the point, of others what there is
    if wanted is None:
        left = budget - spent - needs(chosen, keep=True) if store == device else host_budget - taken
        room += max(left, 0)

    def encodes(part: Size) -> bool:
        small = batch * costs.encoder * area.pixels(part, halos.encoder) <= at_work(chosen)
        return small and (part[0] <= tallest(chosen) or features(chosen, part[0]) <= room)

    encoder_tile = None
    if keep:
        encoder_tile = area.best_tile(encodes, halo=halos.encoder, smallest=area.align)
        if encoder_tile is not None:
            spent += features(chosen, encoder_tile[0]) - taken if once and store == device else 0
    plan = MemoryPlan(
        tile=chosen,
        encoder_tile=encoder_tile,
        canvas=canvas,
        store=store,
        rolling=once and encoder_tile is not None and chosen[0] < height,
        peak=spent + needs(chosen, keep=keep, elsewhere=store != device),
    )
    _tell(plan, whole=whole, device=device)
    return plan


def _tell(plan: MemoryPlan, *, whole: Size, device: torch.device) -> None:
    if plan.tile == plan.encoder_tile == whole:
        _LOGGER.info("%d x %d output pixels in one piece on %s", *whole, device)
        return
    if plan.encoder_tile is None:
        encoded = "encoded anew for every tile"
    elif plan.rolling:
        encoded = (
            f"encoded in tiles of {' x '.join(map(str, plan.encoder_tile))} ahead of them on {plan.store}"
        )
    elif plan.encoder_tile == whole:
        encoded = f"encoded in one piece and kept on {plan.store}"
    else:
        encoded = f"encoded in tiles of {' x '.join(map(str, plan.encoder_tile))} and kept on {plan.store}"
    _LOGGER.info(
        "%d x %d output pixels on %s in tiles of %d x %d, %s; canvas on %s; about %d MB",
        *(*whole, device, *plan.tile, encoded, plan.canvas, plan.peak // 2**20),
    )


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
            costs, pixels = Costs.of(model, itemsize, canvases=1), height * width * model.scale**2
            while together > 1 and _FIXED_BYTES + costs.whole(together * pixels) > free:
                together -= 1
        count = math.ceil(len(indices) / together)
        bounds = [math.ceil(len(indices) * number / count) for number in range(count + 1)]  # 4 + 4, not 5 + 3
        batches += [indices[first:last] for first, last in pairwise(bounds)]
    return batches
