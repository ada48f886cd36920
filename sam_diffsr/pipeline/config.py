"""Content of ``config.json``: networks, diffusion process, normalisation, default sampling."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sam_diffsr.config import check_fields, from_dict, to_dict
from sam_diffsr.diffusion.modulation import ModulationMode
from sam_diffsr.diffusion.samplers import SamplerName, Spacing
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ConfigError, ModelLoadError
from sam_diffsr.models.config import ModelConfig

FORMAT_VERSION = 1
"""Version of the layout of ``config.json`` that this library writes, and the newest that it reads."""
_WRITER_KEY = "sam_diffsr_version"

Degradation = Literal["bicubic", "photo"]

COLOUR_REACH = 8
"""LR pixels on every side over which the colours of a result of a ``photo`` model are held to the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalizationConfig:
    """How images and residuals are scaled (table ``normalization`` of config.json)."""

    residual_scale: float = 2.0
    """The residual ``hr - up(lr)`` of [-1, 1] images is multiplied by this before it is clipped."""
    lr_up_levels: Literal[255, 256] = 255
    """Divisor of the 8-bit input of the bicubic ``up`` in training; 256 in the published weights."""

    def __post_init__(self) -> None:
        check_fields(self, "normalization.", {"residual_scale": "(0, inf)"})


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
    encoder_share: float = 0.0
    """Share of the encoder's own image in the result, from 0 to 1."""

    def __post_init__(self) -> None:
        check_fields(self, "sampling.", {"steps": "[0, inf)", "start": "[0, inf)", "encoder_share": "[0, 1]"})


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
    """Damage that the model was trained to undo. ``bicubic``: results are held to the input by
    back-projections. ``photo``: only their colours are. None: unknown, or the published procedure."""
    halo: int = 64
    """Output pixels around a tile that the networks see as well; see ``lr_halo``."""
    bytes_per_pixel: int | None = None
    """Peak memory of the networks per output pixel of a window; None to estimate it from their sizes."""
    sampling: SamplingConfig
    """Defaults of ``upscale``; no default of its own, because the best choice belongs to the weights."""
    format_version: int = FORMAT_VERSION
    """Layout of the file."""

    @property
    def lr_halo(self) -> int:
        """LR pixels around a tile that its result depends on: what the networks and the colours reach."""
        reach = COLOUR_REACH if self.degradation == "photo" else 0
        return -(-self.halo // self.model.scale) + reach

    def __post_init__(self) -> None:
        check_fields(self, "", {"halo": "[0, inf)", "bytes_per_pixel": "[1, inf)"})
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"format_version must be {FORMAT_VERSION}, got {self.format_version}")
        timesteps, start = self.schedule.timesteps, self.sampling.start
        if start is not None and start >= timesteps:
            raise ConfigError(f"sampling.start must be below schedule.timesteps ({timesteps}), got {start}")
        most = timesteps if start is None else start + 1
        if self.sampling.steps > most:
            raise ConfigError(
                f"sampling.steps must be at most {most} (the timesteps from {most - 1} down to 0), "
                f"got {self.sampling.steps}"
            )


def config_to_json(config: ResolverConfig) -> str:
    """The text of ``config.json``, every field written out, and the library version that wrote it."""
    from sam_diffsr import __version__  # here, because the package root names this module's classes

    return json.dumps({**to_dict(config), _WRITER_KEY: __version__}, indent=2) + "\n"


def config_from_json(text: str | bytes, *, source: str) -> ResolverConfig:
    """Read the text that :func:`config_to_json` wrote; ``source`` names the file in error messages.

    Raises:
        ModelLoadError: not JSON, not a config of this library, or written by a newer version of it.
        ConfigError: an unknown key, or a value of the wrong type or out of range.
    """
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        text = f"{source} is not valid JSON ({error}); download or save the model again"
        raise ModelLoadError(text) from error
    if not isinstance(data, dict) or "format_version" not in data:
        raise ModelLoadError(
            f"{source} is not a sam_diffsr config: expected a JSON object with a 'format_version'; "
            "a folder of this library is written by save_pretrained or `sam-diffsr convert`"
        )
    content = cast("dict[str, Any]", data)
    writer, version = content.pop(_WRITER_KEY, "unknown"), content["format_version"]
    if version is True or version != FORMAT_VERSION:
        raise ModelLoadError(
            f"{source} has format version {version!r}, written by sam_diffsr {writer}; this library reads "
            f"version {FORMAT_VERSION}: upgrade sam-diffsr"
        )
    return from_dict(ResolverConfig, content, where=source)
