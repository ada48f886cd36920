"""Content of ``config.json``: networks, diffusion process, normalisation, default sampling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sam_diffsr.config import check_choice, from_dict, to_dict
from sam_diffsr.diffusion.modulation import ModulationMode
from sam_diffsr.diffusion.samplers import SamplerName, Spacing
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ConfigError, ModelLoadError
from sam_diffsr.models.config import ModelConfig

__all__ = [
    "FORMAT_VERSION",
    "Degradation",
    "NormalizationConfig",
    "ResolverConfig",
    "SamplingConfig",
    "config_from_json",
    "config_to_json",
]

FORMAT_VERSION = 1
"""Version of the layout of ``config.json`` that this library writes, and the newest that it reads."""
_WRITER_KEY = "sam_diffsr_version"

Degradation = Literal["bicubic", "photo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalizationConfig:
    """How images and residuals are scaled (table ``normalization`` of config.json)."""

    residual_scale: float = 2.0
    """The residual ``hr - up(lr)`` of [-1, 1] images is multiplied by this before it is clipped."""
    lr_up_levels: Literal[255, 256] = 255
    """Divisor of the 8-bit input of the bicubic ``up`` in training; 256 in the published weights."""

    def __post_init__(self) -> None:
        if not 0 < self.residual_scale < float("inf"):
            raise ConfigError(f"normalization.residual_scale must be > 0, got {self.residual_scale}")
        if self.lr_up_levels not in (255, 256):
            raise ConfigError(f"normalization.lr_up_levels must be 255 or 256, got {self.lr_up_levels}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Defaults of ``upscale`` (table ``sampling`` of config.json)."""

    sampler: SamplerName
    """Name of the sampler."""
    steps: int
    """Number of denoising steps, at most ``start + 1``; 0 is the encoder's image alone."""
    start: int | None = None
    """Timestep to start from with the encoder's own image plus noise; None is pure noise at T - 1."""
    spacing: Spacing = "linspace"
    """Choice of the timesteps that the steps visit."""

    def __post_init__(self) -> None:
        check_choice(self.spacing, Spacing, what="sampling.spacing")
        check_choice(self.sampler, SamplerName, what="sampling.sampler")
        if self.steps < 0:
            raise ConfigError(f"sampling.steps must be >= 0, got {self.steps}")
        if self.start is not None and self.start < 0:
            raise ConfigError(f"sampling.start must be >= 0 or null, got {self.start}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolverConfig:
    """Everything but the weights; the content of ``config.json``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The networks."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The forward process."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """Scaling of images and residuals."""
    modulation: ModulationMode = "released"
    """Way in which structure entered the noise in training; sampling does not depend on it."""
    degradation: Degradation | None = None
    """Damage that the model was trained to undo. ``bicubic``: results are held to the input by one
    back-projection. ``photo``: only their colours are. None: unknown, or the published procedure."""
    halo: int = 64
    """Output pixels around a tile that its result is computed from as well."""
    bytes_per_pixel: int | None = None
    """Peak memory of the networks per output pixel of a window; None to estimate it from their sizes."""
    sampling: SamplingConfig
    """Defaults of ``upscale``; no default of its own, because the best choice belongs to the weights."""
    format_version: int = FORMAT_VERSION
    """Layout of the file."""

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"format_version must be {FORMAT_VERSION}, got {self.format_version}")
        check_choice(self.modulation, ModulationMode, what="modulation")
        if self.degradation is not None:
            check_choice(self.degradation, Degradation, what="degradation")
        if self.halo < 0:
            raise ConfigError(f"halo must be >= 0, got {self.halo}")
        if self.bytes_per_pixel is not None and self.bytes_per_pixel < 1:
            raise ConfigError(f"bytes_per_pixel must be null or >= 1, got {self.bytes_per_pixel}")
        timesteps, sampling = self.schedule.timesteps, self.sampling
        first = timesteps - 1 if sampling.start is None else sampling.start
        if first >= timesteps:
            raise ConfigError(
                f"sampling.start must be below schedule.timesteps ({timesteps}), got {sampling.start}"
            )
        if sampling.steps > first + 1:
            raise ConfigError(
                f"sampling.steps must be at most {first + 1} (the timesteps from {first} down to 0), "
                f"got {sampling.steps}"
            )


def config_to_json(config: ResolverConfig) -> str:
    """The text of ``config.json``, every field written out, and the library version that wrote it."""
    from sam_diffsr import __version__  # here, because the package root names this module's classes

    return json.dumps({**to_dict(config), _WRITER_KEY: __version__}, indent=2) + "\n"


def config_from_json(text: str | bytes, *, source: str) -> ResolverConfig:
    """Read the text that :func:`config_to_json` wrote.

    Args:
        text: the content of a ``config.json``.
        source: name of the file, for error messages.

    Raises:
        ModelLoadError: not JSON, not a config of this library, or written by a newer version of it.
        ConfigError: an unknown key, or a value of the wrong type or out of range.
    """
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise ModelLoadError(
            f"{source} is not valid JSON ({error}); download or save the model again"
        ) from error
    if not isinstance(data, Mapping) or "format_version" not in data:
        raise ModelLoadError(
            f"{source} is not a sam_diffsr config: expected a JSON object with a 'format_version'; "
            "a folder of this library is written by save_pretrained or `sam-diffsr convert`"
        )
    content = dict(cast("Mapping[str, Any]", data))
    writer = content.pop(_WRITER_KEY, "unknown")
    version = content["format_version"]
    if version is True or version != FORMAT_VERSION:
        raise ModelLoadError(
            f"{source} has format version {version!r}, written by sam_diffsr {writer}; this library reads "
            f"version {FORMAT_VERSION}: upgrade sam-diffsr"
        )
    return from_dict(ResolverConfig, content, where=source)
