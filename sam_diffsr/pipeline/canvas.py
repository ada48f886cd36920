"""Everything of the size of the output in strips of rows, so that nothing but the canvas is that large.

The bicubic image, which the residual is added to, is made again for a strip when it is wanted; that costs
less than a hundredth of a denoising step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sam_diffsr.diffusion import (
    NoiseSchedule,
    image_to_residual,
    q_sample,
    residual_to_image,
)
from sam_diffsr.pipeline.sweep import Sweep
from sam_diffsr.resize import imresize

__all__ = ["Enlarged", "NoisyStart"]

_STRIP_PIXELS = 2**18
"""Output pixels in a strip."""
_MARGIN = 3
"""Low-resolution rows that bicubic interpolation looks at beyond a strip; two are enough."""


class Enlarged:
    """The bicubic enlargement of a batch in [-1, 1], and residuals on it, strip by strip.

    Args:
        lr: ``(B, 3, h, w)`` float32 in [0, 1].
        scale: of the enlargement.
        residual_scale: what residuals are multiplied with.
        white: of the enlargement, where the input has 1.
    """

    def __init__(self, lr: Tensor, *, scale: int, residual_scale: float, white: float = 1.0) -> None:
        self._lr = lr
        self._white = white
        self.scale = scale
        """Of the enlargement."""
        self._residual_scale = residual_scale
        self.height = lr.shape[-2] * scale
        """Of the enlargement."""
        self.width = lr.shape[-1] * scale
        """Of the enlargement."""

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the output, and ``(B, 3, rows, width)`` of the enlargement in [-1, 1]."""
        step = self.rows_in_a_strip
        for top in range(0, self.height, step):
            rows = slice(top, min(top + step, self.height))
            yield rows, self.strip(rows)

    @property
    def rows_in_a_strip(self) -> int:
        """A multiple of the scale."""
        return max(1, _STRIP_PIXELS // (self.scale * self.width)) * self.scale

    def strip(self, rows: slice) -> Tensor:
        """``(B, 3, rows, width)`` of the enlargement in [-1, 1].

        Args:
            rows: of the output; both bounds are multiples of the scale.
        """
        top, bottom = rows.start // self.scale, rows.stop // self.scale
        first = max(top - _MARGIN, 0)
        part = imresize(self._lr[:, :, first : bottom + _MARGIN] * self._white, self.scale)
        return part[:, :, (top - first) * self.scale : (bottom - first) * self.scale] * 2 - 1

    def residual(self, image: Tensor, rows: slice) -> Tensor:
        """The residual of some rows of an image in [0, 1].

        Args:
            image: ``(B, 3, rows, W)``, at least as wide as the enlargement; what lies beyond becomes its last
                column.
            rows: see :meth:`strip`.
        """
        residual = torch.empty_like(image, memory_format=torch.contiguous_format)
        inside = image[..., : self.width] * 2 - 1
        residual[..., : self.width] = image_to_residual(
            inside, self.strip(rows), residual_scale=self._residual_scale
        )
        residual[..., self.width :] = residual[..., self.width - 1 : self.width]
        return residual

    def to_image(self, x0: Tensor, *, overwrite: bool = False) -> Tensor:
        """The image ``(B, 3, s*h, s*w)`` in [0, 1] of a residual ``(B, 3, H, W)``, cropped to its size.

        Args:
            x0: the residual.
            overwrite: make the image in its memory and give that, or a view of it.
        """
        image = x0 if x0.shape[2:] == (self.height, self.width) else x0[:, :, : self.height, : self.width]
        if not overwrite:
            image = torch.empty_like(image, memory_format=torch.contiguous_format)
        for rows, up in self.strips():
            sr = residual_to_image(x0[:, :, rows, : self.width], up, residual_scale=self._residual_scale)
            image[:, :, rows] = sr.add_(1).div_(2).clamp_(0.0, 1.0)
        return image


class NoisyStart:
    """The state that sampling starts from, made from top to bottom of noise and the encoder's image.

    Args:
        x: ``(B, 3, H, W)``, standard normal noise; overwritten by the state.
        estimate: makes the encoder's image ``(B, 3, H, W)`` in [0, 1].
        enlarged: what residuals are taken from; rows of the canvas beyond it repeat its last one.
        t: the timestep of the state.
        schedule: on the device of ``x``.
    """

    def __init__(
        self, x: Tensor, estimate: Sweep, enlarged: Enlarged, *, t: int, schedule: NoiseSchedule
    ) -> None:
        self._x = x
        self._estimate: Sweep | None = estimate
        self._enlarged = enlarged
        self._times = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        self._schedule = schedule
        self._done = 0
        self._edge = torch.empty(0)

    @property
    def unseen(self) -> int:
        """Rows, from the top, that no window of the estimate to come looks at."""
        return self._x.shape[2] if self._estimate is None else self._estimate.unseen

    def until(self, row: int) -> None:
        """Make at least the rows above one.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        while self._done < row and self._estimate is not None:
            self._estimate.advance()
            self._take(self._estimate)

    def _take(self, estimate: Sweep) -> None:
        height, step = self._enlarged.height, self._enlarged.rows_in_a_strip
        final = estimate.final
        whole = final == self._x.shape[2]
        inside = min(final, height)
        inside -= inside % self._enlarged.scale
        for top in range(min(self._done, inside), inside, step):
            rows = slice(top, min(top + step, inside))
            residual = self._enlarged.residual(estimate.rows(rows.start, rows.stop), rows)
            self._mix(residual, rows)
            if rows.stop == height:
                self._edge = residual[:, :, -1:].clone()
        self._done = max(self._done, inside)
        if whole:
            self._mix(self._edge, slice(height, final))
            self._done, self._estimate = final, None
        else:
            estimate.drop(self._done)

    def _mix(self, residual: Tensor, rows: slice) -> None:
        noise = self._x[:, :, rows]
        noise.copy_(q_sample(residual.expand_as(noise), self._times, noise, self._schedule))
