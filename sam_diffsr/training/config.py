"""Everything that a training run depends on, as frozen dataclasses; one table of the YAML file each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sam_diffsr.data.config import DataConfig
from sam_diffsr.diffusion.modulation import ModulationMode
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ConfigError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.config import SamplingConfig

__all__ = [
    "DiffusionConfig",
    "OptimizerConfig",
    "Precision",
    "RunConfig",
    "Tracker",
    "TrainConfig",
    "ValidationConfig",
]

Precision = Literal["fp32", "fp16", "bf16"]
Tracker = Literal["auto", "tensorboard", "jsonl", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Table ``optimizer``: what is minimised, and how."""

    name: Literal["adam", "adamw"] = "adam"
    """``adam`` adds the weight decay to the gradient, ``adamw`` shrinks the weights by it."""
    loss: Literal["l1", "l2", "charbonnier"] = "l1"
    """What stage 1 minimises; stage 2 always takes L1 on the noise."""
    weight_decay: float = 0.0
    """Strength of the pull of the weights towards zero."""
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
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optimizer.weight_decay must be >= 0, got {self.weight_decay}")
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
    """Where the trained encoder comes from: a run folder, a checkpoint, a model folder, a bundled name, or an
    RRDBNet file of the ESRGAN family (``.pth``, ``.safetensors``) with the sizes of ``model.encoder``."""
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
class ValidationConfig:
    """Table ``validation``: what the averaged weights are scored on; may differ on resume."""

    hr: str | None = None
    """Folder of high-resolution images that are not trained on; null validates nothing."""
    limit: int | None = None
    """Images to take, the first ones by name; null takes all."""
    crop: int | None = None
    """Side of the square cut from the middle of each image; null takes whole images."""
    pictures: int = 4
    """Images that are also shown: enlarged LR, bicubic, result, HR."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(sampler="ddim", steps=10))
    """How stage 2 samples; stage 1 is scored on the encoder's own image."""

    def __post_init__(self) -> None:
        for name in ("limit", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"validation.{name} must be >= 1 or null, got {value}")
        if self.pictures < 0:
            raise ConfigError(f"validation.pictures must be >= 0, got {self.pictures}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Table ``run``: how long, where, how often.

    All but seed, start, averaging and precision may differ on resume.
    """

    steps: int = 400_000
    """Optimizer steps of the whole run."""
    seed: int = 0
    """Chooses initial weights, data order, windows, turns, time steps and noise."""
    start: Literal["passthrough", "random"] = "passthrough"
    """Fresh weights: the encoder begins as bilinear enlargement and the denoiser as the identity, which short
    runs gain a lot from; or at random, as published."""
    init: str | None = None
    """Trained weights to begin with instead of fresh ones: a run folder, a checkpoint, a model folder, a
    bundled name or a Hub id. Only weights are taken; step, moments and rate begin anew."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights, which are what is validated and exported."""
    precision: Precision = "fp32"
    """Arithmetic of the networks; weights and moments stay float32. fp16 needs CUDA and scales the loss."""
    accumulate: int = 1
    """Parts that a batch is worked off in, one after the other; needs less memory and changes no result."""
    channels_last: bool = False
    """Memory order of the networks; True is faster on CPUs and on tensor cores."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""
    tracker: Tracker = "auto"
    """Where numbers and pictures go beside ``log.jsonl``, which is always written: TensorBoard's files and
    ``samples/*.png`` (``auto`` if it is installed, ``tensorboard``), pictures alone (``jsonl``), nothing
    (``none``)."""
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
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep", "validate_every"):
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
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """What it is scored on meanwhile."""

    def __post_init__(self) -> None:
        if self.data.patch % self.model.scale:
            raise ConfigError(
                f"data.patch must be a multiple of model.scale {self.model.scale}, got {self.data.patch}"
            )
        if self.data.batch % self.run.accumulate:
            raise ConfigError(
                f"data.batch must be a multiple of run.accumulate {self.run.accumulate}, got "
                f"{self.data.batch}"
            )
