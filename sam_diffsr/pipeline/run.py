"""From low-resolution images to super-resolved ones: every tile goes through the whole chain on its own.

Shape legend: B images or windows, h w low resolution, H W output (scale times h, w).
"""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.device import is_out_of_memory, network_layout, plain_torch, release_memory
from sam_diffsr.diffusion import SAMPLERS, NoiseFn, NoiseSchedule, PositionNoise
from sam_diffsr.diffusion.process import image_to_residual, q_sample, residual_to_image
from sam_diffsr.errors import DeviceMemoryError, NumericalError, SamDiffsrError
from sam_diffsr.models import DiffSR, pad_to_fit
from sam_diffsr.pipeline.config import COLOUR_REACH, ResolverConfig
from sam_diffsr.pipeline.settings import Settings
from sam_diffsr.pipeline.tiles import SMALLEST_TILE, Tile, batch_size, divide
from sam_diffsr.progress import Progress
from sam_diffsr.resize import imresize

logger = logging.getLogger(__name__)

_BACK_PROJECTIONS = {None: 0, "bicubic": 3, "photo": 1}
"""How often a result is corrected by its difference to the input, by what the model was trained to undo."""

Estimate = Callable[[], Tensor]
"""Makes the current estimate of the windows, ``(B, 3, H, W)`` in [0, 1]."""
OnStep = Callable[[Estimate], None]
Chain = Callable[[Tensor, NoiseFn, OnStep], Tensor]
Place = tuple[int, Tile]
"""Index of an image, and one of its tiles."""


