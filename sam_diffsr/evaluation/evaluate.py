"""Quality on a folder of high-resolution images: bicubic, the encoder alone, and the model at its settings.

The low-resolution image is MATLAB's bicubic, rounded to 8 bit; results are rounded to 8 bit before they are
compared, as saved files would be. A table holds means of per-image values.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sam_diffsr.config import to_dict
from sam_diffsr.diffusion.samplers import SamplerName, Spacing
from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation.environment import describe_machine, describe_versions
from sam_diffsr.evaluation.metrics import psnr_y, ssim_y
from sam_diffsr.evaluation.report import text_table
from sam_diffsr.image import decode_image
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.prepare import pad_to_multiple, resolve_sampling
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.resize import imresize

__all__ = [
    "Evaluation",
    "ImageScore",
    "Protocol",
    "Row",
    "encoder_only",
    "evaluate_images",
    "make_pair",
    "sampling_grid",
]

logger = logging.getLogger(__name__)

Protocol = Literal["matlab", "paper"]
"""``matlab`` leaves out a border as wide as the scale, ``paper`` leaves out nothing."""
Upscaler = Callable[[Tensor], Tensor]
Start = int | Literal["noise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScore:
    """One result on one image."""

    name: str
    """File name."""
    psnr_y: float
    """dB."""
    ssim_y: float
    """At most 1."""
    seconds: float
    """Wall-clock time of the upscaling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method on all images."""

    method: Literal["bicubic", "encoder", "model"]
    """``encoder`` is the stage-1 network's own image, without diffusion."""
    sampling: SamplingConfig | None
    """Of the model; None for the others."""
    images: tuple[ImageScore, ...]
    """In the order of the files."""

    @property
    def psnr_y(self) -> float:
        """Mean over the images, dB."""
        return sum(score.psnr_y for score in self.images) / len(self.images)

    @property
    def ssim_y(self) -> float:
        """Mean over the images."""
        return sum(score.ssim_y for score in self.images) / len(self.images)

    @property
    def seconds(self) -> float:
        """Mean over the images."""
        return sum(score.seconds for score in self.images) / len(self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured, and how."""

    model: str
    """Where the model came from."""
    protocol: Protocol
    """Which pixels count."""
    scale: int
    """Upscaling factor."""
    border: int
    """Pixels left out on every side."""
    seed: int
    """Of every image's noise."""
    rows: tuple[Row, ...]
    """Bicubic, encoder, then the model's settings."""
    machine: dict[str, Any]
    """Device and threads."""
    versions: dict[str, str]
    """Software."""

    def table(self) -> str:
        """The rows as a text table that Markdown reads, too."""
        baseline = self.rows[0].psnr_y
        header = ["method", "steps", "start", "spacing", "PSNR-Y", "gain", "SSIM-Y", "s/image"]
        rows: list[list[str]] = []
        for row in self.rows:
            sampling = row.sampling
            name, steps, start, spacing = row.method, "", "", ""
            if sampling is not None:
                name, steps = sampling.sampler, str(sampling.steps)
                start = "noise" if sampling.start is None else str(sampling.start)
                spacing = sampling.spacing
            numbers = [f"{row.psnr_y:.3f}", f"{row.psnr_y - baseline:+.3f}", f"{row.ssim_y:.4f}"]
            rows.append([name, steps, start, spacing, *numbers, f"{row.seconds:.2f}"])
        return text_table(header, rows)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, with the means beside the per-image values."""
        data = to_dict(self)
        for entry, row in zip(data["rows"], self.rows, strict=True):
            entry |= {"psnr_y": row.psnr_y, "ssim_y": row.ssim_y, "seconds": row.seconds}
        return data


def sampling_grid(
    config: ResolverConfig,
    *,
    samplers: Sequence[SamplerName] | None = None,
    steps: Sequence[int] | None = None,
    starts: Sequence[Start] | None = None,
    spacings: Sequence[Spacing] | None = None,
) -> list[SamplingConfig]:
    """All combinations of samplers, steps, starts and spacings; what is not given is the model's default.

    A combination with more steps than there are timesteps from its start is left out, and said so in the log.

    Raises:
        ArgumentError: an unknown sampler, a start or steps out of range, or no combination is possible.
        ConfigError: an unknown spacing.
    """
    grid: list[SamplingConfig] = []
    for start in [None] if starts is None else starts:
        first = resolve_sampling(config, sampler=None, steps=1, start=start).start
        most = config.schedule.timesteps if first is None else first + 1
        for sampler in [None] if samplers is None else samplers:
            for count in [None] if steps is None else steps:
                if count is not None and most < count <= config.schedule.timesteps:
                    logger.info("left out: %d steps from start %s, which has only %d", count, start, most)
                    continue
                sampling = resolve_sampling(config, sampler=sampler, steps=count, start=start)
                for spacing in [sampling.spacing] if spacings is None else spacings:
                    setting = replace(sampling, spacing=spacing)
                    grid += [setting] if setting not in grid else []
    if not grid:
        raise ArgumentError("no combination of steps and start is possible; use fewer steps or a later start")
    return grid


def evaluate_images(
    resolver: SuperResolver,
    files: Sequence[str | os.PathLike[str]],
    *,
    model_name: str,
    settings: Sequence[SamplingConfig] | None = None,
    protocol: Protocol = "matlab",
    seed: int = 0,
) -> Evaluation:
    """Score bicubic, the encoder and the model on high-resolution images.

    Args:
        resolver: the model.
        files: high-resolution images of any size; cropped at the bottom and right to a multiple of the scale.
        model_name: what the result calls the model.
        settings: how the model samples, one row each, see :func:`sampling_grid`; None is its default.
        protocol: which pixels count.
        seed: of every image's noise.

    Raises:
        ArgumentError: unknown protocol, or no files.
        ImageError: an image cannot be read, or is too small to be scored.
    """
    if protocol not in get_args(Protocol):
        raise ArgumentError(f"protocol must be one of {', '.join(get_args(Protocol))}; got {protocol!r}")
    if not files:
        raise ArgumentError("there are no images to evaluate on; expected at least one file")
    scale = resolver.scale
    border = scale if protocol == "matlab" else 0
    chosen = [resolver.config.sampling] if settings is None else list(settings)

    rows: list[tuple[Row, Upscaler]] = [
        (Row(method="bicubic", sampling=None, images=()), lambda lr: imresize(lr, scale)),
        (Row(method="encoder", sampling=None, images=()), lambda lr: encoder_only(resolver, lr)),
        *((Row(method="model", sampling=one, images=()), _sampled(resolver, one, seed)) for one in chosen),
    ]
    scored: list[list[ImageScore]] = [[] for _ in rows]
    for file in files:
        hr, lr = make_pair(file, scale=scale, smallest=11 + 2 * border)
        for scores, (_, upscaler) in zip(scored, rows, strict=True):
            scores.append(_score(Path(file).name, hr, lr.to(resolver.device), upscaler, border=border))
        logger.info("%s: bicubic %.2f dB, model %.2f dB", file, scored[0][-1].psnr_y, scored[-1][-1].psnr_y)
    return Evaluation(
        model=model_name,
        protocol=protocol,
        scale=scale,
        border=border,
        seed=seed,
        rows=tuple(replace(row, images=tuple(scores)) for (row, _), scores in zip(rows, scored, strict=True)),
        machine=describe_machine(resolver.device),
        versions=describe_versions(),
    )


def make_pair(file: str | os.PathLike[str], *, scale: int, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """Ground truth and its bicubic reduction, both rounded to 8 bit.

    Args:
        file: high-resolution image.
        scale: factor of the reduction.
        smallest: least height and width of the cropped ground truth.

    Returns:
        ``hr`` ``(1, 3, s*h, s*w)`` and ``lr`` ``(1, 3, h, w)``, float32 in [0, 1] on the CPU.

    Raises:
        ImageError: it cannot be read or is too small.
    """
    image = _to_uint8(decode_image(Path(file)).rgb)
    height, width = (size // scale * scale for size in image.shape[-2:])
    if min(height, width) < max(smallest, scale):
        raise ImageError(
            f"{file} has {image.shape[-2]}x{image.shape[-1]} pixels; at least {max(smallest, scale)} of each "
            "are needed to score it"
        )
    hr = image[..., :height, :width]
    return hr.float() / 255, imresize(hr, 1 / scale).float() / 255


@torch.inference_mode()
def encoder_only(resolver: SuperResolver, lr: Tensor) -> Tensor:
    """The stage-1 network's own image, without diffusion.

    Args:
        resolver: the model.
        lr: ``(B, 3, h, w)`` float32 in [0, 1] on the resolver's device, any size.

    Returns:
        ``(B, 3, s*h, s*w)`` float32 in [0, 1].
    """
    height, width = (size * resolver.scale for size in lr.shape[-2:])
    condition = resolver.model.encode(pad_to_multiple(lr, resolver.config.model).to(resolver.dtype))
    return resolver.model.encoder_image(condition)[..., :height, :width].float()


def _sampled(resolver: SuperResolver, sampling: SamplingConfig, seed: int) -> Upscaler:
    """The model at one setting, which may differ from its default in anything."""
    other = copy.copy(resolver)
    other.config = replace(resolver.config, sampling=sampling)
    return lambda lr: other.upscale_tensor(lr, seeds=[seed])


def _score(name: str, hr: Tensor, lr: Tensor, upscaler: Upscaler, *, border: int) -> ImageScore:
    started = time.perf_counter()
    sr = _to_uint8(upscaler(lr)).cpu()  # the copy waits for the device
    seconds = time.perf_counter() - started
    truth = _to_uint8(hr)
    return ImageScore(
        name=name,
        psnr_y=psnr_y(sr, truth, border=border, data_range=255).item(),
        ssim_y=ssim_y(sr, truth, border=border, data_range=255).item(),
        seconds=seconds,
    )


def _to_uint8(image: Tensor) -> Tensor:
    return (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
