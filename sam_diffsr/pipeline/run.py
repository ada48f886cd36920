"""One batch from a low-resolution tensor to a super-resolved one: pad, encode, sample, crop, add up.

Everything random comes from one generator an image, drawn for the whole canvas, so a result depends on
neither batch nor tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sam_diffsr.diffusion import NoiseSchedule
from sam_diffsr.diffusion.noise import ImageNoise
from sam_diffsr.diffusion.samplers import SAMPLERS, SamplerName
from sam_diffsr.errors import DeviceMemoryError, NumericalError
from sam_diffsr.models import DiffSR
from sam_diffsr.pipeline.canvas import Enlarged, NoisyStart
from sam_diffsr.pipeline.conditioning import TiledDenoiser, condition_source, encoder_estimate
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.memory import free_memory, is_out_of_memory
from sam_diffsr.pipeline.planning import Halos, MemoryPlan, plan_memory
from sam_diffsr.pipeline.prepare import padded_size
from sam_diffsr.pipeline.progress import Progress
from sam_diffsr.pipeline.tiling import TileRunner

__all__ = ["RunOptions", "plan_batch", "run_batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How a batch is sampled and tiled; checked by the caller."""

    sampling: SamplingConfig
    """Sampler, steps, start."""
    tile: int | None
    """Side of a tile in output pixels; 0 for none, None to choose from the free memory."""
    halos: Halos
    """Output pixels around tiles."""
    max_memory: int | None = None
    """Bytes that the computation may take; None for what is free."""
    plan: MemoryPlan | None = None
    """How to divide the work; None to plan that."""


_FORGETTING: frozenset[SamplerName] = frozenset({"ddpm", "ddim"})
"""Samplers that do not look back at the estimate of the step before."""
_SILENT: frozenset[SamplerName] = frozenset({"ddim", "dpmpp_2m"})
"""Samplers that draw no noise between steps."""


def _canvases(sampling: SamplingConfig, *, previews: bool, device: torch.device) -> int:
    """Float32 RGB images of the size of the output that sampling holds at the same time."""
    looks_back = sampling.steps > 2
    if previews:  # the state, the estimate that was handed out and the next one
        return 3 if looks_back else 2
    draws = sampling.sampler not in _SILENT and device.type != "cpu"
    return 1 + (looks_back and sampling.sampler not in _FORGETTING) + draws


@torch.inference_mode()
def run_batch(
    model: DiffSR,
    config: ResolverConfig,
    schedule: NoiseSchedule,
    lr: Tensor,
    *,
    seeds: Sequence[int],
    options: RunOptions,
    progress: Progress,
) -> Tensor:
    """Super-resolve a batch.

    Args:
        model: in evaluation mode; its device and dtype are those of the computation.
        config: sizes and normalisation.
        schedule: the tables of ``config.schedule``.
        lr: ``(B, 3, h, w)`` float32 in [0, 1], h, w >= 1.
        seeds: one an image.
        options: see there.
        progress: told of every step.

    Returns:
        ``(B, 3, s*h, s*w)`` float32 in [0, 1], on the device of the canvas.

    Raises:
        NumericalError: the networks produced NaN or infinity.
        DeviceMemoryError: there is too little memory even for the smallest tile, or for the canvas.
        CancelledError: from the callback.
    """
    device = next(model.parameters()).device
    try:
        return _run(model, config, schedule, lr, seeds=seeds, options=options, progress=progress)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, DeviceMemoryError) or not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeviceMemoryError(
            f"not enough memory on {device} for an image of {tuple(lr.shape[-2:])} pixels beside its tiles "
            f"({reason}); use a smaller image or batch_size, or device='cpu'"
        ) from error


