"""From low-resolution images to super-resolved ones: every tile goes through the whole chain on its own.

Shape legend: B images or windows, h w low resolution, H W output (scale times h, w).
"""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.device import is_out_of_memory, network_layout, plain_torch, release_memory
from sam_diffsr.diffusion import SAMPLERS, NoiseFn, NoiseSchedule, PositionNoise
from sam_diffsr.diffusion.process import image_to_residual, q_sample, residual_to_image
from sam_diffsr.errors import DeviceMemoryError, NumericalError, SamDiffsrError
from sam_diffsr.models import DiffSR, pad_to_fit
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.settings import Settings
from sam_diffsr.pipeline.tiles import SMALLEST_TILE, Tile, batch_size, divide
from sam_diffsr.progress import Progress
from sam_diffsr.resize import imresize

__all__ = ["sample", "sample_ensemble", "super_resolve"]

_LOGGER = logging.getLogger(__name__)

Estimate = Callable[[], Tensor]
"""Makes the current estimate of the windows, ``(B, 3, H, W)`` in [0, 1]."""
OnStep = Callable[[Estimate], None]
Chain = Callable[[Tensor, NoiseFn, OnStep], Tensor]
Place = tuple[int, Tile]
"""An image of the batch and one of its tiles."""


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
    output = torch.empty(
        (len(images), 3, *(scale * side for side in images.shape[-2:])),
        dtype=dtype,
        device=images.device,
        memory_format=torch.channels_last,  # so that 8-bit results become images without another copy
    )
    queue = _Queue(model, config, settings, images, progress)

    def on_step(estimate: Estimate) -> None:
        progress.step(lambda: _preview(images, output, queue, estimate(), scale=scale), count=queue.at_work)

    with plain_torch(device):
        padded = pad_to_fit(images, config.model)
        while queue.places:
            with queue.batch() as batch:  # after an error that can be mended it comes again
                lr = torch.cat([tile.cut(padded[index, None]) for index, tile in batch]).to(device)
                noise = PositionNoise(
                    [seeds[index] for index, _ in batch], [tile.origin(scale) for _, tile in batch]
                )
                chain: Chain = partial(sample, queue.model, config, schedule, settings)
                sr = (partial(sample_ensemble, chain) if settings.ensemble else chain)(lr, noise, on_step)
                if dtype == torch.uint8:
                    sr = sr.mul(255).add_(0.5).to(dtype)
                for window, (index, tile) in zip(sr, batch, strict=True):
                    tile.paste(window, output[index], scale=scale)
    return output


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

    # The condition, once per image.
    condition = model.encode(lr.to(dtype=dtype, memory_format=layout))
    sums = [condition.trunk.float().sum()]  # not finite if one number is not

    if sampling.steps == 0:
        image = model.encoder_image(condition).float()
        on_step(lambda: image)
    else:
        # The start: pure noise, or the residual of the encoder's image with noise added up to ``start``.
        lr_up = imresize(lr * (255 / config.normalization.lr_up_levels), scale) * 2 - 1
        x = noise(lr_up)
        if sampling.start is not None:
            encoded = model.encoder_image(condition).float() * 2 - 1
            x0 = image_to_residual(encoded, lr_up, residual_scale=stretch)
            t = torch.full((len(lr),), sampling.start, dtype=torch.int64, device=lr.device)
            x = q_sample(x0, t, x, schedule)

        # The loop.
        def denoise(xt: Tensor, t: Tensor) -> Tensor:
            eps = model(xt.to(dtype=dtype, memory_format=layout), t, condition).float()
            sums.append(eps.sum())
            return eps

        def to_image(x0: Tensor) -> Tensor:
            return residual_to_image(x0, lr_up, residual_scale=stretch).add_(1).div_(2).clamp_(0, 1)

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

    # One back-projection: the result reduced again is the input of a model of clean images, and has the
    # colours (the mean over 17 x 17 pixels) of a damaged one.
    if config.degradation is not None:
        difference = lr - imresize(image, 1 / scale)
        if config.degradation == "photo":
            padded = functional.pad(difference, (8, 8, 8, 8), mode="replicate")
            difference = functional.avg_pool2d(padded, 17, stride=1)
        image = (image + imresize(difference, scale)).clamp_(0, 1)
    return image


