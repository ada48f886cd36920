"""Configuration of a training run: frozen dataclasses, one per table of the YAML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sam_diffsr.config import check_fields
from sam_diffsr.data.config import DataConfig
from sam_diffsr.diffusion.modulation import ModulationMode
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ConfigError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.config import SamplingConfig

_POSITIVE = "(0, inf)"
_NOT_NEGATIVE = "[0, inf)"
_COUNT = "[1, inf)"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Table ``optimizer``: loss, optimizer and learning rate."""

    name: Literal["adam", "adamw"] = "adam"
    """``adam`` adds the weight decay to the gradient, ``adamw`` decouples it."""
    loss: Literal["l1", "l2", "charbonnier"] = "l1"
    """Image loss of stage 1. Stage 2 always uses L1 on the noise."""
    weight_decay: float = 0.0
    """Weight decay."""
    lr: float = 2e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    schedule: Literal["halving", "cosine", "constant"] = "halving"
    """Learning rate after the warm-up."""
    halve_every: int = 200_000
    """Steps between halvings (schedule ``halving``)."""
    final_fraction: float = 0.01
    """Last learning rate as a fraction of ``lr`` (schedule ``cosine``)."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero."""
    clip: float = 10.0
    """Gradient clipping: largest norm of the whole gradient."""

    def __post_init__(self) -> None:
        limits = {"lr": _POSITIVE, "clip": _POSITIVE, "weight_decay": _NOT_NEGATIVE, "betas": "[0, 1)"}
        limits |= {"halve_every": _COUNT, "warmup_steps": _NOT_NEGATIVE, "final_fraction": "[0, 1]"}
        check_fields(self, "optimizer.", limits)

    def rate(self, step: int, *, steps: int) -> float:
        """Learning rate of a step (0-based) in a run of ``steps`` steps."""
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
    """Table ``diffusion``: the forward process of stage 2. Stage 1 ignores it."""

    encoder: str | None = None
    """Trained encoder: a run folder, a checkpoint, a model folder, a bundled name, a Hub id or an RRDBNet
    file of the ESRGAN family."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Noise schedule."""
    modulation: ModulationMode = "released"
    """How the structure field enters the noise; ``none`` is plain residual diffusion."""
    residual_scale: float = 2.0
    """Factor of the residual before it is clipped to [-1, 1]."""
    lr_up_levels: Literal[255, 256] = 255
    """Divisor of the 8-bit LR image before it is enlarged. The published code uses 256."""
    timestep_power: float = 1.0
    """Timesteps are drawn as ``T * u ** power`` with u uniform in [0, 1): 1 draws all equally often, 2 draws
    half of them from the first quarter, where sampling that starts near the encoder's image takes place."""
    encoder_starts: float = 0.0
    """Share of a batch that begins, as sampling does, at the encoder's image plus noise, up to t = 0.6 T; the
    loss of these rows is the L1 error of the predicted residual."""
    perceptual: float = 0.0
    """Weight of LPIPS in the loss of these rows, beside the L1 error of the residual; needs ``lpips``."""

    def __post_init__(self) -> None:
        limits = {"residual_scale": _POSITIVE, "timestep_power": "(0, 10]", "encoder_starts": "[0, 1]"}
        check_fields(self, "diffusion.", {**limits, "perceptual": _NOT_NEGATIVE})
        if self.perceptual > 0 and self.encoder_starts == 0:
            raise ConfigError("diffusion.perceptual needs diffusion.encoder_starts above 0, got 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """Table ``validation``: how the averaged weights are scored. May change on resume."""

    hr: str | None = None
    """Folder or data set of held-back high-resolution images; null turns validation off."""
    limit: int | None = None
    """Number of images, the first ones by name; null takes all."""
    crop: int | None = None
    """Side of a square cut from the middle of each image; null takes whole images."""
    pictures: int = 4
    """Number of images in the sample picture: enlarged LR, bicubic, result, HR."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(sampler="ddim", steps=10))
    """Sampler of stage 2. Stage 1 is scored on the encoder's own image."""

    def __post_init__(self) -> None:
        check_fields(self, "validation.", {"limit": _COUNT, "crop": _COUNT, "pictures": _NOT_NEGATIVE})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Table ``run``: length, device, intervals. Only seed, start, EMA and precision are fixed on resume."""

    steps: int = 400_000
    """Optimizer steps of the whole run."""
    seed: int = 0
    """Seed of initial weights, data order, crops, flips, timesteps and noise."""
    start: Literal["passthrough", "random"] = "passthrough"
    """Fresh weights. ``passthrough``: the encoder starts as bilinear enlargement and the denoiser as the
    identity, which helps short runs a lot. ``random``: as published."""
    init: str | None = None
    """Trained weights to start from: a run folder, a checkpoint, a model folder, a bundled name or a Hub id.
    Only weights are taken; step, moments and learning rate start from zero."""
    ema_decay: float = 0.999
    """Decay per step of the averaged weights, which are validated and exported."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the networks. Weights and moments stay float32. fp16 needs CUDA and scales the loss."""
    accumulate: int = 1
    """Number of micro-batches that a batch is split into: less memory, same result."""
    channels_last: bool = False
    """Use channels-last memory format, which is faster on CPUs and on tensor cores."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``."""
    threads: int | None = None
    """CPU threads; null keeps torch's default."""
    workers: int | None = None
    """Processes that make the batches of one GPU; 0 makes them in a thread. null is 0 without CUDA; with it
    the GPUs share out the CPU cores, less one each, at most 16. Where processes are not forked, a program
    that calls ``train`` needs ``if __name__ == "__main__"``."""
    tracker: str = "auto"
    """Tracker of numbers and pictures, in addition to ``log.jsonl`` and ``samples/*.png``: a name that
    accelerate knows (``tensorboard``, ``wandb``, ``mlflow``, ...). ``auto`` is TensorBoard if it is
    installed, ``jsonl`` is no tracker, ``none`` also writes no pictures."""
    log_every: int = 100
    """Steps between lines of the log."""
    checkpoint_every: int = 1000
    """Steps between checkpoints. A killed run loses at most this many."""
    keep: int = 3
    """Number of checkpoints kept on disk."""
    validate_every: int = 5000
    """Steps between validations."""
    max_seconds: float | None = None
    """Save and stop after this time; null runs to the end."""

    def __post_init__(self) -> None:
        intervals = ("log_every", "checkpoint_every", "validate_every")
        counts = dict.fromkeys(("steps", "accumulate", "keep", "threads", *intervals), _COUNT)
        limits = {"seed": f"[0, {2**63})", "ema_decay": "[0, 1)", "workers": _NOT_NEGATIVE}
        check_fields(self, "run.", {"max_seconds": "(0, inf]", **limits, **counts})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Configuration of a whole run; one field per table."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    run: RunConfig = field(default_factory=RunConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        scale, parts = self.model.scale, self.run.accumulate
        if self.data.patch % scale:
            raise ConfigError(f"data.patch must be a multiple of model.scale {scale}, got {self.data.patch}")
        if self.data.batch % parts:
            raise ConfigError(
                f"data.batch must be a multiple of run.accumulate {parts}, got {self.data.batch}"
            )
