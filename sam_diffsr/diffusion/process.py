"""The diffusion process in closed form (DDPM eq. 4, 6, 7 and 15) and the residual that it runs on.

Every function is pure; shapes that differ raise ``ArgumentError``. Images and residuals are ``(B, C, H, W)``
in [-1, 1], results too; ``t`` is ``(B,)`` int64, 0-based; ``alpha_bar`` is one number of
``NoiseSchedule.alpha_bars``. If a tensor and the schedule differ in dtype, the result has the wider one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.errors import ArgumentError


def q_sample(x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Jump from x0 to x_t: ``sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise`` (DDPM eq. 4).

    ``noise`` is standard normal; ``schedule`` is on the same device.

    Raises:
        ArgumentError: the shapes do not fit, or ``t`` is not int64 ``(B,)`` in 0..T-1.
    """
    check_batch(t, {"x0": x0, "noise": noise})
    signal = schedule.at(schedule.sqrt_alphas_cumprod, t)
    return signal * x0 + schedule.at(schedule.sqrt_one_minus_alphas_cumprod, t) * noise


def predict_x0(xt: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """Solve ``q_sample`` for x0, in the dtype of ``xt`` and not clipped, given the noise (DDPM eq. 15)."""
    _check_same_shape(xt=xt, eps=eps)
    return torch.sub(xt, eps.to(xt.dtype), alpha=math.sqrt(1 - alpha_bar)) / math.sqrt(alpha_bar)


def predict_eps(xt: Tensor, x0: Tensor, alpha_bar: float) -> Tensor:
    """Solve ``q_sample`` for the noise, given x0."""
    _check_same_shape(xt=xt, x0=x0)
    return torch.sub(xt, x0, alpha=math.sqrt(alpha_bar)) / math.sqrt(1 - alpha_bar)


def q_posterior(x0: Tensor, xt: Tensor, alpha_bar: float, alpha_bar_next: float) -> tuple[Tensor, float]:
    """Mean and variance of ``q(x_s | x_t, x_0)`` for any earlier timestep s (DDPM eq. 6 and 7).

    ``alpha_bar`` is that of t, and ``alpha_bar_next`` that of s, which is larger; 1 stands for the clean
    residual, whose variance is 0.
    """
    _check_same_shape(x0=x0, xt=xt)
    alpha = alpha_bar / alpha_bar_next
    weight_x0 = (1 - alpha) * math.sqrt(alpha_bar_next) / (1 - alpha_bar)
    weight_xt = (1 - alpha_bar_next) * math.sqrt(alpha) / (1 - alpha_bar)
    variance = (1 - alpha) * (1 - alpha_bar_next) / (1 - alpha_bar)
    return torch.add(weight_x0 * x0, xt, alpha=weight_xt), variance


def image_to_residual(hr: Tensor, lr_up: Tensor, *, residual_scale: float) -> Tensor:
    """The residual x0 that the diffusion models: ``clip((hr - lr_up) * residual_scale, -1, 1)``.

    ``lr_up`` is the bicubic enlargement of the LR image, which may overshoot [-1, 1].

    Raises:
        ArgumentError: the shapes differ or ``residual_scale`` is not positive.
    """
    _check_residual(residual_scale, hr=hr, lr_up=lr_up)
    return ((hr - lr_up) * residual_scale).clamp(-1, 1)


def residual_to_image(x0: Tensor, lr_up: Tensor, *, residual_scale: float) -> Tensor:
    """Add a residual back: ``clip(x0, -1, 1) / residual_scale + lr_up``. The image is not clipped.

    Raises:
        ArgumentError: the shapes differ or ``residual_scale`` is not positive.
    """
    _check_residual(residual_scale, x0=x0, lr_up=lr_up)
    return x0.clamp(-1, 1) / residual_scale + lr_up


def check_batch(t: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Raise ``ArgumentError`` unless all tensors have one shape ``(B, C, H, W)`` and ``t`` has B entries."""
    _check_same_shape(**tensors)
    name, first = next(iter(tensors.items()))
    if first.ndim != 4 or t.shape != first.shape[:1]:
        raise ArgumentError(
            f"{name} must be (B, C, H, W) and t (B,), one timestep for each image; "
            f"got {tuple(first.shape)} and {tuple(t.shape)}"
        )


def _check_residual(residual_scale: float, **tensors: Tensor) -> None:
    _check_same_shape(**tensors)
    if not residual_scale > 0:
        raise ArgumentError(f"residual_scale must be > 0, got {residual_scale}")


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ArgumentError(f"{' and '.join(shapes)} must have the same shape, got {listed}")
