"""Reports of a run: means of training steps, ``log.jsonl``, sample pictures and an experiment tracker."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sam_diffsr.config import flatten
from sam_diffsr.errors import OutputError
from sam_diffsr.files import atomic_path, writing
from sam_diffsr.image import save_image
from sam_diffsr.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

CROPS = ".crops"
"""Folder of the crops of ``data.photos`` inside a run folder."""
_NAME = "log.jsonl"
_PICTURES = "samples"
_TENSORBOARD = "tensorboard"
_SINGLE_IMAGE = ("aim", "clearml")
"""Trackers whose ``log_images`` takes one image per name instead of a list."""
_ADVICE = "checkpoints are kept, free space and resume"


class Meter:
    """Means since the last summary. Sums stay on the device, so steps do not wait for it.

    ``skips`` ignores gradient norms that are not finite, because fp16's loss scaling skips those steps.
    """

    def __init__(self, accelerator: Accelerator, *, skips: bool = False) -> None:
        self._accelerator, self._skips = cast("Any", accelerator), skips
        self._reset()

    def _reset(self) -> None:
        self._sums = torch.zeros(2, device=self._accelerator.device)
        self.steps, self.images, self.began = 0, 0, time.perf_counter()
        self.spent = {"waiting": 0.0, "paused": 0.0}

    @contextlib.contextmanager
    def timed(self, kind: Literal["waiting", "paused"]) -> Generator[None, None, None]:
        """Count the time of the block as waiting for data, or as a pause, which is not training."""
        start = time.perf_counter()
        yield
        self.spent[kind] += time.perf_counter() - start

    def add(self, loss: torch.Tensor, norm: torch.Tensor, *, images: int) -> None:
        """Count one step: loss and gradient norm (scalars on the device), images of all processes."""
        norm = torch.nan_to_num(norm, nan=0.0, posinf=0.0) if self._skips else norm
        self._sums += torch.stack((loss, norm))
        self.steps += 1
        self.images += images

    def summary(self) -> dict[str, float]:
        """Loss and gradient norm over all processes, images per second, share of time waiting for data."""
        if not self.steps:
            return {}
        loss, norm = self._accelerator.reduce(self._sums / self.steps, reduction="mean").tolist()
        elapsed = max(time.perf_counter() - self.began - self.spent["paused"], 1e-9)
        speed, wait = round(self.images / elapsed, 3), round(self.spent["waiting"] / elapsed, 4)
        self._reset()
        return {"loss": loss, "grad_norm": norm, "images_per_second": speed, "data_wait": wait}


class RunLog:
    """Writes ``log.jsonl`` (one JSON object per line), sample pictures and a tracker; for the first process.

    Records after ``step``, written before a resume, are removed. A tracker that fails during the run is
    dropped with a warning, because ``log.jsonl`` has everything.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, step: int, accelerator: Accelerator) -> None:
        self.path, self._pictures = folder / _NAME, folder / _PICTURES
        self._draws = config.run.tracker != "none"

        # the records up to the checkpoint
        kept = "".join(json.dumps(record) + "\n" for record in read_log(folder) if record["step"] <= step)
        with writing("the log", self.path, advice=_ADVICE), atomic_path(self.path) as temporary:
            temporary.write_text(kept, encoding="utf-8")

        # the tracker; TensorBoard's project is a folder, and it has no table of settings
        names = [str(name) for name in cast("list[Any]", accelerator.log_with)]
        board = names == [_TENSORBOARD]
        settings = {
            key: value if isinstance(value, str | int | float | None) else str(value)
            for key, value in flatten(config).items()
        }
        try:
            accelerator.init_trackers(
                _TENSORBOARD if board else "sam_diffsr",
                config=None if board else settings,
                init_kwargs={
                    _TENSORBOARD: {"purge_step": step + 1},
                    "wandb": {"name": folder.name, "dir": str(folder)},
                    "mlflow": {"run_name": folder.name},
                },
            )
        except Exception as error:  # every tracker has its own types
            raise OutputError(
                f"cannot start the tracker {', '.join(names)}: {error}; configure it, or set run.tracker to "
                "jsonl"
            ) from error
        self._trackers = cast("list[Any]", accelerator.trackers)

    def numbers(self, step: int, values: Mapping[str, Any], *, group: str) -> None:
        """Log numbers: a line of ``log.jsonl``, ``group/name`` in the tracker, and a message."""
        train = group == "train"
        record = {"step": step, "time": round(time.time(), 3), **(values if train else {group: dict(values)})}
        with writing("the log", self.path, advice=_ADVICE), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        named = {f"{group}/{key}": value for key, value in values.items()}
        self._track(lambda tracker: tracker.log(named, step=step))
        shown = ", ".join(f"{key} {value:.5g}" for key, value in values.items())
        logger.info("step %d: %s%s", step, "" if train else f"{group} ", shown)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Log a picture ``(H, W, 3)``: ``samples/step-XXXXXXXX.png``, and the tracker."""
        if not self._draws:
            return
        with writing("pictures", self._pictures, advice=_ADVICE):
            self._pictures.mkdir(exist_ok=True)
        save_image(Image.fromarray(picture), self._pictures / f"step-{step:08d}.png")

        def show(tracker: Any) -> None:
            if hasattr(tracker, "log_images"):
                images = picture if tracker.name in _SINGLE_IMAGE else picture[None]
                layout = {"dataformats": "NHWC"} if tracker.name == _TENSORBOARD else {}
                tracker.log_images({_PICTURES: images}, step=step, **layout)

        self._track(show)

    def close(self) -> None:
        """Flush and close the tracker."""
        self._track(lambda tracker: tracker.finish())

    def _track(self, call: Callable[[Any], None]) -> None:
        for tracker in [*self._trackers]:
            try:
                call(tracker)
            except Exception as error:  # every tracker has its own types
                self._trackers.remove(tracker)
                message = "the tracker %s failed and is not used from now on; log.jsonl is complete: %s"
                logger.warning(message, tracker.name, error)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read all records of a run; a last line that was cut off is skipped."""
    path = folder / _NAME
    records: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
    return records
