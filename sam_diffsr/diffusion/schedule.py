"""Noise schedules: the betas and the tables that follow from them (DDPM eq. 4 to 7).

Timesteps are 0-based: ``t = 0`` is the least noisy of the T steps, ``t = T - 1`` is almost pure noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sam_diffsr.config import check_fields
from sam_diffsr.errors import ArgumentError, ConfigError

ScheduleName = Literal["cosine", "linear", "quad", "const", "jsd", "warmup10", "warmup50"]
Table = NDArray[np.float64]

BETA_START = 1e-4
BETA_END = 2e-2
BETA_MAX = 0.999
COSINE_OFFSET = 0.008


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """The forward process; table ``schedule`` of config.json."""

    timesteps: int = 100
    """Number of training steps T, at least 1; t runs over 0..T-1."""

    name: ScheduleName = "cosine"
    """Shape of the betas: ``cosine`` (the published models), ``linear`` (its last beta is 0.999), ``quad``,
    ``const``, ``jsd`` (1/T, 1/(T-1), ...), ``warmup10`` or ``warmup50``. With ``quad``, ``const`` and the
    warm-ups much of the signal is left after 100 steps: they want about 1000."""

    def __post_init__(self) -> None:
        if isinstance(self.timesteps, bool) or not isinstance(self.timesteps, int) or self.timesteps < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"schedule.timesteps must be a whole number >= 1, got {self.timesteps!r}")
        check_fields(self, "schedule.", {})

    @classmethod
    def of_betas(cls, betas: Table) -> ScheduleConfig | None:
        """The schedule that has these variances ``(T,)``, if it is one of ours."""
        every = (cls(timesteps=len(betas), name=name) for name in get_args(ScheduleName))
        return next((each for each in every if np.allclose(each.betas(), betas, rtol=0, atol=1e-5)), None)

    def betas(self) -> Table:
        """Variances of the forward steps, ``(T,)`` float64."""
        steps = self.timesteps
        if self.name == "cosine":
            # The published weights were trained with the curve at linspace(0, S, S), not at 0..S.
            points = steps + 1
            position = np.linspace(0, points, points) / points
            curve = np.cos((position + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
            return np.clip(1 - curve[1:] / curve[:-1], 0, BETA_MAX)
        if self.name == "linear":
            betas = np.linspace(BETA_START, BETA_END, steps)
            betas[-1] = BETA_MAX  # 100 small steps leave a signal behind; the last one takes it away
            return betas
        if self.name == "quad":
            return np.linspace(math.sqrt(BETA_START), math.sqrt(BETA_END), steps) ** 2
        if self.name == "jsd":
            # The last one is clipped, because x0 cannot be recovered where alpha_bar is zero.
            return np.minimum(1 / np.arange(steps, 0, -1), BETA_MAX)
        rising = {"const": 0, "warmup10": int(steps * 0.1), "warmup50": int(steps * 0.5)}[self.name]
        betas = np.full(steps, BETA_END)
        betas[:rising] = np.linspace(BETA_START, BETA_END, rising)
        return betas


class NoiseSchedule(nn.Module):
    """Tables of the forward process, each of shape ``(T,)``.

    They are derived in float64 from the config and kept as non-persistent buffers of ``dtype``: they move
    with ``.to(device)`` and are never part of a checkpoint.
    """

    betas: Tensor
    """Variance of one forward step."""
    alphas: Tensor
    """``1 - beta_t``."""
    alphas_cumprod: Tensor
    """``alpha_bar_t``: share of the signal's power that is left."""
    sqrt_alphas_cumprod: Tensor
    """Factor of x0 in x_t."""
    sqrt_one_minus_alphas_cumprod: Tensor
    """Factor of the noise in x_t."""
    structure_shift: Tensor
    """``phi_t``: sum that a unit of structure has added to x_t (mode ``paper``)."""
    structure_target: Tensor
    """``sqrt(1 - alpha_bar_t) / sqrt(beta_t)``, its weight in the network's target (mode ``paper``)."""
    structure_noise: Tensor
    """``k_t = sqrt(1 - alpha_bar_t) beta_t``, its weight in the noise (mode ``released``)."""

    def __init__(self, config: ScheduleConfig, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        betas = torch.from_numpy(config.betas())
        alphas = 1 - betas
        alpha_bars = alphas.cumprod(0)
        shifts = [betas.new_zeros(())]
        for alpha, beta in zip(alphas, betas, strict=True):
            shifts.append(alpha.sqrt() * shifts[-1] + beta.sqrt())
        tables = {
            "betas": betas,
            "alphas": alphas,
            "alphas_cumprod": alpha_bars,
            "sqrt_alphas_cumprod": alpha_bars.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - alpha_bars).sqrt(),
            "structure_shift": torch.stack(shifts[1:]),
            "structure_target": (1 - alpha_bars).sqrt() / betas.sqrt(),
            "structure_noise": (1 - alpha_bars).sqrt() * betas,
        }
        self.alpha_bars = tuple(float(value) for value in alpha_bars)
        """``alphas_cumprod`` as Python floats, which the host reads without waiting for the device."""
        for name, table in tables.items():
            self.register_buffer(name, table.to(dtype), persistent=False)

    @classmethod
    def from_config(cls, config: ScheduleConfig, *, dtype: torch.dtype = torch.float32) -> NoiseSchedule:
        """Build the tables that ``config`` describes, on the CPU."""
        return cls(config, dtype=dtype)

    @property
    def timesteps(self) -> int:
        """Number of training steps T."""
        return self.config.timesteps

    def at(self, table: Tensor, t: Tensor) -> Tensor:
        """Look up one of this schedule's tables at ``t`` ``(B,)`` int64 in 0..T-1, as ``(B, 1, 1, 1)``.

        Raises:
            ArgumentError: ``t`` has another rank or dtype; on the CPU also if a value is out of range.
        """
        if t.dtype != torch.int64 or t.ndim != 1:
            raise ArgumentError(
                "t must be int64 of shape (B,), one timestep for each image; "
                f"got {t.dtype} of shape {tuple(t.shape)}"
            )
        # On other devices looking at the values would make the host wait.
        if t.device.type == "cpu" and bool(((t < 0) | (t >= self.timesteps)).any()):
            raise ArgumentError(f"t must lie in 0..{self.timesteps - 1}, got {t.tolist()}")
        return table.index_select(0, t).view(-1, 1, 1, 1)

    def extra_repr(self) -> str:
        """Show what the tables were made from."""
        return f"name={self.config.name!r}, timesteps={self.config.timesteps}"
