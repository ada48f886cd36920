"""Times a denoising step and a whole image against the reference procedure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sam_diffsr.bench.memory import run_probe
from sam_diffsr.bench.reference import ReferenceProcedure
from sam_diffsr.bench.result import BenchResult, median_ratio, medians, time_in_turns
from sam_diffsr.device import network_layout
from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ArgumentError
from sam_diffsr.models import ModelConfig, build_model
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["measure_image", "measure_step"]

_LOGGER = logging.getLogger(__name__)

_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Side of the matrices whose product shows what a kind of device can do."""


def measure_step(resolver: SuperResolver, *, size: int = 64, repeats: int = 5) -> BenchResult:
    """Time one denoising step against the reference's step and a matrix product.

    The released architecture is measured on the device and in the dtype of ``resolver``. ``size`` is the side
    of the low-resolution image. Raises ``ArgumentError`` for a ``size`` or ``repeats`` out of range.
    """
    tasks: dict[str, Callable[[], object]] = {}
    sides = _sides(resolver, size=size, repeats=repeats)
    for suffix, side in sides.items():
        tasks |= {f"step{suffix}": side.step, f"reference_step{suffix}": side.reference_step}
    _LOGGER.info("measuring: step, %sx%s", size, size)
    length = _MATRIX_SIDE[resolver.device.type]
    matrix = torch.rand(length, length, generator=torch.Generator().manual_seed(0))
    matrix = matrix.to(device=resolver.device, dtype=resolver.dtype)
    tasks["matrix_product"] = lambda: torch.mm(matrix, matrix)
    timed = time_in_turns(tasks, repeats=repeats, device=resolver.device)
    seconds = medians(timed)
    step_rate = _step_flops(sides[""].resolver.config.model, size=size) / seconds["step"]
    return BenchResult(
        name="step",
        figures={
            "step_ratio": median_ratio(timed, "step", "reference_step"),
            "step_ratio_bundled": median_ratio(timed, "step_bundled", "reference_step_bundled"),
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
    tasks: dict[str, Callable[[], object]] = {}
    sides = _sides(resolver, size=size, repeats=repeats)
    for suffix, side in sides.items():
        tasks[f"image{suffix}"] = side.image
        tasks[f"reference_encoder{suffix}"] = side.reference_encoder
        tasks[f"reference_step{suffix}"] = side.reference_step
    _LOGGER.info("measuring: image, %sx%s", size, size)
    seconds = medians(time_in_turns(tasks, repeats=repeats, device=resolver.device))
    for suffix, side in sides.items():
        whole = seconds[f"reference_encoder{suffix}"] + side.timesteps * seconds[f"reference_step{suffix}"]
        seconds[f"reference_image{suffix}"] = whole

    _LOGGER.info("measuring: memory of a process")
    peaks = {suffix: run_probe(side.resolver, size=size)["peak_mb"] for suffix, side in sides.items()}
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
            "reference_steps": sides[""].timesteps,
        },
        seconds=seconds,
    )


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


def _sides(resolver: SuperResolver, *, size: int, repeats: int) -> dict[str, _Side]:
    """The released architecture with random weights, which cost the same as trained ones, and the model."""
    config = replace(resolver.config, model=ModelConfig(), schedule=ScheduleConfig())
    multiple = max(config.model.lr_multiple, resolver.config.model.lr_multiple)  # both are powers of two
    if size < 8 or size % multiple or repeats < 1:
        raise ArgumentError(
            f"size must be >= 8 and a multiple of {multiple}, and repeats >= 1; got {size} and {repeats}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.model)
    released = SuperResolver(model, config, device=resolver.device, dtype=resolver.dtype)
    return {"": _Side(released, size), "_bundled": _Side(resolver, size)}


class _Side:
    """One architecture, ours and the reference's, ready to compute a step or an image of one size."""

    def __init__(self, resolver: SuperResolver, size: int) -> None:
        self.resolver, self.timesteps = resolver, resolver.config.schedule.timesteps
        device, side = resolver.device, size * resolver.scale
        generator = torch.Generator().manual_seed(0)
        self._lr = torch.rand(1, 3, size, size, generator=generator).to(device)
        self._xt = torch.randn(1, 3, side, side, generator=generator).to(device)
        self._t = torch.full((1,), self.timesteps // 2, dtype=torch.int64, device=device)
        weights = {name: value.float().contiguous() for name, value in resolver.model.state_dict().items()}
        self._procedure = ReferenceProcedure(resolver.config.model, weights)
        layout = network_layout(device)
        lr, self._fast_xt = (x.to(resolver.dtype, memory_format=layout) for x in (self._lr, self._xt))
        with torch.inference_mode():
            self._condition = resolver.model.encode(lr)
            self._features = self._procedure.features(self._lr)

    @torch.inference_mode()
    def step(self) -> Tensor:
        return self.resolver.model(self._fast_xt, self._t, self._condition)

    @torch.inference_mode()
    def reference_step(self) -> Tensor:
        return self._procedure.step(self._xt, self._t, self._features)

    @torch.inference_mode()
    def reference_encoder(self) -> Tensor:
        return self._procedure.encoder_image(self._procedure.features(self._lr))

    def image(self) -> Tensor:
        return self.resolver.upscale_tensor(self._lr, seeds=[0])
