"""Arguments of ``upscale`` resolved, once, into the settings of a run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from sam_diffsr.arguments import Seeds, is_integer, is_number
from sam_diffsr.config import check_choice
from sam_diffsr.diffusion.samplers import SamplerName
from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.progress import ProgressCallback

if TYPE_CHECKING:
    from typing_extensions import Unpack

Start = int | Literal["noise"] | None

_ONE_STEP_RANGE, _FOUR_STEP_RANGE = 0.35, 0.5
"""Part of the schedule that ``fidelity=0`` starts from: beyond it LPIPS gains nothing."""


class RunOptions(TypedDict, total=False):
    """Keyword arguments of :func:`resolve_settings`; :meth:`SuperResolver.upscale` describes them."""

    steps: int | None
    sampler: SamplerName | None
    start: Start
    fidelity: float | None
    ensemble: bool
    tile: int | Literal["auto"]
    halo: int | None
    batch_size: int | None
    max_memory: int | None
    wrap: bool


class MovingOptions(RunOptions, total=False):
    """Keyword arguments of :meth:`SuperResolver.upscale_animation` but for the seed."""

    outscale: float | None
    max_pixels: int | None
    progress: bool | None
    callback: ProgressCallback | None


class UpscaleOptions(MovingOptions, total=False):
    """Keyword arguments of :meth:`SuperResolver.upscale`."""

    seed: Seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One run, fully decided. Lengths are in LR pixels."""

    sampling: SamplingConfig
    """Sampler, steps, start, spacing and the encoder's share."""
    ensemble: bool
    """Average the results of the eight turned and mirrored inputs."""
    tile: int | None
    """Side of a tile; 0 for none, None to choose it from the free memory."""
    halo: int
    """Width of the halo around a tile."""
    batch_size: int | None
    """Windows that are computed together; None to choose."""
    max_memory: int | None
    """Bytes that the computation may take; None for half of the free memory."""
    margin: int
    """Pixels of the opposite borders around an image that wraps; 0 for one that does not."""

    @property
    def steps_per_tile(self) -> int:
        """Steps that progress counts for one tile."""
        return max(self.sampling.steps, 1) * (8 if self.ensemble else 1)


def resolve_settings(config: ResolverConfig, **options: Unpack[RunOptions]) -> Settings:
    """Check arguments of :meth:`SuperResolver.upscale` and fill the missing ones from the model's config.

    Raises:
        ArgumentError: an argument has a wrong type or is out of range, or two exclude each other.
    """
    numbers: dict[str, int | None] = {}
    for name, automatic, least, expected in (
        ("tile", "auto", 0, "'auto', 0 (no tiles) or a side in pixels of the input image"),
        ("halo", None, 0, "None or a number >= 0 of pixels of the input image"),
        ("batch_size", None, 1, "None or a whole number >= 1"),
        ("max_memory", None, 1, "None or a number of bytes >= 1"),
    ):
        value: Any = options.get(name, automatic)
        if value != automatic and not (is_integer(value) and value >= least):
            raise ArgumentError(f"{name} must be {expected}, got {value!r}")
        numbers[name] = None if value == automatic else int(value)
    flags = {name: options.get(name, False) for name in ("ensemble", "wrap")}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ArgumentError(f"{name} must be True or False, got {flag!r}")
    given = {name: value for name, value in options.items() if value is not None}
    halo = numbers.pop("halo")
    halo = config.lr_halo if halo is None else halo
    return Settings(
        sampling=_resolve_sampling(config, given),
        ensemble=bool(flags["ensemble"]),
        halo=halo,
        margin=config.lr_halo if flags["wrap"] else 0,
        **numbers,
    )


def _resolve_sampling(config: ResolverConfig, given: dict[str, Any]) -> SamplingConfig:
    """The model's own sampling, or that of a fidelity, with what the caller gave."""
    default, timesteps = config.sampling, config.schedule.timesteps
    if "fidelity" in given:
        if "start" in given:
            raise ArgumentError(
                f"fidelity {given['fidelity']!r} and start {given['start']!r} both choose where sampling "
                "starts; give one"
            )
        default = sampling_of_fidelity(given["fidelity"], config)
    sampler = given.get("sampler", default.sampler)
    check_choice(sampler, SamplerName, what="sampler", error=ArgumentError)
    start = given.get("start", default.start)
    start = None if start == "noise" else start
    if start is not None and not (is_integer(start) and 0 <= start < timesteps):
        raise ArgumentError(
            f"start must be 'noise' or a timestep from 0 to {timesteps - 1}, got {start!r}; "
            "small values stay close to the encoder's image"
        )
    # The default number of steps shrinks to the timesteps that a given start leaves.
    most = timesteps if start is None else int(start) + 1
    steps = given.get("steps", min(default.steps, most))
    if not (is_integer(steps) and 0 <= steps <= most):
        raise ArgumentError(
            f"steps must be a whole number from 0 (the encoder's image alone) to {most} (the timesteps from "
            f"the start down to 0), got {steps!r}"
        )
    start = None if start is None else int(start)
    share = 0.0 if "start" in given or steps == 0 else default.encoder_share
    return dataclasses.replace(default, sampler=sampler, steps=int(steps), start=start, encoder_share=share)


def sampling_of_fidelity(fidelity: float, config: ResolverConfig) -> SamplingConfig:
    """Sampling for one point between the encoder's image (1) and most noise (0), see ``docs/models.md``.

    A model whose default is one step was trained for it: down to 0.5 the encoder's share falls from 1 to 0,
    then the start rises from the model's own. Others take up to four steps of DPM-Solver++.

    Raises:
        ArgumentError: not a number from 0 to 1.
    """
    if not is_number(fidelity) or not 0 <= fidelity <= 1:
        raise ArgumentError(
            f"fidelity must be a number from 0 (most texture) to 1 (closest to the input), got {fidelity!r}"
        )
    distance, timesteps = 1 - float(fidelity), config.schedule.timesteps
    if config.sampling.steps <= 1:
        start = round((2 * distance - 1) * _ONE_STEP_RANGE * timesteps)
        return SamplingConfig(
            sampler="ddim",
            steps=min(1, math.ceil(distance)),
            start=max(start, config.sampling.start or 0),
            encoder_share=max(0.0, 1 - 2 * distance),
        )
    start = round(distance * _FOUR_STEP_RANGE * timesteps)
    steps = min(4, start + 1) if distance else 0
    share = 0.0 if distance else 1.0  # also if steps are asked for
    return SamplingConfig(sampler="dpmpp_2m", steps=steps, start=start, encoder_share=share)
