"""Progress bar and user callback of one call; the callback may cancel the work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from sam_diffsr.errors import ArgumentError, CancelledError

Preview = Callable[[], Tensor]
"""Makes the current estimate of the images in work, ``(B, 3, H, W)`` in [0, 1], when it is called."""
ProgressCallback = Callable[[int, int, Preview], object]
"""Called after every step of a tile with the steps done, the steps in all and a preview; returning False or
raising stops the work."""


class Progress:
    """Progress of one call, in denoising steps of tiles; a context manager.

    ``show=None`` draws a bar in a notebook and where standard error is a terminal. A callback that cannot be
    called raises ``ArgumentError``.
    """

    def __init__(self, *, show: bool | None, callback: ProgressCallback | None, total: int = 0) -> None:
        if callback is not None and not callable(callback):
            raise ArgumentError(f"callback must be None or a function, got {callback!r}")
        if show is None:
            show = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
        self._show, self._callback = show, callback
        self.done, self.total = 0, total
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._show:
            from tqdm.auto import tqdm

            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            self._bar = tqdm(total=self.total, desc="upscale", bar_format=layout)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def rewind(self, done: int, *, more: int = 0) -> None:
        """Go to another number of finished steps, because some are repeated, and expect ``more`` in all."""
        if self._bar is not None:
            self._bar.total += more
            self._bar.update(done - self.done)
        self.done, self.total = done, self.total + more

    def step(self, preview: Preview, *, count: int = 1) -> None:
        """Count ``count`` finished steps, and let the callback cancel the work.

        Raises:
            CancelledError: the callback returned False or raised.
        """
        self.rewind(self.done + count)
        if self._callback is None:
            return
        where = f"at step {self.done} of {self.total}"
        try:
            answer = self._callback(self.done, self.total, preview)
        except Exception as error:
            raise CancelledError(f"the callback raised {type(error).__name__} {where}: {error}") from error
        if isinstance(answer, bool | np.bool_) and not answer:
            raise CancelledError(f"the callback stopped the work {where}")
