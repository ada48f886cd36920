"""Everything that a training run depends on, as frozen dataclasses read from one YAML file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from sam_diffsr.config import from_dict
from sam_diffsr.data.config import DataConfig
from sam_diffsr.diffusion.modulation import ModulationMode
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ConfigError, MissingDependencyError
from sam_diffsr.models import ModelConfig

__all__ = ["DataConfig", "DiffusionConfig", "OptimizerConfig", "RunConfig", "TrainConfig", "load_config"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Table ``optimizer``: Adam and its learning rate."""

    lr: float = 2e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's two moments."""
    schedule: Literal["halving", "cosine", "constant"] = "halving"
    """How the rate falls after the warm-up."""
    halve_every: int = 200_000
    """Steps between halvings (schedule ``halving``)."""
    final_fraction: float = 0.01
    """Last rate as a fraction of ``lr`` (schedule ``cosine``)."""
    warmup_steps: int = 0
    """Steps of linear increase from nothing."""
    clip: float = 10.0
    """Largest norm of the whole gradient."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"optimizer.lr and optimizer.clip must be > 0, got {self.lr} and {self.clip}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas must lie in [0, 1), got {self.betas}")
        if self.halve_every < 1 or self.warmup_steps < 0:
            raise ConfigError(
                "optimizer.halve_every must be >= 1 and optimizer.warmup_steps >= 0, got "
                f"{self.halve_every} and {self.warmup_steps}"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"optimizer.final_fraction must lie in [0, 1], got {self.final_fraction}")

    def rate(self, step: int, *, steps: int) -> float:
        """Learning rate of a step (0-based) of a run of ``steps``; a pure function, so nothing to restore."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "halving":
            return warm * self.lr * 0.5 ** (step // self.halve_every)
        if self.schedule == "cosine":
            done = min(1.0, max(0, step - self.warmup_steps) / max(1, steps - self.warmup_steps))
            wave = 0.5 * (1 + math.cos(math.pi * done))
            return warm * self.lr * (self.final_fraction + (1 - self.final_fraction) * wave)
        return warm * self.lr


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig:
    """Table ``diffusion``: the forward process of stage 2; stage 1 does not look at it."""

    encoder: str | None = None
    """Where the trained encoder comes from: a stage-1 run folder or one of its checkpoints."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Noise schedule."""
    modulation: ModulationMode = "released"
    """How the structure field enters the noise; ``none`` is plain residual diffusion."""
    residual_scale: float = 2.0
    """What the residual is multiplied by before it is clipped to [-1, 1]."""
    lr_up_levels: Literal[255, 256] = 255
    """What the 8-bit LR is divided by before it is enlarged; 256 is the published code's choice."""

    def __post_init__(self) -> None:
        if not self.residual_scale > 0:
            raise ConfigError(f"diffusion.residual_scale must be > 0, got {self.residual_scale}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Table ``run``: how long, where, how often; may differ on resume, except seed, EMA and precision."""

    steps: int = 400_000
    """Optimizer steps of the whole run."""
    seed: int = 0
    """Chooses initial weights, data order, windows, turns, time steps and noise."""
    start: Literal["passthrough", "random"] = "passthrough"
    """Fresh weights: the encoder begins as bilinear enlargement and the denoiser as the identity, which short
    runs gain a lot from; or at random, as published."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights, which are what is validated and exported."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the networks; weights and moments stay float32."""
    channels_last: bool = False
    """Memory order of the networks; True is faster on CPUs and on tensor cores."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""
    log_every: int = 100
    """Steps between lines of the log."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; a killed run loses at most these."""
    keep: int = 3
    """Checkpoints that stay on disk."""
    validate_every: int = 5000
    """Steps between validations of the averaged weights, when there is something to validate with."""
    max_seconds: float | None = None
    """Save and stop after this long, to be resumed; None runs to the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"run.ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.seed < 0:
            raise ConfigError(f"run.seed must be >= 0, got {self.seed}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ConfigError(f"run.max_seconds must be > 0 or null, got {self.max_seconds}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"run.threads must be >= 1 or null, got {self.threads}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole run."""

    data: DataConfig
    """What it sees."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What it trains."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How it is trained."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """The process that the denoiser learns to reverse."""
    run: RunConfig = field(default_factory=RunConfig)
    """How long, where, how often."""

    def __post_init__(self) -> None:
        if self.data.patch % self.model.scale:
            raise ConfigError(
                f"data.patch must be a multiple of model.scale {self.model.scale}, got {self.data.patch}"
            )


def load_config(path: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply ``a.b=value`` overrides, whose values are YAML too.

    Raises:
        ConfigError: the file cannot be read, is not a YAML mapping, an override has no ``=``, or a key or
            value is wrong.
        MissingDependencyError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("reading YAML needs PyYAML: pip install 'sam-diffsr[train]'") from error
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    tree = _mapping(data, str(path))
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"an override must look like section.key=value, got {override!r}")
        *sections, key = dotted.split(".")
        node = tree
        for section in sections:
            node[section] = _mapping(node.get(section, {}), dotted)
            node = node[section]
        try:
            node[key] = _number(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of override {override!r} is not valid YAML: {error}") from error
    return from_dict(TrainConfig, _numbers(tree), where=str(path))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {type(value).__name__}")
    return dict(cast("Mapping[str, Any]", value))


def _numbers(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _numbers(cast("dict[str, Any]", value)) if isinstance(value, dict) else _number(value)
        for key, value in tree.items()
    }


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``2e-4`` as text; people write it as a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
