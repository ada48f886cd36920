"""The ways to an enlarged image that are compared: bicubic, an encoder alone, a model, files of anyone."""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sam_diffsr.diffusion.samplers import SamplerName, Spacing
from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation.pairs import Pair, read_image
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.run import pad_to_multiple
from sam_diffsr.pipeline.settings import resolve_settings
from sam_diffsr.resize import imresize

__all__ = [
    "Method",
    "MethodKind",
    "Start",
    "bicubic_method",
    "encoder_only",
    "model_methods",
    "results_method",
    "sampling_grid",
]

logger = logging.getLogger(__name__)

MethodKind = Literal["bicubic", "encoder", "model", "images"]
"""``encoder`` is the stage-1 network's own image, without diffusion; ``images`` are files made elsewhere."""
Start = int | Literal["noise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One row of a table."""

    kind: MethodKind
    """What it is."""
    name: str = ""
    """Of the model or of the folder."""
    sampling: SamplingConfig | None = None
    """Of a model; None for the others."""
    enlarge: Callable[[Pair, int], Tensor]
    """Pair and seed to ``(1, 3, H, W)``, float in [0, 1] or uint8, on any device."""

    @property
    def label(self) -> str:
        """One line that tells it from the others."""
        return method_label(self.kind, self.name, self.sampling)

    @property
    def folder_name(self) -> str:
        """The label as a name of a folder."""
        return re.sub(r"[^\w.-]+", "_", self.label).strip("._") or "unnamed"


def method_label(kind: MethodKind, name: str, sampling: SamplingConfig | None) -> str:
    """How a method is called in tables and pages."""
    parts = [name] if name else []
    if kind in ("bicubic", "encoder"):
        parts.append(kind)
    if sampling is not None:
        start = "" if sampling.start is None else f" from t={sampling.start}"
        plural = "" if sampling.steps == 1 else "s"
        parts.append(f"{sampling.sampler} {sampling.steps} step{plural}{start}")
        parts += [sampling.spacing] if sampling.spacing == "trailing" else []
    return ", ".join(parts)


def bicubic_method(scale: int) -> Method:
    """MATLAB's bicubic enlargement, which everything is measured against."""
    return Method(kind="bicubic", enlarge=lambda pair, seed: imresize(pair.lr.float() / 255, scale))


def model_methods(
    resolver: SuperResolver, *, name: str, settings: Sequence[SamplingConfig] | None = None
) -> list[Method]:
    """The encoder alone, then the model at each setting.

    Args:
        resolver: the model.
        name: what results call it.
        settings: how it samples, one method each, see :func:`sampling_grid`; None is its default.
    """

    def encoder(pair: Pair, seed: int) -> Tensor:
        return encoder_only(resolver, _input(pair, resolver))

    def sampled(sampling: SamplingConfig) -> Callable[[Pair, int], Tensor]:
        other = copy.copy(resolver)  # at one setting, which may differ from its default in anything
        other.config = replace(resolver.config, sampling=sampling)
        return lambda pair, seed: other.upscale_tensor(_input(pair, resolver), seeds=[seed])

    chosen = [resolver.config.sampling] if settings is None else settings
    return [
        Method(kind="encoder", name=name, enlarge=encoder),
        *(Method(kind="model", name=name, sampling=one, enlarge=sampled(one)) for one in chosen),
    ]


def results_method(
    hr_files: Sequence[str | os.PathLike[str]], results: Sequence[str | os.PathLike[str]], *, name: str
) -> Method:
    """Files that somebody else wrote.

    Args:
        hr_files: ground truths; no two of them have one file name.
        results: one file a truth, of its size or of that of the cropped truth, which are cropped alike.
        name: what the table calls them.
    """
    by_name = {Path(hr).name: Path(result) for hr, result in zip(hr_files, results, strict=True)}

    def enlarge(pair: Pair, seed: int) -> Tensor:
        image = read_image(by_name[pair.name])
        height, width = pair.hr.shape[-2:]
        if tuple(image.shape[-2:]) not in (pair.full_size, (height, width)):
            raise ImageError(
                f"{by_name[pair.name]} has {image.shape[-2]}x{image.shape[-1]} pixels; expected "
                f"{height}x{width} as {pair.name}"
            )
        return image[..., :height, :width].contiguous()

    return Method(kind="images", name=name, enlarge=enlarge)


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


def sampling_grid(
    config: ResolverConfig,
    *,
    samplers: Sequence[SamplerName] | None = None,
    steps: Sequence[int] | None = None,
    starts: Sequence[Start] | None = None,
    fidelities: Sequence[float] | None = None,
    spacings: Sequence[Spacing] | None = None,
) -> list[SamplingConfig]:
    """All combinations of samplers, steps, starts or fidelities, and spacings.

    What is not given is the model's default or, with a fidelity, what that stands for.

    A combination with more steps than there are timesteps from its start is left out, and said so in the log.

    Raises:
        ArgumentError: an unknown sampler; a start, fidelity or steps out of range; starts and fidelities;
            or no combination is possible.
        ConfigError: an unknown spacing.
    """
    grid: list[SamplingConfig] = []
    places = product([None] if starts is None else starts, [None] if fidelities is None else fidelities)
    for start, fidelity in places:
        first = resolve_settings(config, start=start, fidelity=fidelity, steps=1).sampling.start
        most = config.schedule.timesteps if first is None else first + 1
        for sampler in [None] if samplers is None else samplers:
            for count in [None] if steps is None else steps:
                if count is not None and most < count <= config.schedule.timesteps:
                    logger.info("left out: %d steps from start %s, which has only %d", count, first, most)
                    continue
                sampling = resolve_settings(
                    config, sampler=sampler, steps=count, start=start, fidelity=fidelity
                ).sampling
                for spacing in [sampling.spacing] if spacings is None else spacings:
                    setting = replace(sampling, spacing=spacing)
                    grid += [setting] if setting not in grid else []
    if not grid:
        raise ArgumentError("no combination of steps and start is possible; use fewer steps or a later start")
    return grid


def _input(pair: Pair, resolver: SuperResolver) -> Tensor:
    return (pair.lr.float() / 255).to(resolver.device)
