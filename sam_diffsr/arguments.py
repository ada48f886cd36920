"""Arguments of public calls: numbers, seeds, and the names that users of other libraries try."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import ArgumentError

Seeds = int | Sequence[int] | NDArray[Any]
P = ParamSpec("P")
R = TypeVar("R")

_NAMES_ELSEWHERE = {
    "device_map": "device",
    "torch_dtype": "dtype",
    "num_inference_steps": "steps",
    "num_steps": "steps",
    "generator": "seed",
    "scale": "outscale",
    "tile_overlap": "halo",
    "tile_pad": "halo",
    "tile_size": "tile",
}
"""Names that diffusers, Real-ESRGAN and others use, and ours for them."""


def explains_names(*further: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a method: an unknown keyword raises ``ArgumentError``, which gives the right name.

    ``further`` are the names of its ``**options``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _self, *names = inspect.signature(function).parameters
        known = [name for name in names if name != "options"] + [*further]

        @functools.wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> R:
            for name in options.keys() - known:
                ours = _NAMES_ELSEWHERE.get(name)
                near = [ours] if ours in known else difflib.get_close_matches(name, known, n=1)
                hint = f"it is called {near[0]} here" if near else f"expected some of {', '.join(known)}"
                raise ArgumentError(f"{function.__name__} has no argument {name}; {hint}")
            return function(*args, **options)

        return checked

    return decorate


def is_number(value: object) -> bool:
    """Whether it is a Python or NumPy integer or float, and not a truth value."""
    return is_integer(value) or isinstance(value, float | np.floating)


def is_integer(value: object) -> bool:
    """Whether it is a Python or NumPy integer, and neither a float nor a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def resolve_seeds(seed: Seeds, count: int) -> list[int]:
    """One seed per image: ``seed``, ``seed + 1``, ... or the given ones.

    Raises:
        ArgumentError: not integers, negative, or another number of seeds than of images.
    """
    given: Any = seed.tolist() if isinstance(seed, np.ndarray) else seed
    if is_integer(given):
        given = range(int(given), int(given) + count)
    seeds = list(cast("Sequence[Any]", given)) if isinstance(given, Sequence) else [given] * count
    if len(seeds) != count:
        raise ArgumentError(f"seed must be one integer or {count} of them, one per image; got {len(seeds)}")
    if not all(is_integer(value) and 0 <= value < 2**63 for value in seeds):
        raise ArgumentError(f"seeds must be integers from 0 to 2**63 - 1, got {seeds}")
    return [int(value) for value in seeds]
