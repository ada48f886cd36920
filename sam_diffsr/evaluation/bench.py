"""Speed and memory against the published procedure, in one run on one machine: ratios first."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sam_diffsr.diffusion.schedule import ScheduleConfig
from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.environment import describe_machine, describe_versions
from sam_diffsr.evaluation.memory import MemoryUse, measure_memory
from sam_diffsr.evaluation.timing import gemm_side, time_networks
from sam_diffsr.evaluation.work_bench import smooth_photo
from sam_diffsr.models import ModelConfig, build_model
from sam_diffsr.device import Precision, has_fast_bf16
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["BenchResult", "run_bench", "step_flops"]

Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """Ratios, and what they were made from."""

    step_ratio: float
    """Our denoising step over the reference's, released architecture; smaller is faster."""
    image_speedup: float
    """Reference image over our image, both with the released architecture; ours with its default steps."""
    image_speedup_bundled: float
    """Reference image with the released architecture over our image with the model's smaller networks."""
    image_speedup_bundled_same_networks: float
    """Reference image over our image, both with the model's networks."""
    gemm_fraction: float
    """Floating-point operations a second of our step, over those of a matrix product on this machine."""
    conv_fraction: float
    """Likewise, over those of plain 3x3 convolutions of the same widths and resolutions."""
    peak_memory_mb: float | None
    """Of a process that upscales one image with the released architecture; None where it cannot be asked."""
    peak_memory_mb_bundled: float | None
    """Likewise with the model."""
    bf16: Mapping[str, float] | None
    """The same ratios in bfloat16, and how far the model's image is from that in float32 (PSNR in dB); None
    where the CPU has no matrix units for it, or float32 was not what was measured."""
    seconds: Mapping[str, float]
    """Medians that the ratios were made from."""
    settings: Mapping[str, Any]
    """Sizes, steps and what was extrapolated."""
    machine: Mapping[str, Any]
    """Device and threads."""
    versions: Mapping[str, str]
    """Software."""

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def run_bench(
    resolver: SuperResolver,
    *,
    model_name: str,
    size: int = 64,
    repeats: int = 5,
    full: bool = False,
    memory: bool = True,
    architecture: ModelConfig | None = None,
    say: Say = lambda line: None,
) -> BenchResult:
    """Measure, interleaving ours and the reference, so that both see the same state of the machine.

    Args:
        resolver: the model whose default sampling is used for every image; also measured itself.
        model_name: what the result calls it.
        size: side of the low-resolution image.
        repeats: measurements of each step; images are measured half as often.
        full: run the reference's image in full, instead of its encoder and ``repeats`` steps times the number
            of timesteps (which leaves out its sampling arithmetic, in the reference's favour).
        memory: measure memory in processes of their own.
        architecture: networks with random weights; None is the released architecture.
        say: told what is being measured.

    Raises:
        ArgumentError: a size or number of repeats out of range.
    """
    if size < 8 or repeats < 1:
        raise ArgumentError(f"size must be >= 8 and repeats >= 1, got {size} and {repeats}")
    # the published number of timesteps, whatever the model's own is
    released_config = replace(resolver.config, model=architecture or ModelConfig(), schedule=ScheduleConfig())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        released_model = build_model(released_config.model)
    dtype = resolver.dtype
    released = SuperResolver(released_model, released_config, device=resolver.device, dtype=dtype)
    say(f"released architecture, {size}x{size}")
    narrow = resolver.dtype == torch.float32 and has_fast_bf16(resolver.device)
    ours = time_networks(released, size=size, repeats=repeats, full=full, narrow=_narrowed(released, narrow))
    say(f"{model_name}, {size}x{size}")
    narrow_resolver = _narrowed(resolver, narrow)
    bundled = time_networks(resolver, size=size, repeats=repeats, full=full, narrow=narrow_resolver)
    uses: list[MemoryUse | None] = [None, None]
    if memory:
        say("memory")
        uses = [
            measure_memory(
                config,
                size=size,
                device=str(resolver.device),
                dtype=_precision(dtype),
                threads=torch.get_num_threads(),
            )
            for config in (released_config, resolver.config)
        ]
    flops = step_flops(released_config.model, size=size)
    gemm_rate = 2 * gemm_side(resolver.device) ** 3 / statistics.median(ours.gemm)
    conv_rate = ours.conv_flops / statistics.median(ours.conv)
    image, image_bundled = statistics.median(ours.image), statistics.median(bundled.image)
    sampling = resolver.config.sampling
    return BenchResult(
        step_ratio=_ratio(ours.step, ours.reference_step),
        image_speedup=ours.reference_image / image,
        image_speedup_bundled=ours.reference_image / image_bundled,
        image_speedup_bundled_same_networks=bundled.reference_image / image_bundled,
        gemm_fraction=flops / statistics.median(ours.step) / gemm_rate,
        conv_fraction=flops / statistics.median(ours.step) / conv_rate,
        peak_memory_mb=None if uses[0] is None else uses[0].peak_mb,
        peak_memory_mb_bundled=None if uses[1] is None else uses[1].peak_mb,
        bf16=None
        if narrow_resolver is None
        else {
            "step_ratio": _ratio(ours.narrow_step, ours.reference_step),
            "image_speedup": ours.reference_image / statistics.median(ours.narrow_image),
            "image_speedup_bundled": ours.reference_image / statistics.median(bundled.narrow_image),
            "psnr_to_fp32_db": _distance(resolver, narrow_resolver, size=size),
        },
        seconds={
            "step": statistics.median(ours.step),
            "reference_step": statistics.median(ours.reference_step),
            "image": image,
            "reference_image": ours.reference_image,
            "image_bundled": image_bundled,
            "step_bundled": statistics.median(bundled.step),
            "reference_step_bundled": statistics.median(bundled.reference_step),
            "reference_image_bundled": bundled.reference_image,
            "gemm": statistics.median(ours.gemm),
            "conv": statistics.median(ours.conv),
        },
        settings={
            "model": model_name,
            "size": size,
            "output_size": size * released.scale,
            "repeats": repeats,
            "dtype": _precision(dtype),
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "start": sampling.start,
            "reference_steps": released_config.schedule.timesteps,
            "reference_image": "run in full"
            if full
            else f"encoder + steps x median of {repeats} measured steps",
            "step_gflop": flops / 1e9,
            "gemm_gflops": gemm_rate / 1e9,
            "conv_gflops": conv_rate / 1e9,
            "memory_before_mb": None if uses[0] is None else uses[0].before_mb,
        },
        machine=describe_machine(resolver.device),
        versions=describe_versions(),
    )


