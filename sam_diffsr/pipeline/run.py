"""From low-resolution images to super-resolved ones: every tile goes through the whole chain on its own.

Shape legend: B images or windows, h w low resolution, H W output (scale times h, w).
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.device import network_layout, plain_torch
from sam_diffsr.diffusion import (
    SAMPLERS,
    NoiseFn,
    NoiseSchedule,
    PositionNoise,
    image_to_residual,
    q_sample,
    residual_to_image,
)
from sam_diffsr.errors import DeviceMemoryError, NumericalError, SamDiffsrError
from sam_diffsr.models import DiffSR, ModelConfig
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.memory import (
    SMALLEST_TILE,
    batch_size,
    is_out_of_memory,
    release_memory,
    tile_side,
)
from sam_diffsr.pipeline.progress import Progress
from sam_diffsr.pipeline.settings import Settings
from sam_diffsr.pipeline.tiles import Tile, TileGrid
from sam_diffsr.resize import imresize

__all__ = ["divide", "pad_to_multiple", "sample", "sample_ensemble", "super_resolve"]

_LOGGER = logging.getLogger(__name__)

Estimate = Callable[[], Tensor]
"""Makes the current estimate of the windows, ``(B, 3, H, W)`` in [0, 1]."""


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
    """Super-resolve images of equal size, tile by tile.

    Args:
        model: networks in evaluation mode; their device and dtype are those of the computation.
        config: sizes and normalisation of the model.
        schedule: tables of ``config.schedule``, on the model's device.
        images: ``(B, 3, h, w)`` float32 in [0, 1], on any device, h, w >= 1.
        seeds: one per image.
        settings: the resolved settings.
        progress: counts the steps and may cancel the work.
        dtype: float32 for a result in [0, 1], or uint8 for one in 0..255, rounded half up.

    Returns:
        ``(B, 3, H, W)`` on the device of ``images``.

    Raises:
        NumericalError: the networks produced NaN or infinity, in float32 too.
        DeviceMemoryError: memory is too small even for the smallest tile.
        CancelledError: the callback cancelled the work.
    """
    scale, device = config.model.scale, next(model.parameters()).device
    grid, tiles = divide(model, config, images.shape[-2], images.shape[-1], settings)
    output = torch.empty(
        (len(images), 3, *(scale * side for side in images.shape[-2:])),
        dtype=dtype,
        device=images.device,
        memory_format=torch.channels_last,  # so that 8-bit results become images without another copy
    )
    if len(tiles) > 1:
        _LOGGER.info(
            "%d tiles of %d x %d input pixels on %s", len(tiles), *tiles[0].window_size[::-1], device
        )
    pending = [(index, tile) for index in range(len(images)) for tile in tiles]
    finished: list[tuple[int, Tile]] = []
    together = settings.batch_size or batch_size(
        config, tiles[0], max_memory=settings.max_memory, parameter=next(model.parameters())
    )
    chain = sample_ensemble if settings.ensemble else sample

    batch: list[tuple[int, Tile]] = []

    def on_step(estimate: Estimate) -> None:
        progress.step(
            lambda: _preview(images, output, finished, batch, estimate(), scale=scale), count=len(batch)
        )

    with plain_torch(device):
        padded = pad_to_multiple(images, config.model)
        while pending:
            batch, done = pending[:together], progress.done
            lr = torch.cat([tile.cut(padded[index : index + 1]) for index, tile in batch]).to(device)
            noise = PositionNoise(
                [seeds[index] for index, _ in batch], [tile.origin(scale) for _, tile in batch]
            )

            try:
                sr = chain(model, config, schedule, lr, noise, settings, on_step)
            except NumericalError as error:  # the same windows, and all after them, in float32
                model = _widen(model, error)
                progress.rewind(done)
                continue
            except (RuntimeError, MemoryError) as error:
                # Out of memory: fewer windows at a time, then smaller ones; finished tiles stay.
                release_memory(device)
                progress.rewind(done)
                progress.expect(-len(pending) * settings.steps_per_tile)
                pending, together = _divide_again(pending, together, grid, error)
                progress.expect(len(pending) * settings.steps_per_tile)
                continue

            for window, (index, tile) in zip(sr, batch, strict=True):
                tile.paste(_to_dtype(window, dtype), output[index], scale=scale)
            finished += batch
            del pending[:together]
    return output


def sample(
    model: DiffSR,
    config: ResolverConfig,
    schedule: NoiseSchedule,
    lr: Tensor,
    noise: NoiseFn,
    settings: Settings,
    on_step: Callable[[Estimate], None],
) -> Tensor:
    """Take a batch of windows through the whole chain: condition, start, sampler, image, consistency.

    Args:
        model: as for :func:`super_resolve`.
        config: as for :func:`super_resolve`.
        schedule: as for :func:`super_resolve`.
        lr: ``(B, 3, h, w)`` float32 in [0, 1] on the model's device, of a size that the networks accept.
        noise: source of the noise, called once for the start and between the steps of an ancestral sampler.
        settings: the resolved settings.
        on_step: called after every step.

    Returns:
        ``(B, 3, H, W)`` float32 in [0, 1].

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

        x0 = SAMPLERS[sampling.sampler](
            denoise,
            x,
            schedule,
            steps=sampling.steps,
            noise=noise,
            start=sampling.start,
            spacing=sampling.spacing,
            callback=lambda step, total, x0: on_step(lambda: to_image(x0)),
        )
        image = to_image(x0)

    if not bool(torch.stack(sums).isfinite().all()):
        name = str(dtype).removeprefix("torch.")
        raise NumericalError(f"the networks produced NaN or infinity in {name}; check the weights")

    # One back-projection, so that the result reduced again is the input, or has its colours.
    if settings.consistency is not None:
        difference = lr - imresize(image, 1 / scale)
        if settings.consistency == "colours":
            difference = _local_mean(difference)
        image = (image + imresize(difference, scale)).clamp_(0, 1)
    return image


