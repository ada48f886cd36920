"""Progress bar and user callback of one call; the callback may cancel the work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor

from sam_diffsr.errors import ArgumentError, CancelledError

__all__ = ["Preview", "Progress", "ProgressCallback"]

Preview = Callable[[], Tensor]
"""Makes the current estimate of the images in work, ``(B, 3, H, W)`` in [0, 1], when it is called."""
ProgressCallback = Callable[[int, int, Preview], object]
"""Called after every step of a tile with the steps done, the steps in all and a preview; returning False or
raising stops the work."""


class Progress:
    """Progress of one call; a context manager.

    Args:
        show: draw a bar; None draws it in a notebook and where standard error is a terminal.
        callback: user callback.
        total: expected number of steps, one per denoising step of a tile.

    Raises:
        ArgumentError: the callback cannot be called.
    """

    def __init__(self, *, show: bool | None, callback: ProgressCallback | None, total: int = 0) -> None:
        if callback is not None and not callable(callback):
            raise ArgumentError(f"callback must be None or a function, got {callback!r}")
        self._show = _is_watched() if show is None else show
        self._callback = callback
        self._total = total
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._show:
            from tqdm.auto import tqdm

            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            self._bar = tqdm(total=self._total, desc="upscale", bar_format=layout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def done(self) -> int:
        """Steps that are finished."""
        return self._done

    def rewind(self, done: int) -> None:
        """Go back to an earlier number of finished steps, because some are repeated."""
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done

    def expect(self, steps: int) -> None:
        """Change the expected number of steps by ``steps``, which may be negative."""
        self._total += steps
        if self._bar is not None:
            self._bar.total = self._total

    def step(self, preview: Preview, *, count: int = 1) -> None:
        """Count ``count`` finished steps, and let the callback cancel the work.

        Raises:
            CancelledError: the callback returned False or raised.
        """
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._callback is None:
            return
        try:
            answer = self._callback(self._done, self._total, preview)
        except Exception as error:
            raise CancelledError(
                f"the callback raised {type(error).__name__} at step {self._done} of {self._total}: {error}"
            ) from error
        if answer is False:
            raise CancelledError(f"the callback stopped the work at step {self._done} of {self._total}")


def _is_watched() -> bool:
    """Whether somebody sees a bar: in a Jupyter kernel, or where standard error is a terminal."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