def step_flops(model: ModelConfig, *, size: int) -> int:
    """Floating-point operations of one denoising step on one image, counted without computing it.

    Args:
        model: sizes of the networks.
        size: side of the low-resolution image; a multiple of ``model.lr_multiple``.
    """
    with torch.device("meta"), torch.no_grad():
        network = build_model(model)
        condition = network.encode(torch.empty(1, 3, size, size))
        xt = torch.empty(1, 3, size * model.scale, size * model.scale)
        t = torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            network(xt, t, condition)
    return int(counter.get_total_flops())


def _narrowed(resolver: SuperResolver, wanted: bool) -> SuperResolver | None:
    """The same model in bfloat16."""
    if not wanted:
        return None
    model = copy.deepcopy(resolver.model)
    return SuperResolver(model, resolver.config, device=resolver.device, dtype=torch.bfloat16)


def _distance(resolver: SuperResolver, other: SuperResolver, *, size: int) -> float:
    """PSNR in dB between what two resolvers make of one image with structure of all sizes."""
    photo = torch.from_numpy(smooth_photo(size, size, seed=0)).permute(2, 0, 1)[None] / 255
    one, two = (maker.upscale_tensor(photo.to(maker.device), seeds=[0]) for maker in (resolver, other))
    return -10 * math.log10(max(float((one - two).square().mean()), 1e-20))


def _ratio(ours: list[float], reference: list[float]) -> float:
    """Median over the rounds, so that a round in which the machine was busy counts once."""
    return statistics.median(mine / theirs for mine, theirs in zip(ours, reference, strict=True))


def _precision(dtype: torch.dtype) -> Precision:
    names: dict[torch.dtype, Precision] = {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
    }
    return names[dtype]
