"""Arguments of ``upscale`` turned into what the sampling needs, and padding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.diffusion.samplers import SamplerName
from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.fidelity import sampling_of_fidelity

__all__ = [
    "PaddedInput",
    "check_tensor",
    "pad_to_multiple",
    "padded_size",
    "resolve_halo",
    "resolve_limit",
    "resolve_sampling",
    "resolve_seeds",
    "resolve_tile",
]


def resolve_sampling(
    config: ResolverConfig,
    *,
    sampler: SamplerName | None,
    steps: int | None,
    start: int | Literal["noise"] | None,
    fidelity: float | None = None,
) -> SamplingConfig:
    """Fill what was not given from what a fidelity stands for or, without one, the model's own defaults.

    The default number of steps is cut to what a given ``start`` leaves room for.

    Raises:
        ArgumentError: an unknown sampler, a number of steps or a start outside of the schedule, a fidelity
            outside of [0, 1], or a start beside a fidelity, which is a start.
    """
    default, timesteps = config.sampling, config.schedule.timesteps
    if fidelity is not None:
        if start is not None:
            raise ArgumentError(
                f"fidelity {fidelity!r} chooses where sampling starts, and so does start {start!r}; give one"
            )
        default = sampling_of_fidelity(fidelity, timesteps=timesteps)
    sampler = default.sampler if sampler is None else sampler
    if sampler not in get_args(SamplerName):
        raise ArgumentError(f"sampler must be one of {', '.join(get_args(SamplerName))}; got {sampler!r}")
    first = default.start if start is None else (None if start == "noise" else start)
    if first is not None and not (_is_integer(first) and 0 <= first < timesteps):
        raise ArgumentError(
            f"start must be 'noise' or a timestep from 0 to {timesteps - 1}, got {start!r}; "
            "small values stay close to the encoder's image"
        )
    most = timesteps if first is None else first + 1
    steps = min(default.steps, most) if steps is None else steps
    if not (_is_integer(steps) and 1 <= steps <= most):
        raise ArgumentError(
            f"steps must be a whole number from 1 to {most} (the timesteps that there are from the start), "
            f"got {steps!r}"
        )
    return dataclasses.replace(
        default, sampler=sampler, steps=int(steps), start=None if first is None else int(first)
    )


def resolve_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed an image: ``seed``, ``seed + 1``, ... or the given ones.

    Raises:
        ArgumentError: not integers, negative, or another number of seeds than of images.
    """
    if isinstance(seed, Sequence):
        seeds = list(seed)
    else:
        seeds = [seed + index for index in range(count)] if _is_integer(seed) else [seed] * count
    if len(seeds) != count:
        raise ArgumentError(f"seed must be one integer or {count} of them, one an image; got {len(seeds)}")
    if not all(_is_integer(value) and 0 <= value < 2**63 for value in seeds):
        raise ArgumentError(f"seeds must be integers from 0 to 2**63 - 1, got {seeds}")
    return [int(value) for value in seeds]


def resolve_tile(tile: int | Literal["auto"], scale: int) -> int | None:
    """Tile side in output pixels; None to choose.

    Raises:
        ArgumentError: neither "auto" nor an integer >= 0.
    """
    if tile == "auto":
        return None
    if not _is_integer(tile) or tile < 0:
        raise ArgumentError(
            f"tile must be 'auto', 0 (no tiles) or a side in pixels of the input image, got {tile!r}"
        )
    return int(tile) * scale


def resolve_halo(tile_overlap: int | None, *, scale: int) -> int | None:
    """Halo in output pixels; None for the defaults.

    Raises:
        ArgumentError: neither None nor an integer >= 0.
    """
    if tile_overlap is None:
        return None
    if not _is_integer(tile_overlap) or tile_overlap < 0:
        raise ArgumentError(
            f"tile_overlap must be None or a number >= 0 of pixels of the input image, got {tile_overlap!r}"
        )
    return int(tile_overlap) * scale


