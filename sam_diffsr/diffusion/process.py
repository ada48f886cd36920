"""The diffusion process in closed form (DDPM eq. 4, 6, 7 and 15) and the residual it runs on.

Everything is a pure function of tensors. Images and residuals are ``(B, C, H, W)`` in [-1, 1]; ``t`` is
``(B,)`` int64, 0-based. Where a tensor and the schedule differ in dtype, the result has the wider one.
"""

from __future__ import annotations

from torch import Tensor

from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.errors import ArgumentError

__all__ = [
    "image_to_residual",
    "predict_eps",
    "predict_x0",
    "q_posterior",
    "q_sample",
    "residual_to_image",
]


def q_sample(x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Jump from x0 to x_t: ``sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise``.

    Args:
        x0: ``(B, C, H, W)`` clean residual in [-1, 1].
        t: ``(B,)`` int64 timesteps in 0..T-1.
        noise: like ``x0``, standard normal.
        schedule: where the coefficients come from, on the same device.

    Returns:
        x_t, like ``x0``.

    Raises:
        ArgumentError: the shapes do not fit, or ``t`` is not int64 ``(B,)`` in range.
    """
    check_batch(t, x0=x0, noise=noise)
    signal = schedule.at(schedule.sqrt_alphas_cumprod, t)
    return signal * x0 + schedule.at(schedule.sqrt_one_minus_alphas_cumprod, t) * noise


def predict_x0(xt: Tensor, t: Tensor, eps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Solve ``q_sample`` for x0, given the noise. The result is not clipped.

    Raises:
        ArgumentError: as in ``q_sample``.
    """
    check_batch(t, xt=xt, eps=eps)
    noise = schedule.at(schedule.sqrt_one_minus_alphas_cumprod, t) * eps
    return (xt - noise) / schedule.at(schedule.sqrt_alphas_cumprod, t)


def predict_eps(xt: Tensor, t: Tensor, x0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Solve ``q_sample`` for the noise, given x0.

    Raises:
        ArgumentError: as in ``q_sample``.
    """
    check_batch(t, xt=xt, x0=x0)
    signal = schedule.at(schedule.sqrt_alphas_cumprod, t) * x0
    return (xt - signal) / schedule.at(schedule.sqrt_one_minus_alphas_cumprod, t)


def q_posterior(x0: Tensor, xt: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of ``q(x_{t-1} | x_t, x_0)`` (DDPM eq. 6 and 7).

    Args:
        x0: ``(B, C, H, W)`` clean residual, or an estimate of it.
        xt: like ``x0``.
        t: ``(B,)`` int64 timesteps in 0..T-1.
        schedule: where the coefficients come from, on the same device.

    Returns:
        The mean, like ``x0``, and the log-variance ``(B, 1, 1, 1)``, which is log(1e-20) at t = 0.

    Raises:
        ArgumentError: as in ``q_sample``.
    """
    check_batch(t, x0=x0, xt=xt)
    mean = schedule.at(schedule.posterior_mean_coef_x0, t) * x0
    mean = mean + schedule.at(schedule.posterior_mean_coef_xt, t) * xt
    return mean, schedule.at(schedule.posterior_log_variance, t)


def image_to_residual(hr: Tensor, lr_up: Tensor, *, residual_scale: float) -> Tensor:
    """What the diffusion models: ``clip((hr - lr_up) * residual_scale, -1, 1)``.

    Args:
        hr: ``(B, C, H, W)`` image in [-1, 1].
        lr_up: like ``hr``, the bicubic enlargement of the LR image; may overshoot [-1, 1].
        residual_scale: by how much the small residual is stretched, > 0.

    Returns:
        x0 in [-1, 1], like ``hr``.

    Raises:
        ArgumentError: the shapes differ or ``residual_scale`` is not positive.
    """
    _check_residual(residual_scale, hr=hr, lr_up=lr_up)
    return ((hr - lr_up) * residual_scale).clamp(-1, 1)


def residual_to_image(x0: Tensor, lr_up: Tensor, *, residual_scale: float) -> Tensor:
    """Add a residual back: ``clip(x0, -1, 1) / residual_scale + lr_up``.

    Args:
        x0: ``(B, C, H, W)`` residual; clipped to [-1, 1].
        lr_up: like ``x0``, the same enlargement that the residual was taken from.
        residual_scale: as in ``image_to_residual``.

    Returns:
        The image, not clipped: it can leave [-1, 1] as far as ``lr_up`` and the residual take it.

    Raises:
        ArgumentError: as in ``image_to_residual``.
    """
    _check_residual(residual_scale, x0=x0, lr_up=lr_up)
    return x0.clamp(-1, 1) / residual_scale + lr_up


def check_batch(t: Tensor, **tensors: Tensor) -> None:
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
