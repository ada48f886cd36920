"""Seconds of a step and of an image, ours and the reference's, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_diffsr.evaluation.rates import convolutions
from sam_diffsr.evaluation.reference import ReferenceProcedure, reference_sample
from sam_diffsr.device import network_layout
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["GEMM_SIDE", "Timing", "gemm_side", "interleave", "time_networks"]

GEMM_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Rows and columns of the matrices whose product shows what a kind of device can do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of one architecture, ours and the reference's; lists have an entry a round."""

    step: list[float]
    """Of our denoising step."""
    reference_step: list[float]
    """Of the reference's, in the same rounds."""
    gemm: list[float]
    """Of a product of two square matrices of side ``gemm_side``."""
    conv: list[float]
    """Of plain convolutions, see ``rates.convolutions``."""
    conv_flops: int
    """Floating-point operations of these."""
    image: list[float]
    """Of an image with the default sampling, encoder included."""
    reference_image: float
    """Of the reference's image, run in full or extrapolated."""
    narrow_step: list[float]
    """Of our step in bfloat16; empty if that was not measured."""
    narrow_image: list[float]
    """Likewise of an image."""


def gemm_side(device: torch.device) -> int:
    """Rows and columns of the matrices for a device."""
    return GEMM_SIDE.get(device.type, GEMM_SIDE["cpu"])


def interleave(
    tasks: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Time several tasks in turn: a round does each once; one round before the first is not counted.

    Returns:
        Seconds of each task in each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            _synchronize(device)
            started = time.perf_counter()
            task()
            _synchronize(device)
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def time_networks(
    resolver: SuperResolver, *, size: int, repeats: int, full: bool, narrow: SuperResolver | None
) -> Timing:
    """Time ours and the reference on the networks of one resolver.

    Args:
        resolver: whose networks, device, dtype and default sampling are measured.
        size: side of the low-resolution image.
        repeats: rounds; of images half as many.
        full: run the reference's image instead of extrapolating from its encoder and steps.
        narrow: the same resolver in bfloat16, measured in the same rounds; None for none.
    """
    device, model = resolver.device, resolver.model
    config = resolver.config
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, size, size, generator=generator).to(device)
    xt = torch.randn(1, 3, size * resolver.scale, size * resolver.scale, generator=generator).to(device)
    t = torch.full((1,), config.schedule.timesteps // 2, dtype=torch.int64, device=device)
    layout = network_layout(device)
    fast_xt = xt.to(resolver.dtype).contiguous(memory_format=layout)
    weights = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    procedure = ReferenceProcedure(config.model, weights)
    side = gemm_side(device)
    matrix = torch.rand(side, side, generator=generator).to(device=device, dtype=resolver.dtype)
    convolve, conv_flops = convolutions(config.model, size=size, device=device, dtype=resolver.dtype)
    with torch.inference_mode():
        condition = model.encode(lr.to(resolver.dtype).contiguous(memory_format=layout))
        features = procedure.features(lr)
        tasks: dict[str, Callable[[], object]] = {
            "step": lambda: model(fast_xt, t, condition),
            "reference_step": lambda: procedure.step(xt, t, features),
            "gemm": lambda: torch.mm(matrix, matrix),
            "conv": convolve,
        }
        if narrow is not None:
            tasks["narrow_step"] = _narrow_step(narrow, lr, xt, t)
        steps = interleave(tasks, repeats=repeats, device=device)
        encoder = interleave(
            {"encoder": lambda: procedure.encoder_image(procedure.features(lr))},
            repeats=max(1, repeats // 2),
            device=device,
        )["encoder"]
    images: dict[str, Callable[[], object]] = {"image": lambda: resolver.upscale_tensor(lr, seeds=[0])}
    if narrow is not None:
        images["narrow_image"] = lambda: narrow.upscale_tensor(lr, seeds=[0])
    image = interleave(images, repeats=max(1, repeats // 2), device=device)
    reference_image = statistics.median(encoder) + config.schedule.timesteps * statistics.median(
        steps["reference_step"]
    )
    if full:
        reference_image = _time_reference_image(resolver, procedure, lr, x_T=xt)
    return Timing(
        step=steps["step"],
        reference_step=steps["reference_step"],
        gemm=steps["gemm"],
        conv=steps["conv"],
        conv_flops=conv_flops,
        image=image["image"],
        reference_image=reference_image,
        narrow_step=steps.get("narrow_step", []),
        narrow_image=image.get("narrow_image", []),
    )


def _narrow_step(narrow: SuperResolver, lr: Tensor, xt: Tensor, t: Tensor) -> Callable[[], object]:
    layout = network_layout(narrow.device)
    narrow_xt = xt.to(narrow.dtype).contiguous(memory_format=layout)
    condition = narrow.model.encode(lr.to(narrow.dtype).contiguous(memory_format=layout))
    return lambda: narrow.model(narrow_xt, t, condition)


def _time_reference_image(
    resolver: SuperResolver, procedure: ReferenceProcedure, lr: Tensor, *, x_T: Tensor
) -> float:
    generator = torch.Generator(resolver.device).manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device)

    _synchronize(resolver.device)
    started = time.perf_counter()
    reference_sample(
        procedure, lr, torch.zeros_like(x_T), betas=resolver.schedule.betas, x_T=x_T, noise=noise
    )
    _synchronize(resolver.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