def sample_ensemble(chain: Chain, lr: Tensor, noise: NoiseFn, on_step: OnStep) -> Tensor:
    """Average the results of :func:`sample` for the eight turned and mirrored windows, turned back."""

    def result(quarters: int, mirrored: bool) -> Tensor:
        def forth(x: Tensor) -> Tensor:
            return (x.flip(-1) if mirrored else x).rot90(quarters, (-2, -1))

        def back(x: Tensor) -> Tensor:
            x = x.rot90(-quarters, (-2, -1))
            return x.flip(-1) if mirrored else x

        def turned_noise(like: Tensor) -> Tensor:  # that of the places before the turn, whatever the tiles
            return forth(noise(back(like)))

        return back(chain(forth(lr), turned_noise, lambda estimate: on_step(lambda: back(estimate()))))

    turns = itertools.product(range(4), (False, True))
    return sum((result(*turn) for turn in turns), start=lr.new_zeros(())) / 8


class _Queue:
    """Tiles of a batch of images that wait, and how to go on after an error."""

    def __init__(
        self, model: DiffSR, config: ResolverConfig, settings: Settings, images: Tensor, progress: Progress
    ) -> None:
        parameter = next(model.parameters())
        self._grid, tiles = divide(config, settings, *images.shape[-2:], parameter=parameter)
        self._together = batch_size(config, settings, tiles[0], parameter=parameter)
        self._steps, self._progress = settings.steps_per_tile, progress
        self.model = model
        self.places: list[Place] = [(index, tile) for index in range(len(images)) for tile in tiles]
        if len(tiles) > 1:
            size, device = tiles[0].window_size[::-1], parameter.device
            _LOGGER.info("%d tiles of %d x %d input pixels on %s", len(tiles), *size, device)

    @property
    def at_work(self) -> int:
        """Windows of the batch."""
        return min(self._together, len(self.places))

    @contextmanager
    def batch(self) -> Generator[list[Place]]:
        """Give the next windows, of one size; they leave the queue when the block ends without an error.

        NaN or infinity of a narrow type: float32 from here on. Out of memory: fewer windows at a time, then
        smaller ones; finished tiles stay.
        """
        done, waiting = self._progress.done, len(self.places)
        try:
            yield self.places[: self.at_work]
            del self.places[: self.at_work]
            return
        except NumericalError as error:
            if next(self.model.parameters()).dtype == torch.float32:
                raise
            warnings.warn(f"{error}; computing again in float32", RuntimeWarning, stacklevel=6)
            self.model = copy.deepcopy(self.model).float()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, SamDiffsrError) or not is_out_of_memory(error):
                raise
            self._divide_again(error)
        self._progress.rewind(done, more=(len(self.places) - waiting) * self._steps)

    def _divide_again(self, error: Exception) -> None:
        """Half as many windows at a time, or tiles of half the side if it was one window."""
        release_memory(next(self.model.parameters()).device)
        if self.at_work > 1:
            self._together = self.at_work // 2
            return
        rows, columns = self.places[0][1].rows, self.places[0][1].columns
        if max(rows[1] - rows[0], columns[1] - columns[0]) <= SMALLEST_TILE:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DeviceMemoryError(
                f"memory ran out even with the smallest tile ({reason}); use a smaller halo, close other "
                "programs, or use device='cpu'"
            ) from error
        self._together = 1
        self.places = [
            (index, part)
            for index, places in itertools.groupby(self.places, key=lambda place: place[0])
            for part in self._grid.quarters(tile for _, tile in places)
        ]
        size = self.places[0][1].window_size[::-1]
        _LOGGER.warning("out of memory; going on with tiles of %d x %d input pixels", *size)


def _preview(images: Tensor, output: Tensor, queue: _Queue, estimate: Tensor, *, scale: int) -> Tensor:
    """The images as far as they are: finished tiles, the estimate of the batch, and bicubic elsewhere."""
    shown = output / 255 if output.dtype == torch.uint8 else output.clone()
    bicubic = imresize(images, scale).clamp_(0, 1)
    for index, tile in queue.places:
        rows, columns = tile.area(scale)
        shown[index, :, rows, columns] = bicubic[index, :, rows, columns]
    for window, (index, tile) in zip(estimate, queue.places, strict=False):
        tile.paste(window, shown[index], scale=scale)
    return shown
