"""Times what surrounds the networks: a folder of images, and the start of a command."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sam_diffsr.bench.memory import run_python
from sam_diffsr.bench.result import BenchResult
from sam_diffsr.bench.timing import median_ratio, medians, time_in_turns
from sam_diffsr.errors import ArgumentError
from sam_diffsr.image import decode_image, save_image
from sam_diffsr.image.jobs import Job, plan_jobs
from sam_diffsr.pipeline.batch import run_jobs
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["measure_folder", "measure_start"]

_LOGGER = logging.getLogger(__name__)


def measure_folder(
    resolver: SuperResolver, *, files: int = 32, size: int = 32, repeats: int = 3
) -> BenchResult:
    """Time a folder of small photographs against upscaling its files one by one.

    Two folders are measured: one of photographs of equal size, which are batched, and one of different sizes.

    Args:
        resolver: the model.
        files: photographs in a folder.
        size: height of the smallest photograph; the width is 1.5 times as large.
        repeats: rounds, >= 1.

    Raises:
        ArgumentError: a number is out of range.
    """
    if files < 1 or size < 8 or repeats < 1:
        raise ArgumentError(
            f"files and repeats must be >= 1 and size >= 8, got {files}, {repeats} and {size}"
        )
    figures: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for kind, spread in (("folder", 1), ("mixed_folder", size)):
        _LOGGER.info("measuring: %s of %s photographs", kind, files)
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
            jobs = _write_photos(Path(name), [size + index % spread for index in range(files)])
            tasks = {
                f"{kind}_one_by_one": partial(_one_by_one, resolver, jobs),
                kind: partial(_as_folder, resolver, jobs),
            }
            timed = time_in_turns(tasks, repeats=repeats, device=resolver.device)
        figures[f"{kind}_speedup"] = median_ratio(timed, f"{kind}_one_by_one", kind)
        seconds |= medians(timed)
    settings = {"model": resolver.name, "files": files, "size": size, "repeats": repeats}
    return BenchResult(name="folder", figures=figures, settings=settings, seconds=seconds)


def measure_start(*, repeats: int = 3) -> BenchResult:
    """Time imports and a whole command, each in a fresh process; the fastest of each counts.

    Args:
        repeats: processes of each kind, >= 1.

    Raises:
        ArgumentError: ``repeats`` is less than 1.
        OutputError: a process failed.
    """
    if repeats < 1:
        raise ArgumentError(f"repeats must be >= 1, got {repeats}")
    _LOGGER.info("measuring: start of a process")
    libraries = "import torch, numpy, PIL.Image, safetensors.torch, huggingface_hub"
    own = "from sam_diffsr import SuperResolver"
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
        source, target = str(Path(name, "a.png")), str(Path(name, "b.png"))
        _made_up_photo(8, 8).save(source)
        command = (
            "-m",
            "sam_diffsr",
            "upscale",
            "-i",
            source,
            "-o",
            target,
            "--overwrite",
            "--device",
            "cpu",
        )
        timed = time_in_turns({"command": lambda: run_python(*command)}, repeats=repeats)
    figures = {
        "import_seconds": min(_import_seconds("", "import sam_diffsr") for _ in range(repeats)),
        "own_modules_seconds": min(_import_seconds(libraries, own) for _ in range(repeats)),
        "command_seconds": min(timed["command"]),
    }
    return BenchResult(name="start", figures=figures, settings={"repeats": repeats})


def _write_photos(folder: Path, heights: list[int]) -> list[Job]:
    """Write one JPEG per height and plan where the results go."""
    photos, large = folder / "photos", folder / "large"
    photos.mkdir()
    for index, height in enumerate(heights):
        _made_up_photo(height * 3 // 2, height).save(photos / f"{index:03}.jpg", quality=95)
    large.mkdir()
    return plan_jobs(photos, large)


def _made_up_photo(width: int, height: int) -> Image.Image:
    """Coarse noise, enlarged: as smooth as a photograph, so that PNG and JPEG have as much to do."""
    noise = Image.effect_noise((max(1, width // 4), max(1, height // 4)), 80)
    return noise.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")


def _one_by_one(resolver: SuperResolver, jobs: list[Job]) -> None:
    for job in jobs:
        save_image(resolver.upscale(job.source, progress=False), job.target)


def _as_folder(resolver: SuperResolver, jobs: list[Job]) -> None:
    def upscale(images: list[Any]) -> Any:
        return resolver.upscale(images, progress=False)

    for outcome in run_jobs(jobs, upscale, decode=decode_image, existing="overwrite"):
        if outcome.error is not None:
            raise outcome.error


def _import_seconds(before: str, statement: str) -> float:
    """Seconds of ``statement`` in a fresh process that has executed ``before``."""
    code = f"{before}\nimport time\nstarted = time.perf_counter()\n{statement}\n"
    return float(run_python("-c", code + "print(time.perf_counter() - started)"))