def super_resolve(
    model: DiffSR,
    config: ResolverConfig,
    schedule: NoiseSchedule,
    images: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    progress: Progress,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Super-resolve images of equal size, tile by tile, on the device and in the dtype of the model.

    ``images`` are ``(B, 3, h, w)`` float32 in [0, 1] on any device; the result is on it, too, as
    ``(B, 3, H, W)`` float32 in [0, 1], or uint8 in 0..255, rounded half up.

    Raises:
        NumericalError: the networks produced NaN or infinity, in float32 too.
        DeviceMemoryError: memory is too small even for the smallest tile.
        CancelledError: the callback cancelled the work.
    """
    scale, device = config.model.scale, next(model.parameters()).device
    size, margin = [scale * side for side in images.shape[-2:]], scale * settings.margin
    queue = _Queue(model, config, settings, images)
    images = _wrapped(images, settings.margin)
    output = torch.empty(
        (len(images), 3, *(scale * side for side in images.shape[-2:])),
        dtype=dtype,
        device=images.device,
        memory_format=torch.channels_last,  # so that 8-bit results become images without another copy
    )

    def inside(large: Tensor) -> Tensor:
        return large[..., margin : margin + size[0], margin : margin + size[1]]

    def on_step(estimate: Estimate) -> None:
        progress.step(lambda: inside(_preview(images, output, queue, estimate())), count=len(queue.batch))

    with plain_torch(device):
        padded = pad_to_fit(images, config.model)
        while batch := queue.batch:
            done, waiting = progress.done, len(queue.places)
            chain: Chain = partial(sample, queue.model, config, schedule, settings)
            try:
                lr = torch.cat([tile.cut(padded[index, None]) for index, tile in batch]).to(device)
                origins = [tile.origin(scale) for _, tile in batch]
                corners = [(top - margin, left - margin) for top, left in origins]
                period = (size[0], size[1]) if margin else None
                noise = PositionNoise([seeds[index] for index, _ in batch], corners, period=period)
                sr = (partial(sample_ensemble, chain) if settings.ensemble else chain)(lr, noise, on_step)
                if dtype == torch.uint8:
                    sr = sr.mul(255).add_(0.5).to(dtype)
                for window, (index, tile) in zip(sr, batch, strict=True):
                    tile.paste(window, output[index], scale=scale)
                del queue.places[: len(batch)]
            except (RuntimeError, MemoryError) as error:
                queue.recover(error)
                more = (len(queue.places) - waiting) * settings.steps_per_tile
                progress.rewind(done, more=more)
    return inside(output)


def sample(
    model: DiffSR,
    config: ResolverConfig,
    schedule: NoiseSchedule,
    settings: Settings,
    lr: Tensor,
    noise: NoiseFn,
    on_step: OnStep,
) -> Tensor:
    """Take a batch of windows through the whole chain: condition, start, sampler, image, consistency.

    ``lr`` is ``(B, 3, h, w)`` float32 in [0, 1] on the model's device, of a size that the networks accept;
    the result is ``(B, 3, H, W)`` in the same range.

    Raises:
        NumericalError: the networks produced NaN or infinity.
    """
    sampling, scale, stretch = settings.sampling, config.model.scale, config.normalization.residual_scale
    dtype, layout = next(model.parameters()).dtype, network_layout(lr.device)

    # The condition and the encoder's own image, once per window.
    condition = model.encode(lr.to(dtype=dtype, memory_format=layout))
    encoded = model.encoder_image(condition).float()
    sums = [condition.trunk.float().sum(), encoded.sum()]  # not finite if one number is not

    if sampling.steps == 0:
        image = encoded
        on_step(lambda: image)
    else:
        # The start: pure noise, or the residual of the encoder's image with noise added up to ``start``.
        lr_up = imresize(lr * (255 / config.normalization.lr_up_levels), scale) * 2 - 1
        x = noise(lr_up)
        if sampling.start is not None:
            t = torch.full((len(lr),), sampling.start, dtype=torch.int64, device=lr.device)
            x = q_sample(image_to_residual(encoded * 2 - 1, lr_up, residual_scale=stretch), t, x, schedule)

        # The loop.
        def denoise(xt: Tensor, t: Tensor) -> Tensor:
            eps = model(xt.to(dtype=dtype, memory_format=layout), t, condition).float()
            sums.append(eps.sum())
            return eps

        def to_image(x0: Tensor) -> Tensor:
            image = residual_to_image(x0, lr_up, residual_scale=stretch).add_(1).div_(2).clamp_(0, 1)
            return image.lerp_(encoded, sampling.encoder_share)

        def report(step: int, total: int, x0: Tensor) -> None:
            on_step(lambda: to_image(x0))

        x0 = SAMPLERS[sampling.sampler](
            denoise,
            x,
            schedule,
            steps=sampling.steps,
            noise=noise,
            start=sampling.start,
            spacing=sampling.spacing,
            callback=report,
        )
        image = to_image(x0)

    if not bool(torch.stack(sums).isfinite().all()):
        name = str(dtype).removeprefix("torch.")
        raise NumericalError(f"the networks produced NaN or infinity in {name}; check the weights")

    # Back-projection: the result reduced again is the input of a model of clean images, and has the colours
    # (the mean over 17 x 17 pixels) of a damaged one.
    for _ in range(_BACK_PROJECTIONS[config.degradation]):
        difference = lr - imresize(image, 1 / scale)
        if config.degradation == "photo":
            padded = functional.pad(difference, (COLOUR_REACH,) * 4, mode="replicate")
            difference = functional.avg_pool2d(padded, 2 * COLOUR_REACH + 1, stride=1)
        image = (image + imresize(difference, scale)).clamp_(0, 1)
    return image


def sample_ensemble(chain: Chain, lr: Tensor, noise: NoiseFn, on_step: OnStep) -> Tensor:
    """Average the results of :func:`sample` for the eight turned and mirrored windows, turned back."""

    def result(quarters: int, mirrored: bool) -> Tensor:
        def turned(x: Tensor) -> Tensor:
            return (x.flip(-1) if mirrored else x).rot90(quarters, (-2, -1))

        def undone(x: Tensor) -> Tensor:
            x = x.rot90(-quarters, (-2, -1))
            return x.flip(-1) if mirrored else x

        def turned_noise(like: Tensor) -> Tensor:  # that of the places before the turn, whatever the tiles
            return turned(noise(undone(like)))

        return undone(chain(turned(lr), turned_noise, lambda estimate: on_step(lambda: undone(estimate()))))

    turns = itertools.product(range(4), (False, True))
    return sum((result(*turn) for turn in turns), start=lr.new_zeros(())) / 8


class _Queue:
    """Tiles of a batch of images that wait, and how to go on after an error."""

    def __init__(self, model: DiffSR, config: ResolverConfig, settings: Settings, images: Tensor) -> None:
        parameter = next(model.parameters())
        self._grid = divide(config, settings, *images.shape[-2:], parameter=parameter)
        tiles = self._grid.tiles()
        self._together = batch_size(config, settings, tiles[0], parameter=parameter)
        self.model = model
        self.places: list[Place] = [(index, tile) for index in range(len(images)) for tile in tiles]
        if len(tiles) > 1:
            size, device = tiles[0].window_size[::-1], parameter.device
            logger.info("%d tiles of %d x %d input pixels on %s", len(tiles), *size, device)

    @property
    def batch(self) -> list[Place]:
        """The next windows, which are computed together."""
        return self.places[: self._together]

    def recover(self, error: Exception) -> None:
        """Go on after an error, or raise it again. Finished tiles stay.

        NaN or infinity of a narrow type: float32 from here on. Out of memory: half as many windows at a time,
        or tiles of half the side if it was one window.
        """
        parameter = next(self.model.parameters())
        if isinstance(error, NumericalError) and parameter.dtype != torch.float32:
            warnings.warn(f"{error}; computing again in float32", RuntimeWarning, stacklevel=5)
            self.model = copy.deepcopy(self.model).float()
            return
        if isinstance(error, SamDiffsrError) or not is_out_of_memory(error):
            raise error
        release_memory(parameter.device)
        batch = self.batch
        self._together = max(1, len(batch) // 2)
        if len(batch) > 1:
            return
        _, tile = batch[0]
        if max(len(tile.rows), len(tile.columns)) <= SMALLEST_TILE:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DeviceMemoryError(
                f"memory ran out even with the smallest tile ({reason}); use a smaller halo, close other "
                "programs, or use device='cpu'"
            ) from error
        self.places = [
            (index, part)
            for index, places in itertools.groupby(self.places, key=lambda place: place[0])
            for part in self._grid.quarters(tile for _, tile in places)
        ]
        size = self.places[0][1].window_size[::-1]
        logger.warning("out of memory; going on with tiles of %d x %d input pixels", *size)


def _wrapped(images: Tensor, margin: int) -> Tensor:
    """Pad ``(B, C, h, w)`` on every side with what lies at the opposite border, as often as it takes."""
    if margin == 0:
        return images
    rows, columns = (
        torch.arange(-margin, side + margin, device=images.device) % side for side in images.shape[-2:]
    )
    return images[:, :, rows[:, None], columns]


def _preview(images: Tensor, output: Tensor, queue: _Queue, estimate: Tensor) -> Tensor:
    """The images as far as they are: finished tiles, the estimate of the batch, and bicubic elsewhere."""
    scale = output.shape[-1] // images.shape[-1]
    shown = output / 255 if output.dtype == torch.uint8 else output.clone()
    bicubic = imresize(images, scale).clamp_(0, 1)
    for index, tile in queue.places:
        rows, columns = tile.area(scale)
        shown[index, :, rows, columns] = bicubic[index, :, rows, columns]
    for window, (index, tile) in zip(estimate, queue.batch, strict=False):  # none is left after the run
        tile.paste(window, shown[index], scale=scale)
    return shown
