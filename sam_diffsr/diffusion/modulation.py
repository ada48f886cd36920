"""Structural noise modulation (the paper's forward process): the noise of each region gets its own mean.

``structure`` is the field E that structural position encoding makes from the regions of an image. Only
training uses it: sampling is the plain reverse process.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sam_diffsr.config import check_choice
from sam_diffsr.diffusion.process import check_batch, q_sample
from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.errors import ArgumentError

ModulationMode = Literal["paper", "released", "none"]


def modulate(
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    structure: Tensor | None,
    schedule: NoiseSchedule,
    *,
    mode: ModulationMode = "released",
) -> tuple[Tensor, Tensor]:
    r"""Make one training pair: the noisy residual and what the network must predict from it.

    With :math:`\bar\alpha_t` and :math:`\beta_t` of ``schedule``, noise :math:`\epsilon` and structure E:

    * ``"paper"``: :math:`x_t = \sqrt{\bar\alpha_t} x_0 + \varphi_t E + \sqrt{1-\bar\alpha_t}\,\epsilon` with
      :math:`\varphi_t = \sqrt{\alpha_t}\,\varphi_{t-1} + \sqrt{\beta_t}`; the target is
      :math:`\epsilon + \sqrt{1-\bar\alpha_t}/\sqrt{\beta_t}\,E`.
    * ``"released"``, what the published weights were trained with:
      :math:`\epsilon' = \epsilon + \sqrt{1-\bar\alpha_t}\,\beta_t E` takes the place of :math:`\epsilon` in
      ``q_sample`` and is the target.
    * ``"none"``: ``q_sample`` and the noise itself (SRDiff); ``structure`` is ignored.

    With E = 0 all three are identical. No argument is changed in place.

    Args:
        x0: ``(B, C, H, W)`` clean residual in [-1, 1].
        t: ``(B,)`` int64 timesteps in 0..T-1.
        noise: standard normal, same shape as ``x0``.
        structure: ``(B, 1, H, W)``; may be None with ``"none"``.
        schedule: source of the coefficients, on the same device.
        mode: one of the three above.

    Returns:
        ``(xt, target)``, both of the shape of ``x0``.

    Raises:
        ArgumentError: unknown mode, structure missing, shapes that do not fit, or ``t`` out of range.
    """
    check_choice(mode, ModulationMode, what="mode", error=ArgumentError)
    check_batch(t, {"x0": x0, "noise": noise})
    if mode == "none":
        return q_sample(x0, t, noise, schedule), noise
    if structure is None:
        raise ArgumentError(
            f"mode {mode!r} needs a structure of shape (B, 1, H, W); only mode 'none' goes without"
        )
    expected = (x0.shape[0], 1, *x0.shape[2:])
    if tuple(structure.shape) != expected:
        raise ArgumentError(
            f"structure must be (B, 1, H, W) = {expected} to fit x0, got {tuple(structure.shape)}"
        )
    if mode == "released":
        target = noise + schedule.at(schedule.structure_noise, t) * structure
        return q_sample(x0, t, target, schedule), target
    xt = q_sample(x0, t, noise, schedule) + schedule.at(schedule.structure_shift, t) * structure
    return xt, noise + schedule.at(schedule.structure_target, t) * structure
