"""Tells a progress bar and a caller's function how far the sampling is, and lets the caller stop it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor

from sam_diffsr.errors import CancelledError

__all__ = ["Preview", "Progress", "ProgressCallback"]

Preview = Callable[[], Tensor]
"""Makes the current estimate of the batch in work, ``(B, 3, H, W)`` in [0, 1], when it is called."""
ProgressCallback = Callable[[int, int, Preview], object]
"""Called after every step, and between the tiles of a step, with the steps done, the steps in all and a
preview; returning False or raising stops the work."""


class Progress:
    """Progress of one call; a context manager.

    Args:
        show: draw a bar on standard error; None draws it if that is a terminal.
        callback: the caller's function, after every step.
        total: denoising steps of all batches together.
    """

    def __init__(self, *, show: bool | None, callback: ProgressCallback | None, total: int) -> None:
        self._show = sys.stderr.isatty() if show is None else show
        self._callback = callback
        self._total = total
        self._done = 0
        self._bar: Any = None
        self._preview: Preview | None = None

    def __enter__(self) -> Progress:
        if self._show:
            from tqdm.auto import tqdm

            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            self._bar = tqdm(total=self._total, desc="upscale", bar_format=layout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._preview = None  # it holds the batch's tensors
        if self._bar is not None:
            self._bar.close()

    @property
    def done(self) -> int:
        """Steps that are finished."""
        return self._done

    @property
    def previews(self) -> bool:
        """Whether estimates are handed out, which nobody may overwrite then."""
        return self._callback is not None

    def expect(self, steps: int) -> None:
        """Count on more steps than were announced."""
        self._total += steps
        if self._bar is not None:
            self._bar.total = self._total

    def rewind(self, done: int) -> None:
        """Go back to an earlier number of finished steps, because a batch is repeated."""
        self._done = done
        self._show_share(0.0)

    def encoded(self, share: float) -> None:
        """Let the caller stop the work between two tiles of the encoder.

        Raises:
            CancelledError: the caller's function returned False or raised.
        """
        if share < 1:
            self._ask()

    def tile(self, share: float) -> None:
        """Show that a share of the step in work is finished, and let the caller stop it there.

        Raises:
            CancelledError: the caller's function returned False or raised.
        """
        self._show_share(share)
        if share < 1:
            self._ask()

    def step(self, preview: Preview | None = None) -> None:
        """Count one step; without a preview there must be no caller's function.

        Raises:
            CancelledError: the caller's function returned False or raised.
        """
        self._done += 1
        self._show_share(0.0)
        if preview is not None:
            self.start(preview)
        self._ask()

    def start(self, preview: Preview) -> None:
        """Begin a batch, with what its preview is before the first step is done."""
        if self._callback is not None:  # a preview holds a tensor of the size of the canvas
            self._preview = preview

    def _show_share(self, share: float) -> None:
        if self._bar is not None:
            self._bar.update(self._done + share - self._bar.n)

    def _ask(self) -> None:
        if self._callback is None or self._preview is None:
            return
        try:
            answer = self._callback(self._done, self._total, self._preview)
        except Exception as error:
            raise CancelledError(
                f"the callback raised {type(error).__name__} at step {self._done} of {self._total}: {error}"
            ) from error
        if answer is False:
            raise CancelledError(f"the callback stopped the work at step {self._done} of {self._total}")
