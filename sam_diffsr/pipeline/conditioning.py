"""Where the denoiser's windows get their condition from, and the denoiser that works on windows.

Shape legend: B batch, h w low resolution, s scale, H W = s*h s*w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from sam_diffsr.models import Condition, DiffSR, Features
from sam_diffsr.models.diffsr import low_resolution_bounds
from sam_diffsr.pipeline.device import network_layout
from sam_diffsr.pipeline.planning import Halos, MemoryPlan
from sam_diffsr.pipeline.prepare import PaddedInput
from sam_diffsr.pipeline.sweep import Sweep
from sam_diffsr.pipeline.tiling import TileRunner

__all__ = ["ConditionSource", "TiledDenoiser", "condition_source", "encoder_estimate"]


class ConditionSource(Protocol):
    """Where the denoiser's windows get their condition from."""

    def window(self, rows: slice, columns: slice) -> Condition:
        """The condition of high-resolution rows and columns, on the networks' device."""
        ...

    def image(self, rows: slice, columns: slice) -> Tensor:
        """The encoder's own image of these rows and columns, in [0, 1]."""
        ...

    def prepare(self, stop: int) -> None:
        """Make ready what windows down to a high-resolution row need.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        ...

    def release(self, row: int) -> None:
        """Forget what only windows that end above a high-resolution row need."""
        ...


class _EncodedWindows:
    """Encodes every window when it is asked for; nothing is kept but the low-resolution image.

    Args:
        model: in evaluation mode.
        lr: in [0, 1], on any device.
        margin: output pixels that are encoded around a window, inside of the image.
    """

    def __init__(self, model: DiffSR, lr: PaddedInput, *, margin: int = 0) -> None:
        self._model = model
        self._lr = lr
        self._margin = margin // model.config.scale
        self._parameter = next(model.parameters())

    def features(self, rows: slice, columns: slice) -> Features:
        top, bottom, left, right = low_resolution_bounds(rows, columns, scale=self._model.config.scale)
        upper, lefter = max(top - self._margin, 0), max(left - self._margin, 0)
        lr = self._lr.window(upper, bottom + self._margin, lefter, right + self._margin)
        features = self._model.features(_for_network(lr, self._parameter))
        inside = (..., slice(top - upper, bottom - upper), slice(left - lefter, right - lefter))
        return Features(chosen=features.chosen[inside], trunk=features.trunk[inside])

    def window(self, rows: slice, columns: slice) -> Condition:
        return self._model.project(self.features(rows, columns))

    def image(self, rows: slice, columns: slice) -> Tensor:
        return self._model.encoder_image(self.features(rows, columns))

    def prepare(self, stop: int) -> None:
        """Nothing: a window brings its own."""

    def release(self, row: int) -> None:
        """Nothing: nothing is kept."""


class _StoredFeatures:
    """Low-resolution features, in any memory; a window of them is projected when asked.

    An output pixel of the projection depends on the low-resolution pixels around its own: with a margin of
    one pixel, the projection of a window is that of the whole.

    Args:
        model: in evaluation mode.
        kept: gives the features, row of tiles by row of tiles.
        height: rows of them.
        rolling: whether to encode no sooner than a window needs it, and to forget what none needs any more.
    """

    def __init__(self, model: DiffSR, kept: Sweep, *, height: int, rolling: bool) -> None:
        self._model = model
        self._kept = kept
        self._height = height
        self._rolling = rolling
        self._parameter = next(model.parameters())
        self._last: tuple[slice, slice, Condition] | None = None
        if not rolling:
            kept.until(height)

    def prepare(self, stop: int) -> None:
        self._kept.until(min(stop // self._model.config.scale + 1, self._height))

    def release(self, row: int) -> None:
        if self._rolling:
            self._kept.drop(max(row // self._model.config.scale - 1, 0))

    def _features(self, top: int, bottom: int, left: int, right: int) -> Features:
        rows = self._kept.rows(top, min(bottom, self._height))
        kept = _for_network(rows[:, :, :, left:right], self._parameter)
        encoder = self._model.config.encoder
        return Features(
            chosen=kept[:, : encoder.channels * len(encoder.condition_indices)],
            trunk=kept[:, -encoder.channels :],
        )

    def window(self, rows: slice, columns: slice) -> Condition:
        """The one that was asked for last is kept, so that an image in one piece is projected once."""
        if self._last is not None and self._last[:2] == (rows, columns):
            return self._last[2]
        self._last = None
        scale = self._model.config.scale
        top, bottom, left, right = low_resolution_bounds(rows, columns, scale=scale)
        upper, lefter = max(top - 1, 0), max(left - 1, 0)
        condition = self._model.project(self._features(upper, bottom + 1, lefter, right + 1))
        first, start = (top - upper) * scale, (left - lefter) * scale
        condition = condition.window(
            slice(first, first + rows.stop - rows.start), slice(start, start + columns.stop - columns.start)
        )
        self._last = rows, columns, condition
        return condition

    def image(self, rows: slice, columns: slice) -> Tensor:
        bounds = low_resolution_bounds(rows, columns, scale=self._model.config.scale)
        return self._model.encoder_image(self._features(*bounds))


def condition_source(
    model: DiffSR,
    lr: Tensor,
    *,
    plan: MemoryPlan,
    halos: Halos,
    on_tile: Callable[[float], None] | None = None,
) -> ConditionSource:
    """Encode a batch as the plan says, or in tiles if the whole of it does not fit after all.

    Where the plan rolls, that is done when windows are prepared.

    Args:
        model: in evaluation mode.
        lr: ``(B, 3, h, w)`` in [0, 1], of any size and on any device.
        plan: what is kept where.
        halos: of the tiles.
        on_tile: called after every tile that is encoded.

    Raises:
        DeviceMemoryError: not even the smallest tile fits.
    """
    padded = PaddedInput(lr, model.config)
    if plan.encoder_tile is None:
        return _EncodedWindows(model, padded, margin=halos.margin)
    windows, scale, parameter = _EncodedWindows(model, padded), model.config.scale, next(model.parameters())
    runner = TileRunner(
        padded.height * scale,
        padded.width * scale,
        size=plan.encoder_tile,
        halo=halos.encoder,
        receptive_field=model.config.encoder.receptive_field * scale,
        align=model.config.lr_multiple * scale,
        device=parameter.device,
    )
    kept = Sweep(
        runner,
        lambda rows, columns: _as_one(windows.features(rows, columns)),
        device=plan.store,
        dtype=parameter.dtype,
        shrink=scale,
        on_tile=on_tile,
        reserve=None if plan.rolling else padded.height,
    )
    return _StoredFeatures(model, kept, height=padded.height, rolling=plan.rolling)


def _as_one(features: Features) -> Tensor:
    """The features in one tensor that ends with the trunk."""
    chosen, trunk = features.chosen, features.trunk
    if trunk.untyped_storage().data_ptr() == chosen.untyped_storage().data_ptr():
        return chosen
    return torch.cat((chosen, trunk), dim=1)


def encoder_estimate(
    source: ConditionSource,
    *,
    runner: TileRunner,
    device: torch.device,
    on_tile: Callable[[float], None] | None = None,
) -> Sweep:
    """The encoder's own image, from which a sampling can start.

    Args:
        source: from :func:`condition_source`.
        runner: of the tiles.
        device: where the result is wanted.
        on_tile: called after every tile.

    Returns:
        Makes ``(B, 3, H, W)`` float32 in [0, 1].
    """
    return Sweep(
        runner,
        source.image,
        device=device,
        dtype=torch.float32,
        on_tile=on_tile,
        prepare=lambda first, stop: source.prepare(stop),
    )


class TiledDenoiser:
    """The model as a function ``(xt, t) -> eps`` of the whole canvas, evaluated in tiles.

    Args:
        model: in evaluation mode.
        source: of the condition of a window.
        runner: of the tiles.
        on_tile: called with the finished share of the evaluation, after every tile.
        prepare: called before a window is evaluated, as in :class:`Sweep`.
    """

    def __init__(
        self,
        model: DiffSR,
        source: ConditionSource,
        *,
        runner: TileRunner,
        on_tile: Callable[[float], None] | None = None,
        prepare: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self._source = source
        self._prepare = prepare
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
        return self._sweep(xt, t, reserve=xt.shape[2]).whole().contiguous()

    def strips(self, xt: Tensor, t: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Predict the same row of tiles by row of tiles, see :class:`~sam_diffsr.diffusion.StripDenoiser`."""
        return self._sweep(xt, t).strips()

    def _sweep(self, xt: Tensor, t: Tensor, *, reserve: int | None = None) -> Sweep:
        times = t.to(self._parameter.device)

        def evaluate(rows: slice, columns: slice) -> Tensor:
            window = _for_network(xt[:, :, rows, columns], self._parameter)
            eps = self._model(window, times, self._source.window(rows, columns)).to(xt.dtype)
            self._finite &= torch.isfinite(eps).all()
            return eps

        return Sweep(
            self._runner,
            evaluate,
            device=xt.device,
            dtype=xt.dtype,
            on_tile=self._on_tile,
            prepare=self._prepare,
            reserve=reserve,
        )

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
