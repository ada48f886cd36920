"""Arguments of ``upscale`` resolved, once, into the settings of a run."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.diffusion.samplers import SamplerName
from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline.config import Degradation, ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.progress import ProgressCallback

__all__ = [
    "MovingOptions",
    "RunOptions",
    "Seeds",
    "Settings",
    "Start",
    "UpscaleOptions",
    "explains_names",
    "is_number",
    "resolve_seeds",
    "resolve_settings",
    "sampling_of_fidelity",
]

Seeds = int | Sequence[int] | NDArray[Any]
Start = int | Literal["noise"] | None
P = ParamSpec("P")
R = TypeVar("R")

Consistency = Literal["all", "colours"]
_CONSISTENCY: dict[Degradation | None, Consistency | None] = {
    "bicubic": "all",
    "photo": "colours",
    None: None,
}
_ONE_STEP_RANGE, _FOUR_STEP_RANGE = 0.35, 0.5
"""Share of the schedule that ``fidelity=0`` starts from: beyond it LPIPS gains nothing."""


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


class MovingOptions(RunOptions, total=False):
    """Keyword arguments of :meth:`SuperResolver.upscale_animation` but for the seed."""

    wrap: bool
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
    """Sampler, steps, start and spacing."""
    ensemble: bool
    """Average the results of the eight turned and mirrored inputs."""
    consistency: Consistency | None
    """End with one back-projection: of all that the result reduced again lacks of the input, or only of its
    colours, averaged over some pixels, if the input may be damaged."""
    tile: int | None
    """Side of a tile; 0 for none, None to choose it from the free memory."""
    halo: int
    """Width of the halo around a tile."""
    batch_size: int | None
    """Windows that are computed together; None to choose."""
    max_memory: int | None
    """Bytes that the computation may take; None for half of the free memory."""

    @property
    def steps_per_tile(self) -> int:
        """Steps that progress counts for one tile."""
        return max(self.sampling.steps, 1) * (8 if self.ensemble else 1)


def resolve_settings(
    config: ResolverConfig,
    *,
    sampler: SamplerName | None = None,
    steps: int | None = None,
    start: Start = None,
    fidelity: float | None = None,
    ensemble: bool = False,
    tile: int | Literal["auto"] = "auto",
    halo: int | None = None,
    batch_size: int | None = None,
    max_memory: int | None = None,
) -> Settings:
    """Check arguments of :meth:`SuperResolver.upscale` and fill the missing ones from the model's config.

    Raises:
        ArgumentError: an argument has a wrong type or is out of range, or two exclude each other.
    """
    if tile != "auto":
        _check_integer(tile, "tile", 0, "'auto', 0 (no tiles) or a side in pixels of the input image")
    if halo is not None:
        _check_integer(halo, "halo", 0, "None or a number >= 0 of pixels of the input image")
    if batch_size is not None:
        _check_integer(batch_size, "batch_size", 1, "None or a whole number >= 1")
    if max_memory is not None:
        _check_integer(max_memory, "max_memory", 1, "None or a number of bytes >= 1")
    if not isinstance(ensemble, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"ensemble must be True or False, got {ensemble!r}")
    return Settings(
        sampling=_resolve_sampling(config, sampler, steps, start, fidelity),
        ensemble=ensemble,
        consistency=_CONSISTENCY[config.degradation],
        tile=None if tile == "auto" else int(tile),
        halo=-(-config.halo // config.model.scale) if halo is None else int(halo),
        batch_size=None if batch_size is None else int(batch_size),
        max_memory=None if max_memory is None else int(max_memory),
    )


def sampling_of_fidelity(fidelity: float, config: ResolverConfig) -> SamplingConfig:
    """Sampling for one point between the faithful answer and most texture.

    The measured frontier is in ``docs/models.md``: the encoder's own image has the highest PSNR, and sampling
    from the encoder's image plus noise trades PSNR for detail, the more noise the more detail. A model whose
    default is one step was trained for it and takes one; others take up to four of DPM-Solver++.

    Args:
        fidelity: 1 for the encoder's image, which is the mean of all plausible images and smooth, to 0 for
            the most noise.
        config: schedule and default sampling of the model.

    Raises:
        ArgumentError: not a number from 0 to 1.
    """
    if not is_number(fidelity) or not 0 <= fidelity <= 1:
        raise ArgumentError(
            f"fidelity must be a number from 0 (most texture) to 1 (closest to the input), got {fidelity!r}"
        )
    one_step = config.sampling.steps <= 1
    share = (1 - float(fidelity)) * (_ONE_STEP_RANGE if one_step else _FOUR_STEP_RANGE)
    start = round(share * config.schedule.timesteps)
    steps = 0 if fidelity == 1 else 1 if one_step else min(4, start + 1)
    return SamplingConfig(sampler="ddim" if one_step else "dpmpp_2m", steps=steps, start=start)


def resolve_seeds(seed: Seeds, count: int) -> list[int]:
    """One seed per image: ``seed``, ``seed + 1``, ... or the given ones.

    Raises:
        ArgumentError: not integers, negative, or another number of seeds than of images.
    """
    if isinstance(seed, np.ndarray):
        seed = cast("int | list[int]", seed.tolist())
    if isinstance(seed, Sequence):
        seeds = list(seed)
    else:
        seeds = [seed + index for index in range(count)] if _is_integer(seed) else [seed] * count
    if len(seeds) != count:
        raise ArgumentError(f"seed must be one integer or {count} of them, one per image; got {len(seeds)}")
    if not all(_is_integer(value) and 0 <= value < 2**63 for value in seeds):
        raise ArgumentError(f"seeds must be integers from 0 to 2**63 - 1, got {seeds}")
    return [int(value) for value in seeds]


def explains_names(ours: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function answer keywords that it does not have with the names that it has.

    Args:
        ours: names of arguments by the names that other libraries have for them.

    Returns:
        A decorator. Its function raises ArgumentError for unknown keywords; its ``**options`` are RunOptions.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        known = [name for name in parameters if name not in ("self", "cls", "options")]
        if "options" in parameters:
            known += RunOptions.__annotations__

        @functools.wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> R:
            for name in options.keys() - known:
                near = (
                    [ours[name]] if ours.get(name) in known else difflib.get_close_matches(name, known, n=1)
                )
                hint = f"it is called {near[0]} here" if near else f"expected some of {', '.join(known)}"
                raise ArgumentError(f"{function.__name__} has no argument {name}; {hint}")
            return function(*args, **options)

        return checked

    return decorate


def _resolve_sampling(
    config: ResolverConfig,
    sampler: SamplerName | None,
    steps: int | None,
    start: Start,
    fidelity: float | None,
) -> SamplingConfig:
    """The model's own sampling, or that of a fidelity, with what the caller gave."""
    default, timesteps = config.sampling, config.schedule.timesteps
    if fidelity is not None:
        if start is not None:
            raise ArgumentError(
                f"fidelity {fidelity!r} and start {start!r} both choose where sampling starts; give one"
            )
        default = sampling_of_fidelity(fidelity, config)
    sampler = default.sampler if sampler is None else sampler
    if sampler not in get_args(SamplerName):
        raise ArgumentError(f"sampler must be one of {', '.join(get_args(SamplerName))}; got {sampler!r}")
    first = default.start if start is None else (None if start == "noise" else start)
    if first is not None and not (_is_integer(first) and 0 <= first < timesteps):
        raise ArgumentError(
            f"start must be 'noise' or a timestep from 0 to {timesteps - 1}, got {start!r}; "
            "small values stay close to the encoder's image"
        )
    # The default number of steps shrinks to the timesteps that a given start leaves.
    most = timesteps if first is None else first + 1
    steps = min(default.steps, most) if steps is None else steps
    if not (_is_integer(steps) and 0 <= steps <= most):
        raise ArgumentError(
            f"steps must be a whole number from 0 (the encoder's image alone) to {most} (the timesteps from "
            f"the start down to 0), got {steps!r}"
        )
    return dataclasses.replace(
        default, sampler=sampler, steps=int(steps), start=None if first is None else int(first)
    )


def is_number(value: object) -> bool:
    """Whether it is a Python or NumPy integer or float, and not a truth value."""
    return _is_integer(value) or isinstance(value, float | np.floating)


def _check_integer(value: Any, name: str, least: int, expected: str) -> None:
    if not _is_integer(value) or value < least:
        raise ArgumentError(f"{name} must be {expected}, got {value!r}")


def _is_integer(value: object) -> bool:
    """Whether it is a Python or NumPy integer, and neither a float nor a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
