"""Measures upscaling: steps and images against the reference, memory by size, folders against their files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sam_diffsr.bench.reference import ReferenceProcedure
from sam_diffsr.bench.result import BenchResult, at_least, logger, time_in_turns
from sam_diffsr.device import network_layout
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.image import save_image
from sam_diffsr.image.jobs import Job, plan_jobs
from sam_diffsr.models import ModelConfig, build_model
from sam_diffsr.pipeline.batch import run_jobs
from sam_diffsr.pipeline.resolver import SuperResolver

_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Side of the matrices whose product shows what a kind of device can do."""
_PROBE = Path(__file__).with_name("probe.py")
"""Run by its path: as a module it would load this whole package first."""
_PRECISION = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


# Against the reference


def measure_step(resolver: SuperResolver, *, size: int = 64, repeats: int = 5) -> BenchResult:
    """Time one denoising step against the reference's step and a matrix product.

    The released architecture is measured on the device and in the dtype of ``resolver``. ``size`` is the side
    of the low-resolution image. Raises ``ArgumentError`` for a ``size`` or ``repeats`` out of range.
    """
    compared = _compared(resolver, size=size, repeats=repeats)
    length = _MATRIX_SIDE[resolver.device.type]
    matrix = torch.rand(length, length, generator=torch.Generator().manual_seed(0))
    matrix = matrix.to(device=resolver.device, dtype=resolver.dtype)
    tasks = _tasks(compared, size, "step", "reference_step")
    tasks["matrix_product"] = lambda: torch.mm(matrix, matrix)
    timed = time_in_turns(f"step, {size}x{size}", tasks, repeats=repeats, device=resolver.device)
    seconds = timed.medians()
    step_rate = _step_flops(compared[""].config.model, size=size) / seconds["step"]
    return BenchResult(
        name="step",
        figures={
            "step_ratio": timed.ratio("step", "reference_step"),
            "step_ratio_bundled": timed.ratio("step_bundled", "reference_step_bundled"),
            "gemm_fraction": step_rate * seconds["matrix_product"] / (2 * length**3),
        },
        settings={"model": resolver.name, "size": size, "repeats": repeats, "dtype": str(resolver.dtype)},
        seconds=seconds,
    )


def measure_image(resolver: SuperResolver, *, size: int = 64, repeats: int = 5) -> BenchResult:
    """Time a whole image with the model's default sampling against the published procedure.

    The reference's time is that of its encoder plus the number of timesteps times one step, which leaves out
    its sampling arithmetic. Also measures the peak memory of a fresh process that upscales such an image.
    Arguments are those of :func:`measure_step`.

    Raises:
        ArgumentError: ``size`` or ``repeats`` is out of range.
        OutputError: a process that measures memory failed.
    """
    compared = _compared(resolver, size=size, repeats=repeats)
    tasks = _tasks(compared, size, "image", "reference_encoder", "reference_step")
    timed = time_in_turns(f"image, {size}x{size}", tasks, repeats=repeats, device=resolver.device)
    seconds = timed.medians()
    for suffix, each in compared.items():
        sampling_time = each.config.schedule.timesteps * seconds[f"reference_step{suffix}"]
        seconds[f"reference_image{suffix}"] = seconds[f"reference_encoder{suffix}"] + sampling_time

    logger.info("measuring: memory of a process")
    peaks = {suffix: run_probe(each, size=size)["peak_mb"] for suffix, each in compared.items()}
    image, sampling = seconds["image_bundled"], resolver.config.sampling
    return BenchResult(
        name="image",
        figures={
            "image_speedup": seconds["reference_image"] / seconds["image"],
            "image_speedup_bundled": seconds["reference_image"] / image,
            "image_speedup_bundled_same_networks": seconds["reference_image_bundled"] / image,
            **{f"peak_memory_mb{suffix}": peak for suffix, peak in peaks.items()},
        },
        settings={
            "model": resolver.name,
            "size": size,
            "repeats": repeats,
            "dtype": str(resolver.dtype),
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "start": sampling.start,
            "reference_steps": compared[""].config.schedule.timesteps,
        },
        seconds=seconds,
    )