def plan_batch(
    model: DiffSR, shape: Sequence[int], *, options: RunOptions, previews: bool = False
) -> MemoryPlan:
    """How a batch is going to be divided.

    Args:
        model: the networks, where they are going to run.
        shape: of the batch, ``(B, 3, h, w)``.
        options: of the run.
        previews: whether somebody is going to be told of every step.

    Raises:
        DeviceMemoryError: the limit cannot hold the canvas and one tile.
    """
    parameter, scale = next(model.parameters()), model.config.scale
    height, width = padded_size(shape[-2], shape[-1], model.config)
    return plan_memory(
        model.config,
        batch=shape[0],
        height=height * scale,
        width=width * scale,
        itemsize=parameter.element_size(),
        tile=options.tile,
        halos=options.halos,
        canvases=_canvases(options.sampling, previews=previews, device=parameter.device),
        once=options.sampling.steps == 1,
        device=parameter.device,
        free=free_memory(parameter.device),
        free_on_host=free_memory(torch.device("cpu")),
        limit=options.max_memory,
    )


def _run(
    model: DiffSR,
    config: ResolverConfig,
    schedule: NoiseSchedule,
    lr: Tensor,
    *,
    seeds: Sequence[int],
    options: RunOptions,
    progress: Progress,
) -> Tensor:
    scale, sampling = config.model.scale, options.sampling
    parameter = next(model.parameters())
    plan = options.plan or plan_batch(model, lr.shape, options=options, previews=progress.previews)
    height, width = (side * scale for side in padded_size(lr.shape[-2], lr.shape[-1], config.model))
    tiles = partial(
        TileRunner,
        *(height, width),
        size=plan.tile,
        halo=options.halos.denoiser,
        receptive_field=config.model.denoiser.receptive_field,
        align=config.model.lr_multiple * scale,
        device=parameter.device,
    )
    if schedule.betas.device != plan.canvas:
        schedule = NoiseSchedule.from_config(config.schedule).to(plan.canvas)
    enlarged = Enlarged(
        lr.to(plan.canvas),
        scale=scale,
        residual_scale=config.normalization.residual_scale,
        white=255 / config.normalization.lr_up_levels,
    )
    nothing = torch.zeros((), device=plan.canvas).expand(len(lr), 3, height, width)
    progress.start(lambda: enlarged.to_image(nothing))
    source = condition_source(model, lr, plan=plan, halos=options.halos, on_tile=progress.encoded)
    noise, state = ImageNoise(seeds), None
    with torch.inference_mode(False):  # what is made inside could not take part in a training step
        x = torch.empty(len(lr), 3, height, width, device=plan.canvas)
    noise.fill(x)
    if sampling.start is not None:
        estimate = encoder_estimate(source, runner=tiles(), device=plan.canvas, on_tile=progress.encoded)
        state = NoisyStart(x, estimate, enlarged, t=sampling.start, schedule=schedule)
        del estimate
        if not plan.rolling:
            state.until(height)

    def prepare(first: int, stop: int) -> None:
        source.release(first if state is None else min(first, state.unseen))
        if state is not None:
            state.until(stop)
        source.prepare(stop)

    def on_tile(share: float) -> None:
        if share < 1 or progress.previews:
            progress.tile(share)
        else:
            progress.step()

    def report(step: int, total: int, x0: Tensor) -> None:
        progress.step(lambda: enlarged.to_image(x0))

    denoiser = TiledDenoiser(model, source, runner=tiles(), on_tile=on_tile, prepare=prepare)
    x0 = SAMPLERS[sampling.sampler](
        denoiser,
        x,
        schedule,
        steps=sampling.steps,
        noise=noise,
        start=sampling.start,
        spacing=sampling.spacing,
        callback=report if progress.previews else None,  # an estimate to be handed out is one more canvas
        overwrite=True,
    )
    del x
    sr = enlarged.to_image(x0, overwrite=not progress.previews)
    if not (denoiser.finite and bool(torch.isfinite(sr.sum()))):
        raise NumericalError(
            f"the networks produced NaN or infinity in {str(parameter.dtype).removeprefix('torch.')}; use "
            "dtype='fp32', and if that is what was used, check the weights"
        )
    return sr
