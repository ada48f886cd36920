"""Times a folder of small photographs against its files one by one."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sam_diffsr.bench.result import BenchResult, median_ratio, medians, time_in_turns
from sam_diffsr.errors import ArgumentError
from sam_diffsr.image import save_image
from sam_diffsr.image.jobs import Job, plan_jobs
from sam_diffsr.pipeline.batch import run_jobs
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["measure_folder"]

_LOGGER = logging.getLogger(__name__)


def measure_folder(
    resolver: SuperResolver, *, files: int = 32, size: int = 32, repeats: int = 3
) -> BenchResult:
    """Time a folder of small photographs against upscaling its files one by one.

    Two folders are measured: photographs of equal size, which are batched, and of different sizes. The
    smallest photograph has ``size`` rows and 1.5 times as many columns.

    Raises:
        ArgumentError: a number is out of range.
    """
    if files < 1 or size < 8 or repeats < 1:
        raise ArgumentError(
            f"files and repeats must be >= 1 and size >= 8, got {files}, {repeats} and {size}"
        )
    upscale: Any = partial(resolver.upscale, progress=False)

    def one_by_one(jobs: list[Job]) -> None:
        for job in jobs:
            save_image(upscale(job.source), job.target)

    def as_folder(jobs: list[Job]) -> None:
        for outcome in run_jobs(jobs, upscale, existing="overwrite"):
            if outcome.error is not None:
                raise outcome.error

    figures: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for kind, spread in (("folder", 1), ("mixed_folder", size)):
        _LOGGER.info("measuring: %s of %s photographs", kind, files)
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
            photos, large = Path(name, "photos"), Path(name, "large")
            photos.mkdir()
            large.mkdir()
            for index in range(files):
                height = size + index % spread
                _made_up_photo(height * 3 // 2, height).save(photos / f"{index:03}.jpg", quality=95)
            jobs = plan_jobs(photos, large)
            tasks = {f"{kind}_one_by_one": partial(one_by_one, jobs), kind: partial(as_folder, jobs)}
            timed = time_in_turns(tasks, repeats=repeats, device=resolver.device)
        figures[f"{kind}_speedup"] = median_ratio(timed, f"{kind}_one_by_one", kind)
        seconds |= medians(timed)
        figures[f"{kind}_images_per_hour"] = 3600 * files / seconds[kind]
    settings = {"model": resolver.name, "files": files, "size": size, "repeats": repeats}
    return BenchResult(name="folder", figures=figures, settings=settings, seconds=seconds)


def _made_up_photo(width: int, height: int) -> Image.Image:
    """Coarse noise, enlarged: as smooth as a photograph, so that PNG and JPEG have as much to do."""
    noise = Image.effect_noise((max(1, width // 4), max(1, height // 4)), 80)
    return noise.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