def _compared(resolver: SuperResolver, *, size: int, repeats: int) -> dict[str, SuperResolver]:
    """Resolvers by the suffix of their figures: the released architecture (random weights), and the model."""
    config = replace(resolver.config, model=ModelConfig(), schedule=ScheduleConfig())
    multiple = max(config.model.lr_multiple, resolver.config.model.lr_multiple)  # both are powers of two
    at_least(1, {"repeats": repeats})
    if size < 8 or size % multiple:
        raise ArgumentError(f"size must be >= 8 and a multiple of {multiple}, got {size}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.model)
    released = SuperResolver(model, config, device=resolver.device, dtype=resolver.dtype)
    return {"": released, "_bundled": resolver}


def _tasks(compared: dict[str, SuperResolver], size: int, *names: str) -> dict[str, Callable[[], object]]:
    """Some of the tasks of each model."""
    found = {suffix: _tasks_of(resolver, size) for suffix, resolver in compared.items()}
    return {f"{name}{suffix}": tasks[name] for suffix, tasks in found.items() for name in names}


def _tasks_of(resolver: SuperResolver, size: int) -> dict[str, Callable[[], object]]:
    """A step, the reference's encoder and step, and a whole image, of one size."""
    device, side, layout = resolver.device, size * resolver.scale, network_layout(resolver.device)
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, size, size, generator=generator).to(device)
    xt = torch.randn(1, 3, side, side, generator=generator).to(device)
    t = torch.full((1,), resolver.config.schedule.timesteps // 2, dtype=torch.int64, device=device)
    weights = {name: value.float().contiguous() for name, value in resolver.model.state_dict().items()}
    procedure = ReferenceProcedure(resolver.config.model, weights)
    own_lr, own_xt = (x.to(resolver.dtype, memory_format=layout) for x in (lr, xt))
    with torch.inference_mode():
        condition = resolver.model.encode(own_lr)
        features = procedure.features(lr)
    tasks: dict[str, Callable[[], Tensor]] = {
        "step": lambda: resolver.model(own_xt, t, condition),
        "image": lambda: resolver.upscale_tensor(lr, seeds=[0]),
        "reference_step": lambda: procedure.step(xt, t, features),
        "reference_encoder": lambda: procedure.encoder_image(procedure.features(lr)),
    }
    return {name: torch.inference_mode()(task) for name, task in tasks.items()}


def _step_flops(config: ModelConfig, *, size: int) -> int:
    """Floating-point operations of a denoising step of one ``size x size`` image, with plain convolutions.

    The condition is not projected in a step, but once per image.
    """
    with torch.device("meta"), torch.no_grad():
        weights = build_model(config).state_dict()
        procedure = ReferenceProcedure(config, weights)
        features = procedure.features(torch.empty(1, 3, size, size))
        xt = torch.empty(1, 3, size * config.scale, size * config.scale)
        with FlopCounterMode(display=False) as counter:
            procedure.step(xt, torch.zeros(1, dtype=torch.int64), features)
    projection = 2 * size**2 * weights["denoiser.condition_projection.weight"].numel()
    return int(counter.get_total_flops()) - projection


# Memory by size


def measure_memory(
    resolver: SuperResolver,
    *,
    sizes: Sequence[int] = (512, 1024, 2048),
    tile: int | Literal["auto"] = "auto",
    max_memory: int | None = None,
) -> BenchResult:
    """Upscale one square image per size in a fresh process and report its peak memory.

    ``sizes`` are growing sides of low-resolution images; ``tile`` and ``max_memory`` (bytes) are those of
    :meth:`SuperResolver.upscale`. Device and dtype are those of ``resolver``.

    Raises:
        ArgumentError: ``sizes`` is empty or does not grow.
        OutputError: a process failed, for example because the limit is too small.
    """
    if not sizes or sizes[0] < 1 or any(small >= large for small, large in pairwise(sizes)):
        raise ArgumentError(f"sizes must be sides >= 1 that grow, got {list(sizes)}")
    options: dict[str, Any] = {"tile": tile, **({} if max_memory is None else {"max_memory": max_memory})}
    rows: list[dict[str, float | None]] = []
    for size in sizes:
        logger.info("measuring: memory, %sx%s", size, size)
        answer = run_probe(resolver, size=size, options=options)
        before, peak = answer["before_mb"], answer["peak_mb"]  # None where the system does not tell
        megapixels = (size * resolver.scale) ** 2 / 1e6
        rows.append(
            {
                "size": size,
                "output_megapixels": round(megapixels, 2),
                "used_mb": None if before is None else round(peak - before, 1),
                "peak_mb": None if before is None else round(peak, 1),
                "seconds_per_megapixel": round(answer["seconds"] / megapixels, 3),
            }
        )
    settings = {"model": resolver.name, "dtype": _PRECISION[resolver.dtype], **options}
    return BenchResult(name="memory", tables={"memory": rows}, settings=settings)


def run_probe(resolver: SuperResolver, *, size: int, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Upscale one ``size x size`` image in a fresh process that loads a copy of the model.

    ``options`` are keywords of :meth:`SuperResolver.upscale`. Returns ``seconds``, ``before_mb`` and
    ``peak_mb``, see :mod:`sam_diffsr.bench.probe`. Raises ``OutputError`` with the last line of its standard
    error if the process fails.
    """
    # The new process imports this package, installed or not.
    path = os.pathsep.join(filter(None, [str(_PROBE.parents[2]), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as folder:
        model = str(Path(folder, "model"))
        resolver.save_pretrained(model)
        request = {
            "model": model,
            "size": size,
            "threads": torch.get_num_threads(),
            "init": {"device": str(resolver.device), "dtype": _PRECISION[resolver.dtype]},
            "upscale": options or {},
        }
        done = subprocess.run(
            [sys.executable, str(_PROBE)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OutputError(f"the measured process failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


# Folders


def measure_folder(
    resolver: SuperResolver, *, files: int = 32, size: int = 32, repeats: int = 3
) -> BenchResult:
    """Time a folder of small photographs against upscaling its files one by one.

    Two folders are measured: photographs of equal size, which are batched, and of different sizes. The
    smallest photograph has ``size`` rows and 1.5 times as many columns.

    Raises:
        ArgumentError: a number is out of range.
    """
    at_least(1, {"files": files, "repeats": repeats})
    at_least(8, {"size": size})
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
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
            photos, large = Path(name, "photos"), Path(name, "large")
            photos.mkdir()
            large.mkdir()
            for index in range(files):
                height = size + index % spread
                _made_up_photo(height * 3 // 2, height).save(photos / f"{index:03}.jpg", quality=95)
            jobs = plan_jobs(photos, large)
            tasks = {f"{kind}_one_by_one": partial(one_by_one, jobs), kind: partial(as_folder, jobs)}
            what = f"{kind} of {files} photographs"
            timed = time_in_turns(what, tasks, repeats=repeats, device=resolver.device)
        figures[f"{kind}_speedup"] = timed.ratio(f"{kind}_one_by_one", kind)
        seconds |= timed.medians()
        figures[f"{kind}_images_per_hour"] = 3600 * files / seconds[kind]
    settings = {"model": resolver.name, "files": files, "size": size, "repeats": repeats}
    return BenchResult(name="folder", figures=figures, settings=settings, seconds=seconds)


def _made_up_photo(width: int, height: int) -> Image.Image:
    """Coarse noise, enlarged: as smooth as a photograph, so that PNG and JPEG have as much to do."""
    noise = Image.effect_noise((max(1, width // 4), max(1, height // 4)), 80)
    return noise.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
