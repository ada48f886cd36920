"""Where the denoiser's windows get their condition from, and the denoiser that works on windows.

Shape legend: B batch, h w low resolution, s scale, H W = s*h s*w.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sam_diffsr.models import Condition, DiffSR
from sam_diffsr.pipeline.device import network_layout
from sam_diffsr.pipeline.memory import is_out_of_memory, release_memory
from sam_diffsr.pipeline.planning import MemoryPlan
from sam_diffsr.pipeline.tiling import TileRunner

__all__ = ["ConditionSource", "TiledDenoiser", "condition_source", "encoder_estimate"]

_LOGGER = logging.getLogger(__name__)


class ConditionSource(Protocol):
    """Anything that gives the condition of a window; a :class:`Condition` itself does."""

    def window(self, rows: slice, columns: slice) -> Condition:
        """The condition of high-resolution rows and columns, on the networks' device."""
        ...


class _EncodedWindows:
    """Encodes every window when it is asked for; nothing is kept but the low-resolution image."""

    def __init__(self, model: DiffSR, lr: Tensor) -> None:
        self._model = model
        self._lr = lr
        self._parameter = next(model.parameters())

    def window(self, rows: slice, columns: slice) -> Condition:
        scale = self._model.config.scale
        top, bottom, left, right = (
            bound // scale for bound in (rows.start, rows.stop, columns.start, columns.stop)
        )
        return self._model.encode(_for_network(self._lr[:, :, top:bottom, left:right], self._parameter))


class _StoredCondition:
    """A projected condition, without the trunk, that is kept in any memory and moved window by window."""

    def __init__(self, projected: Tensor, *, scale: int, like: Tensor) -> None:
        self._scale = scale
        self._projected = projected
        self._parameter = like

    def window(self, rows: slice, columns: slice) -> Condition:
        projected = _for_network(self._projected[:, :, rows, columns], self._parameter)
        return Condition(projected=projected, trunk=projected[:, :0], scale=self._scale)


def condition_source(model: DiffSR, lr: Tensor, *, plan: MemoryPlan, runner: TileRunner) -> ConditionSource:
    """Encode a batch as the plan says, or in tiles if the whole of it does not fit after all.

    Args:
        model: in evaluation mode.
        lr: ``(B, 3, h, w)`` in [0, 1], padded, on any device.
        plan: what is kept where.
        runner: of the tiles.

    Raises:
        DeviceMemoryError: not even the smallest tile fits.
    """
    windows = _EncodedWindows(model, lr)
    if plan.condition == "recomputed":
        return windows
    scale, parameter = model.config.scale, next(model.parameters())
    if plan.condition == "whole":
        try:
            return windows.window(slice(0, lr.shape[-2] * scale), slice(0, lr.shape[-1] * scale))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory(parameter.device)
        _LOGGER.warning("out of memory on %s while encoding; going on in tiles", parameter.device)
    projected = runner.run(
        lambda rows, columns: windows.window(rows, columns).projected,
        device=plan.store,
        dtype=parameter.dtype,
    )
    return _StoredCondition(projected, scale=scale, like=parameter)


def encoder_estimate(
    model: DiffSR, lr: Tensor, *, source: ConditionSource, runner: TileRunner, device: torch.device
) -> Tensor:
    """The encoder's own image, from which a sampling can start.

    Args:
        model: in evaluation mode.
        lr: ``(B, 3, h, w)`` in [0, 1], padded, as it was given to :func:`condition_source`.
        source: what that returned; the image is encoded again if it did not keep the trunk.
        runner: of the tiles.
        device: where the result is wanted.

    Returns:
        ``(B, 3, H, W)`` float32 in [0, 1].

    Raises:
        DeviceMemoryError: not even the smallest tile fits.
    """
    windows = _EncodedWindows(model, lr) if isinstance(source, _StoredCondition) else source
    return runner.run(
        lambda rows, columns: model.encoder_image(windows.window(rows, columns)),
        device=device,
        dtype=torch.float32,
    )


class TiledDenoiser:
    """The model as a function ``(xt, t) -> eps`` of the whole canvas, evaluated in tiles.

    Args:
        model: in evaluation mode.
        source: of the condition of a window.
        runner: of the tiles.
        on_tile: called with the finished share of the evaluation, after every tile.
    """

    def __init__(
        self,
        model: DiffSR,
        source: ConditionSource,
        *,
        runner: TileRunner,
        on_tile: Callable[[float], None] | None = None,
    ) -> None:
        self._model = model
        self._source = source
        self._runner = runner
        self._on_tile = on_tile
        self._parameter = next(model.parameters())
        self._finite = torch.ones((), dtype=torch.bool, device=self._parameter.device)

    def __call__(self, xt: Tensor, t: Tensor) -> Tensor:
        """Predict the noise.

        Args:
            xt: ``(B, 3, H, W)`` float32, on any device.
            t: ``(B,)`` int64.

        Returns:
            ``(B, 3, H, W)`` float32 on the device of ``xt``.
        """
        t = t.to(self._parameter.device)

        def evaluate(rows: slice, columns: slice) -> Tensor:
            window = _for_network(xt[:, :, rows, columns], self._parameter)
            eps = self._model(window, t, self._source.window(rows, columns)).to(xt.dtype)
            self._finite &= torch.isfinite(eps).all()
            return eps

        eps = self._runner.run(evaluate, device=xt.device, dtype=xt.dtype, on_tile=self._on_tile)
        return eps.contiguous()

    @property
    def finite(self) -> bool:
        """Whether every prediction so far was finite; waits for the device.

        Samplers clip their estimate of x0, which would turn an infinity into a plausible number.
        """
        return bool(self._finite)


def _for_network(x: Tensor, parameter: Tensor) -> Tensor:
    """In the device and dtype of the networks, and in the memory layout in which they are fast."""
    moved = x.to(device=parameter.device, dtype=parameter.dtype)
    return moved.contiguous(memory_format=network_layout(parameter.device))
