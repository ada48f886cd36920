"""Everything of the size of the output in strips of rows, so that nothing but the canvas is that large.

The bicubic image, which the residual is added to, is made again for a strip when it is wanted; that costs
less than a hundredth of a denoising step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sam_diffsr.diffusion import (
    ImageNoise,
    NoiseSchedule,
    image_to_residual,
    q_sample,
    residual_to_image,
)
from sam_diffsr.resize import imresize

__all__ = ["Enlarged", "noisy_start"]

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
        self._scale = scale
        self._residual_scale = residual_scale
        self.height = lr.shape[-2] * scale
        """Of the enlargement."""
        self.width = lr.shape[-1] * scale
        """Of the enlargement."""

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the output, and ``(B, 3, rows, width)`` of the enlargement in [-1, 1]."""
        scale, length = self._scale, self._lr.shape[-2]
        step = max(1, _STRIP_PIXELS // (scale * self.width))
        for top in range(0, length, step):
            bottom = min(top + step, length)
            first = max(top - _MARGIN, 0)
            part = imresize(self._lr[:, :, first : min(bottom + _MARGIN, length)] * self._white, scale)
            part = part[:, :, (top - first) * scale : (bottom - first) * scale]
            yield slice(top * scale, bottom * scale), part * 2 - 1

    def to_residual(self, image: Tensor) -> None:
        """Replace an image in [0, 1] by its residual, in place.

        Args:
            image: ``(B, 3, H, W)``, at least as large as the enlargement; what lies beyond it becomes its
                last row and column.
        """
        for rows, up in self.strips():
            inside = image[:, :, rows, : self.width]
            inside.copy_(image_to_residual(inside * 2 - 1, up, residual_scale=self._residual_scale))
        image[:, :, :, self.width :] = image[:, :, :, self.width - 1 : self.width]
        image[:, :, self.height :] = image[:, :, self.height - 1 : self.height]

    def to_image(self, x0: Tensor, *, overwrite: bool = False) -> Tensor:
        """The image ``(B, 3, s*h, s*w)`` in [0, 1] of a residual ``(B, 3, H, W)``, cropped to its size.

        Args:
            x0: the residual.
            overwrite: make the image in its memory and give a view of it.
        """
        image = x0[:, :, : self.height, : self.width]
        if not overwrite:
            image = torch.empty_like(image, memory_format=torch.contiguous_format)
        for rows, up in self.strips():
            sr = residual_to_image(x0[:, :, rows, : self.width], up, residual_scale=self._residual_scale)
            image[:, :, rows] = sr.add_(1).div_(2).clamp_(0.0, 1.0)
        return image


def noisy_start(residual: Tensor, noise: ImageNoise, *, t: int, schedule: NoiseSchedule) -> Tensor:
    """``q_sample`` at one timestep for a whole batch, piece by piece into ``residual``, which is returned.

    Args:
        residual: ``(B, 3, H, W)``, contiguous; overwritten.
        noise: of the batch; draws once.
        t: the timestep.
        schedule: on the device of the residual.
    """
    times = torch.full((1,), t, dtype=torch.int64, device=residual.device)
    for index, image in enumerate(residual):
        flat = image.view(1, 1, 1, -1)
        for piece, numbers in noise.pieces(index, flat.numel()):
            flat[..., piece] = q_sample(flat[..., piece], times, numbers.to(flat).view(1, 1, 1, -1), schedule)
    return residual
