"""Where a run's numbers and pictures go: ``log.jsonl``, and TensorBoard's files where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_diffsr.errors import MissingDependencyError, OutputError
from sam_diffsr.image import save_image
from sam_diffsr.training.config import Tracker
from sam_diffsr.training.log import RunLog

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["PICTURES", "TrackedLog", "tracker_names"]

PICTURES = "samples"
"""Folder of a run that pictures are written to."""
_TENSORBOARD = "tensorboard"


def tracker_names(tracker: Tracker) -> list[str]:
    """Accelerate's names of the trackers that ``run.tracker`` stands for.

    Raises:
        MissingDependencyError: TensorBoard was asked for and is not installed.
    """
    installed = importlib.util.find_spec(_TENSORBOARD) is not None
    if tracker == "tensorboard" and not installed:
        raise MissingDependencyError(
            "run.tracker tensorboard needs TensorBoard: pip install 'sam-diffsr[train]', or use jsonl"
        )
    return [_TENSORBOARD] if tracker in ("auto", "tensorboard") and installed else []


class TrackedLog:
    """Writes for the first process; the others' calls do nothing.

    Args:
        accelerator: made with the trackers of ``tracker``.
        folder: the run's folder.
        step: steps done so far; what was logged of later ones is dropped.
        tracker: ``run.tracker``.

    Raises:
        OutputError: something cannot be written, now or by the methods.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, *, step: int, tracker: Tracker) -> None:
        self._accelerator: Any = accelerator
        self._writes = bool(accelerator.is_main_process)
        self._pictures = folder / PICTURES if tracker != "none" else None
        self._log = RunLog(folder, step=step) if self._writes else None
        options = {_TENSORBOARD: {"purge_step": step + 1}}
        try:
            self._accelerator.init_trackers(_TENSORBOARD, init_kwargs=options)
        except OSError as error:
            raise OutputError(f"cannot write the tracker's files to {folder}: {error}") from error

    def numbers(self, step: int, values: Mapping[str, Any], *, group: str) -> None:
        """Log some numbers: a line of ``log.jsonl``, and ``group/name`` for trackers."""
        if self._log is not None:
            self._log.write(step, dict(values) if group == "train" else {group: dict(values)})
            self._accelerator.log({f"{group}/{key}": value for key, value in values.items()}, step=step)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Log a picture ``(H, W, 3)``: ``samples/step-XXXXXXXX.png``, and trackers."""
        if self._log is None or self._pictures is None:
            return
        try:
            self._pictures.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot create {self._pictures}: {error}") from error
        save_image(Image.fromarray(picture), self._pictures / f"step-{step:08d}.png")
        for tracker in self._accelerator.trackers:
            tracker.log_images({PICTURES: picture[None]}, step=step, dataformats="NHWC")

    def close(self) -> None:
        """Write out what trackers hold back."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
