"""What surrounds the networks: a folder against its files one by one, and the time until the work begins."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.evaluation.environment import describe_machine, describe_versions
from sam_diffsr.image import decode_image, save_image
from sam_diffsr.pipeline.batch import plan_jobs, run_jobs
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.resize import imresize

__all__ = ["WorkResult", "bench_folder", "bench_start", "smooth_photo"]

Say = Callable[[str], object]
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkResult:
    """Figures of one measurement."""

    figures: Mapping[str, float]
    """What counts, by name."""
    settings: Mapping[str, Any]
    """Sizes and repeats."""
    machine: Mapping[str, Any]
    """Device and threads."""
    versions: Mapping[str, str]
    """Software."""

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            **self.figures,
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
        }


def smooth_photo(height: int, width: int, *, seed: int) -> np.ndarray[Any, Any]:
    """An image with structure of all sizes, as photographs have it: ``(H, W, 3)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for level in range(1, 6):
        coarse = torch.rand(1, 3, max(1, height >> level), max(1, width >> level), generator=generator) - 0.5
        total += imresize(coarse, size=(height, width)) * 2.0 ** (level - 5)
    return ((total * 0.6 + 0.5).clamp(0, 1)[0] * 255).round().byte().permute(1, 2, 0).numpy()


def bench_folder(
    resolver: SuperResolver,
    *,
    files: int = 32,
    size: int = 32,
    repeats: int = 3,
    say: Say = lambda line: None,
) -> WorkResult:
    """Time a folder of small photographs against its files one by one: of equal and of different sizes.

    Args:
        resolver: the model.
        files: photographs in the folder.
        size: their height, or that of the smallest; their width is half as much again.
        repeats: of both.
        say: told what is being measured.

    Raises:
        ArgumentError: a number out of range.
    """
    if files < 1 or size < 8 or repeats < 1:
        raise ArgumentError(
            f"files and repeats must be >= 1 and size >= 8, got {files}, {repeats} and {size}"
        )
    equal = [size] * files
    mixed = [size + index % size for index in range(files)]
    figures: dict[str, float] = {}
    for name, heights in (("", equal), ("mixed_", mixed)):
        kind = "different sizes" if name else "equal size"
        figures |= {
            name + figure: value
            for figure, value in _folder_figures(
                resolver, heights, repeats=repeats, say=lambda line, kind=kind: say(f"{kind}, {line}")
            ).items()
        }
    return WorkResult(
        figures=figures,
        settings={
            "model": resolver.name,
            "files": files,
            "size": _shape(size),
            "mixed_sizes": f"{_shape(min(mixed))} to {_shape(max(mixed))}",
            "repeats": repeats,
        },
        machine=describe_machine(resolver.device),
        versions=describe_versions(),
    )


def _shape(height: int) -> str:
    return f"{height * 3 // 2}x{height}"


def _folder_figures(
    resolver: SuperResolver, heights: list[int], *, repeats: int, say: Say
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {"one_by_one": [], "folder": []}
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
        photos, large = Path(name, "photos"), Path(name, "large")
        photos.mkdir()
        large.mkdir()
        for index, height in enumerate(heights):
            image = Image.fromarray(smooth_photo(height, height * 3 // 2, seed=index))
            image.save(photos / f"{index:03}.jpg", quality=95)
        jobs = plan_jobs(photos, large)
        for round_number in range(repeats + 1):
            say(f"{len(heights)} files, round {round_number}")
            for task in seconds:
                started = time.perf_counter()
                if task == "folder":
                    _as_folder(resolver, jobs)
                else:
                    for job in jobs:
                        save_image(resolver.upscale(job.source, progress=False), job.target)
                if round_number:
                    seconds[task].append(time.perf_counter() - started)
    ratios = [alone / folder for alone, folder in zip(*seconds.values(), strict=True)]
    return {
        "folder_speedup": statistics.median(ratios),
        "one_by_one_seconds": statistics.median(seconds["one_by_one"]),
        "folder_seconds": statistics.median(seconds["folder"]),
    }


def _as_folder(resolver: SuperResolver, jobs: Any) -> None:
    def upscale(images: list[Any]) -> list[Any]:
        return resolver.upscale(images, seed=[0] * len(images), progress=False)

    for outcome in run_jobs(jobs, upscale, decode=decode_image, existing="overwrite"):
        if outcome.error is not None:
            raise outcome.error


def bench_start(*, repeats: int = 3, say: Say = lambda line: None) -> WorkResult:
    """Time what a command spends outside of the networks, each time in a new process.

    Args:
        repeats: of each process; the fastest counts, because nothing but other work makes one slower.
        say: told what is being measured.

    Raises:
        ArgumentError: ``repeats`` is not positive.
        OutputError: a process failed.
    """
    if repeats < 1:
        raise ArgumentError(f"repeats must be >= 1, got {repeats}")
    say("imports")
    package = "import sam_diffsr"
    own = "from sam_diffsr import SuperResolver"
    figures = {
        "import_seconds": min(_import_seconds("", package) for _ in range(repeats)),
        "own_modules_seconds": min(
            _import_seconds("import torch, numpy, PIL.Image, safetensors.torch, huggingface_hub", own)
            for _ in range(repeats)
        ),
    }
    say("sam-diffsr upscale")
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
        source, target = Path(name, "a.png"), Path(name, "b.png")
        Image.fromarray(smooth_photo(64, 64, seed=0)).save(source)
        runs = [_command_seconds(source, target) for _ in range(repeats)]
    figures["command_outside_network_seconds"] = min(total - network for total, network in runs)
    figures["command_network_seconds"] = min(network for _, network in runs)
    return WorkResult(
        figures=figures,
        settings={"size": 64, "repeats": repeats},
        machine=describe_machine("cpu"),
        versions=describe_versions(),
    )


def _import_seconds(before: str, statement: str) -> float:
    code = f"{before}\nimport time\nstarted = time.perf_counter()\n{statement}\n"
    return float(_run_python("-c", code + "print(time.perf_counter() - started)"))


def _command_seconds(source: Path, target: Path) -> tuple[float, float]:
    """Of the whole process, and of the image as the command itself says."""
    started = time.perf_counter()
    arguments = ("-i", str(source), "-o", str(target), "--overwrite", "--device", "cpu", "--quiet")
    output = _run_python("-m", "sam_diffsr", "upscale", *arguments)
    total = time.perf_counter() - started
    found = re.search(r", ([0-9.]+) s\)", output)
    if found is None:
        raise OutputError(f"sam-diffsr upscale did not say how long its image took, but: {output!r}")
    return total, float(found[1])


def _run_python(*arguments: str) -> str:
    path = os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        raise OutputError(
            f"{sys.executable} {' '.join(arguments[:2])} failed: {done.stderr.strip()[-300:]}; run it alone "
            "to see why"
        )
    return done.stdout.strip()
