"""The endless sequence of synthetic images, a few of them alive at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sam_diffsr.data.config import SyntheticConfig
from sam_diffsr.data.synthetic.drawing import Drawing, draw_image
from sam_diffsr.data.synthetic.render import render
from sam_diffsr.data.synthetic.textures import natural_textures, photo_textures
from sam_diffsr.masks.spe import Encoding, Reduction

__all__ = ["SyntheticPool"]


class SyntheticPool:
    """Images that windows are cut from; which one a window comes from depends on seed and position alone.

    ``config.pool`` images are in use. Every ``config.windows`` windows the oldest gives way to a new one.
    ``drawing`` is for one thread, ``picture`` for one other.

    Args:
        config: what the images are like.
        seed: of the sequence.
        encoding: see ``masks.spe``.
        reduction: see ``masks.spe``.

    Raises:
        DataError: ``config.photos`` has no photo of a useful size.
        ImageError: one of these photos cannot be read.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        *,
        seed: int,
        encoding: Encoding = "rope",
        reduction: Reduction = "image",
    ) -> None:
        self.config, self.seed = config, seed
        self._encoding: Encoding = encoding
        self._reduction: Reduction = reduction
        self._bank = (
            natural_textures(seed) if config.photos is None else photo_textures(config.photos, seed=seed)
        )
        self._drawings: dict[int, Drawing] = {}
        self._tiles: dict[torch.device, Tensor] = {}
        self._pictures: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def size(self) -> int:
        """Side of the images."""
        return self.config.size

    def draw(self, index: int) -> Drawing:
        """Draw one image of the sequence."""
        return draw_image(
            index,
            size=self.size,
            seed=self.seed,
            pages=self.config.pages,
            bank=self._bank,
            encoding=self._encoding,
            reduction=self._reduction,
        )

    def drawing(self, position: int) -> Drawing:
        """Choose the image of one window of the run, 0-based."""
        oldest = position // self.config.windows
        chosen = oldest + int(np.random.default_rng([self.seed, 3, position]).integers(self.config.pool))
        if chosen not in self._drawings:
            alive = range(oldest, oldest + self.config.pool)
            for index in [index for index in self._drawings if index not in alive]:
                del self._drawings[index]
            self._drawings[chosen] = self.draw(chosen)
        return self._drawings[chosen]

    def picture(self, drawing: Drawing, device: torch.device) -> Tensor:
        """Pixels of an image, ``(S, S, 3)`` uint8 on the device; kept while the image is in use."""
        key = (drawing.index, device)
        if key not in self._pictures:
            if device not in self._tiles:
                self._tiles[device] = torch.from_numpy(self._bank.tiles).to(device)
            while len(self._pictures) >= 2 * self.config.pool:
                del self._pictures[next(iter(self._pictures))]
            self._pictures[key] = render(drawing, self._tiles[device])
        return self._pictures[key]