def resolve_limit(max_memory: int | None) -> int | None:
    """Bytes that the computation may take; None for what is free.

    Raises:
        ArgumentError: neither None nor an integer >= 1.
    """
    if max_memory is None:
        return None
    if not _is_integer(max_memory) or max_memory < 1:
        raise ArgumentError(f"max_memory must be None or a number of bytes >= 1, got {max_memory!r}")
    return int(max_memory)


def padded_size(height: int, width: int, model: ModelConfig) -> tuple[int, int]:
    """The next low-resolution size that the networks accept."""
    multiple, minimum = model.lr_multiple, model.lr_minimum
    return (
        max(math.ceil(height / multiple) * multiple, minimum),
        max(math.ceil(width / multiple) * multiple, minimum),
    )


def pad_to_multiple(lr: Tensor, model: ModelConfig) -> Tensor:
    """Pad at the bottom and on the right: by reflection as far as it goes, then by repeating the last pixel.

    Args:
        lr: ``(B, C, h, w)`` with h, w >= 1.
        model: whose multiple and minimum are met.
    """
    height, width = padded_size(lr.shape[-2], lr.shape[-1], model)
    for mode in ("reflect", "replicate"):
        down, across = height - lr.shape[-2], width - lr.shape[-1]
        if mode == "reflect":
            down, across = min(down, lr.shape[-2] - 1), min(across, lr.shape[-1] - 1)
        lr = functional.pad(lr, (0, across, 0, down), mode=mode)
    return lr


class PaddedInput:
    """A batch as :func:`pad_to_multiple` gives it, of which only windows are made.

    Args:
        lr: ``(B, C, h, w)`` with h, w >= 1.
        model: whose multiple and minimum are met.
    """

    def __init__(self, lr: Tensor, model: ModelConfig) -> None:
        self._lr = lr
        self.height, self.width = padded_size(lr.shape[-2], lr.shape[-1], model)
        """With the padding."""

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Rows and columns of the padded batch, cut at its borders; a view where nothing is padded."""
        lr = self._lr
        top, bottom, left, right = max(top, 0), min(bottom, self.height), max(left, 0), min(right, self.width)
        if bottom <= lr.shape[-2] and right <= lr.shape[-1]:
            return lr[:, :, top:bottom, left:right]
        rows = _source(top, bottom, lr.shape[-2]).to(lr.device)
        columns = _source(left, right, lr.shape[-1]).to(lr.device)
        return lr[:, :, rows[:, None], columns]


def _source(start: int, stop: int, length: int) -> Tensor:
    """Which pixels of an axis the padded ones repeat: back from the last to the first, then that one."""
    pixels = torch.arange(start, stop)
    return torch.where(pixels < length, pixels, (2 * (length - 1) - pixels).clamp(min=0))


def check_tensor(lr: Tensor, *, seeds: Sequence[int], device: torch.device) -> None:
    """Enforce the contract of ``upscale_tensor``.

    Raises:
        ImageError: wrong rank, channels, dtype or device, no image or no pixel, a value that is not in
            [0, 1] or not finite, or another number of seeds than of images.
    """
    if lr.ndim != 4 or lr.shape[1] != 3 or 0 in lr.shape:
        raise ImageError(f"expected a tensor (B, 3, H, W) with B, H, W >= 1, got shape {tuple(lr.shape)}")
    if lr.dtype != torch.float32:
        raise ImageError(f"expected float32 in [0, 1], got {lr.dtype}; convert it (8-bit: lr.float() / 255)")
    if lr.device != device:
        raise ImageError(
            f"expected a tensor on {device}, got one on {lr.device}; move it with lr.to({str(device)!r})"
        )
    if len(seeds) != lr.shape[0]:
        raise ImageError(f"expected one seed an image, {lr.shape[0]} in all, got {len(seeds)}")
    low, high = (float(bound) for bound in lr.aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ImageError(f"expected values in [0, 1], got {low:.4g} to {high:.4g}; scale or clamp them")


def _is_integer(value: object) -> bool:
    """Whether it counts: a Python or NumPy integer, but neither a float nor a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
