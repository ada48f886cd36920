"""What networks and canvases take of memory for a pixel: the figures that tiles are planned by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam_diffsr.models import ModelConfig

__all__ = ["Costs"]

_CANVAS_BYTES = 12
"""Of an output pixel of a float32 RGB canvas."""
_INPUTS = 2
"""Float32 RGB images of the size of the input: decoded, and where there are several of them as a batch."""
_SAMPLE_BYTES = 7
"""Of an output pixel of a finished RGB image: an array of 8-bit samples, of which Pillow makes its own."""
_MAPPED_BYTES = 32 * 2**20
"""glibc maps blocks from this size on one by one, and gives them back at once; smaller ones leave gaps."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Peak bytes for one pixel, measured on the CPU in channels-last and rounded up."""

    denoiser: int
    """For an output pixel of a window."""
    mapped: int
    """Likewise, if each of its activations is mapped."""
    head: int
    """For an output pixel of a window, while the encoder makes its image."""
    encoder: int
    """For an output pixel of the part that is encoded, the features themselves included."""
    condition: int
    """For an output pixel of a window, its projected condition."""
    features: int
    """For an output pixel, for as long as features are kept."""
    canvases: int
    """For an output pixel, of everything that is as large as the output."""
    samples: int
    """For an output pixel, of the finished image beside the canvas."""
    results: int
    """For an output pixel of a row of tiles over the whole width, what the denoiser gave."""
    inputs: int
    """For an output pixel, of everything that is as large as the input."""

    @classmethod
    def of(cls, model: ModelConfig, itemsize: int, *, canvases: int) -> Costs:
        """Those of a model.

        Args:
            model: the networks.
            itemsize: bytes of a number in them.
            canvases: float32 RGB images of the size of the output that are held at the same time.
        """
        encoder, widths = model.encoder, model.denoiser.channels
        widest = max(width / 4**level for level, width in enumerate(widths))
        kept = encoder.channels * len({*encoder.condition_indices, encoder.blocks})
        growing = 9 * encoder.channels + 10 * encoder.growth
        return cls(
            denoiser=math.ceil(itemsize * (6 * widest + 32)),
            mapped=math.ceil(itemsize * (4.8 if itemsize == 4 else 5.5) * widest),
            head=4 * (5 * encoder.channels // 2 + 4),
            encoder=math.ceil(itemsize * (2 * kept + growing) / model.scale**2),
            condition=itemsize * widths[0],
            features=math.ceil(itemsize * kept / model.scale**2),
            canvases=_CANVAS_BYTES * canvases,
            samples=_SAMPLE_BYTES,
            results=_CANVAS_BYTES,
            inputs=math.ceil(_CANVAS_BYTES * _INPUTS / model.scale**2),
        )

    def window(self, pixels: int) -> int:
        """Peak for all output pixels of a window of which the features are there."""
        unmapped = min(pixels, _MAPPED_BYTES // self.condition)  # a projected condition is such an activation
        denoiser = self.condition * pixels + max(self.denoiser * unmapped, self.mapped * pixels)
        return self.features * pixels + max(self.head * pixels, denoiser)

    def whole(self, pixels: int) -> int:
        """Peak when nothing is divided."""
        kept = self.inputs + self.features + self.canvases + self.results
        return kept * pixels + max(self.encoder * pixels, self.window(pixels))