def _local_mean(x: Tensor) -> Tensor:
    """Mean over 17 x 17 pixels, which noise and compression hardly change."""
    radius = 8
    padded = functional.pad(x, (radius, radius, radius, radius), mode="replicate")
    return functional.avg_pool2d(padded, 2 * radius + 1, stride=1)


def sample_ensemble(
    model: DiffSR,
    config: ResolverConfig,
    schedule: NoiseSchedule,
    lr: Tensor,
    noise: NoiseFn,
    settings: Settings,
    on_step: Callable[[Estimate], None],
) -> Tensor:
    """Average the results of :func:`sample` for the eight turned and mirrored windows, turned back."""
    total = torch.zeros((), dtype=torch.float32, device=lr.device)
    for quarters, mirrored in itertools.product(range(4), (False, True)):
        turn = _Turn(quarters, mirrored)
        sr = sample(
            model,
            config,
            schedule,
            turn.forth(lr),
            partial(turn.noise, noise),
            settings,
            partial(turn.report, on_step),
        )
        total = total + turn.back(sr)
    return total / 8


@dataclass(frozen=True, slots=True)
class _Turn:
    """One of the eight symmetries of a square."""

    quarters: int
    mirrored: bool

    def forth(self, x: Tensor) -> Tensor:
        return (x.flip(-1) if self.mirrored else x).rot90(self.quarters, (-2, -1))

    def back(self, x: Tensor) -> Tensor:
        x = x.rot90(-self.quarters, (-2, -1))
        return x.flip(-1) if self.mirrored else x

    def noise(self, noise: NoiseFn, like: Tensor) -> Tensor:
        """Noise of the places of the image as it lay before the turn, so that tiles change nothing."""
        return self.forth(noise(self.back(like)))

    def report(self, on_step: Callable[[Estimate], None], estimate: Estimate) -> None:
        on_step(lambda: self.back(estimate()))


def divide(
    model: DiffSR, config: ResolverConfig, height: int, width: int, settings: Settings
) -> tuple[TileGrid, list[Tile]]:
    """Divide an image of a size into tiles.

    Args:
        model: networks on the device of the computation.
        config: sizes of the model.
        height: rows of the image in LR pixels.
        width: columns of the image in LR pixels.
        settings: the resolved settings.

    Raises:
        DeviceMemoryError: ``settings.max_memory`` is too small for the smallest tile.
    """
    height, width = _padded_size(height, width, config.model)
    grid = TileGrid(
        height=height,
        width=width,
        halo=settings.halo,
        multiple=config.model.lr_multiple,
        minimum=config.model.lr_minimum,
    )
    side = settings.tile
    if side is None:
        side = tile_side(config, grid, max_memory=settings.max_memory, parameter=next(model.parameters()))
    return grid, grid.tiles(side)


def pad_to_multiple(images: Tensor, model: ModelConfig) -> Tensor:
    """Pad at the bottom and on the right to a size that the networks accept.

    The padding is a reflection as far as that goes, then the last pixel repeated.

    Args:
        images: ``(B, C, h, w)`` with h, w >= 1.
        model: sizes of the networks.
    """
    height, width = _padded_size(images.shape[-2], images.shape[-1], model)
    for mode in ("reflect", "replicate"):
        down, across = height - images.shape[-2], width - images.shape[-1]
        if mode == "reflect":
            down, across = min(down, images.shape[-2] - 1), min(across, images.shape[-1] - 1)
        if down or across:
            images = functional.pad(images, (0, across, 0, down), mode=mode)
    return images


def _padded_size(height: int, width: int, model: ModelConfig) -> tuple[int, int]:
    multiple, minimum = model.lr_multiple, model.lr_minimum
    return (
        max(math.ceil(height / multiple) * multiple, minimum),
        max(math.ceil(width / multiple) * multiple, minimum),
    )


def _divide_again(
    pending: list[tuple[int, Tile]], together: int, grid: TileGrid, error: Exception
) -> tuple[list[tuple[int, Tile]], int]:
    """After an error: half as many windows at a time, or tiles of half the side if it was one window.

    Raises:
        DeviceMemoryError: the tiles are the smallest already.
        Exception: the error itself, if memory was not the reason.
    """
    if isinstance(error, SamDiffsrError) or not is_out_of_memory(error):
        raise error
    if together > 1:
        return pending, together // 2
    rows, columns = pending[0][1].rows, pending[0][1].columns
    if max(rows[1] - rows[0], columns[1] - columns[0]) <= SMALLEST_TILE:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeviceMemoryError(
            f"memory ran out even with the smallest tile ({reason}); use a smaller halo, close other "
            "programs, or use device='cpu'"
        ) from error
    smaller: list[tuple[int, Tile]] = []
    for index in sorted({index for index, _ in pending}):
        parts = grid.quarters([tile for owner, tile in pending if owner == index])
        smaller += [(index, part) for part in parts]
    size = smaller[0][1].window_size
    _LOGGER.warning("out of memory; going on with tiles of %d x %d input pixels", *size[::-1])
    return smaller, 1


def _preview(
    images: Tensor,
    output: Tensor,
    finished: Sequence[tuple[int, Tile]],
    batch: Sequence[tuple[int, Tile]],
    estimate: Tensor,
    *,
    scale: int,
) -> Tensor:
    """The images as far as they are: finished tiles, the estimate of the batch, and bicubic elsewhere."""
    shown = imresize(images, scale).clamp_(0, 1)
    for index, tile in finished:
        rows, columns = tile.area(scale)
        done = output[index, :, rows, columns]
        shown[index, :, rows, columns] = done if done.is_floating_point() else done / 255
    for window, (index, tile) in zip(estimate, batch, strict=True):
        tile.paste(window, shown[index], scale=scale)
    return shown


def _widen(model: DiffSR, error: NumericalError) -> DiffSR:
    """Copy the networks to float32; raise the error if that is what they have."""
    if next(model.parameters()).dtype == torch.float32:
        raise error
    warnings.warn(f"{error}; computing again in float32", RuntimeWarning, stacklevel=5)
    return copy.deepcopy(model).float()


def _to_dtype(window: Tensor, dtype: torch.dtype) -> Tensor:
    return window if dtype == torch.float32 else window.mul(255).add_(0.5).to(dtype)
