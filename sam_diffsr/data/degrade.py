"""Damage that real photographs carry: blur, reduction, noise and JPEG, for training and for evaluation.

LR images are made as BSRGAN (arXiv 2103.14006) and Real-ESRGAN (arXiv 2107.10833) describe: each damage with
some probability, once or twice, in an order that varies. A ``Recipe`` is a list of steps; ``draw_recipe``
draws one, ``parse_degradation`` reads one from text, and ``apply_recipe`` carries it out.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sam_diffsr.config import check_fields
from sam_diffsr.errors import ArgumentError, ConfigError
from sam_diffsr.resize import imresize

DegradationName = Literal["bicubic", "photo"]
"""Named degradations: the clean MATLAB reduction, and that of photographs as people have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """How often one kind of damage happens, and how strong it is."""

    probability: float
    """Share of the images that have it, per round."""
    low: float
    """Weakest, in the damage's own unit; ``high`` is the strongest."""
    high: float

    def __post_init__(self) -> None:
        check_fields(self, "data.degradation: damage.", {"probability": "[0, 1]"})
        if not 0 <= self.low <= self.high < math.inf:
            raise ConfigError(f"a damage needs 0 <= low <= high, got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradationConfig:
    """Table ``data.degradation``: the ranges that recipes are drawn from."""

    clean: float = 0.25
    """Share of the images that are the plain bicubic reduction."""
    twice: float = 0.15
    """Share of the damaged images that go through two rounds, at two sizes."""
    blur: Damage = Damage(probability=0.4, low=0.2, high=2.5)
    """Gaussian blur before a reduction; sigma in HR pixels, low values are more likely."""
    anisotropic: float = 0.4
    """Share of the blurs that have two widths and a direction."""
    noise: Damage = Damage(probability=0.3, low=0.5, high=15.0)
    """Gaussian noise after a reduction; sigma out of 255."""
    poisson: Damage = Damage(probability=0.1, low=0.5, high=12.0)
    """Poisson noise after a reduction; its sigma at white, out of 255."""
    gray: float = 0.4
    """Share of the noises that are equal in all channels."""
    jpeg: Damage = Damage(probability=0.75, low=30, high=95)
    """JPEG after a reduction; quality of libjpeg's tables."""

    def __post_init__(self) -> None:
        shares = {"clean": "[0, 1]", "twice": "[0, 1]", "anisotropic": "[0, 1]", "gray": "[0, 1]"}
        check_fields(self, "data.degradation.", shares)
        check_fields(self.jpeg, "data.degradation.jpeg.", {"low": "[1, 100]", "high": "[1, 100]"})


PHOTO = DegradationConfig()
"""Photographs as people have them; a quarter is clean."""

Step = tuple[str, tuple[float, ...]]
"""Name of an entry of ``STEPS`` and its numbers; or ``reduce``, an index of ``KERNELS`` and the share of the
way to the final size, on a logarithmic scale."""
Recipe = tuple[Step, ...]
"""Steps in order; an empty recipe is the MATLAB bicubic reduction and nothing else."""


KERNELS: dict[str, Callable[[Tensor, float], Tensor] | None] = {
    "bicubic": None,
    "bilinear": lambda distance, factor: (1 - distance / factor).clamp(min=0),
    "area": lambda distance, factor: ((factor + 1) / 2 - distance).clamp(0, 1),  # the part that is covered
}
"""Reduction kernels: the weight of a distance in input pixels at a factor >= 1; None is MATLAB's bicubic."""


def blur(image: Tensor, numbers: Sequence[float], generator: torch.Generator) -> Tensor:
    """Gaussian blur; numbers are the two sigmas in pixels of the image and the angle in radians."""
    wide, narrow, angle = numbers
    radius = min(max(1, math.ceil(2.5 * max(wide, narrow))), min(image.shape[-2:]) - 1)
    padded = functional.pad(image, (radius,) * 4, mode="reflect")
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device="cpu")
    if wide == narrow:  # two passes along the axes
        rows = _gauss(offsets / max(wide, 1e-6)).expand(3, 1, -1)[..., None]
        return functional.conv2d(functional.conv2d(padded, rows, groups=3), rows.mT, groups=3)
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = (cosine * x + sine * y) / max(wide, 1e-6), (cosine * y - sine * x) / max(narrow, 1e-6)
    kernel = _gauss(torch.hypot(along, across))
    return functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def noise(image: Tensor, numbers: Sequence[float], generator: torch.Generator) -> Tensor:
    """Gaussian noise; numbers are sigma out of 255 and whether it is gray (1) or colour (0)."""
    sigma, gray = numbers
    shape = (len(image), 1 if gray else 3, *image.shape[-2:])
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    return image + drawn * (sigma / 255)


def poisson(image: Tensor, numbers: Sequence[float], generator: torch.Generator) -> Tensor:
    """Poisson noise; numbers are its sigma at white out of 255 and whether it is gray (1) or colour (0)."""
    sigma, gray = numbers
    if sigma == 0:
        return image
    photons = (255 / sigma) ** 2  # that make up white
    light = image.clamp(0, 1)
    light = light.mean(1, keepdim=True) if gray else light
    counted = torch.poisson(light * photons, generator=generator) / photons
    return image + (counted - light)


def jpeg(image: Tensor, numbers: Sequence[float], generator: torch.Generator) -> Tensor:
    """Written as JPEG and read again; numbers are the quality and 0 for 4:2:0 or 1 for 4:4:4."""
    quality, full = numbers
    pixels = _to_levels(image)[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(quality), subsampling=0 if full else 2)
    with Image.open(file) as read:
        result = torch.from_numpy(np.array(read.convert("RGB")))
    return result.permute(2, 0, 1)[None].float() / 255


STEPS: dict[str, Callable[[Tensor, Sequence[float], torch.Generator], Tensor]] = {
    each.__name__: each for each in (blur, noise, poisson, jpeg)
}
"""Every damage by name: takes ``(1, 3, H, W)`` in [0, 1], its numbers and a generator; same shape. All on the
CPU."""


def apply_recipe(hr: Tensor, recipe: Recipe, *, scale: int, seed: int) -> Tensor:
    """Make the low-resolution image of an image.

    Args:
        hr: ``(1, 3, H, W)`` uint8, sides multiples of ``scale``; on any device.
        recipe: the steps; the last reduction ends at ``(H / scale, W / scale)``.
        scale: how much smaller the result is.
        seed: chooses the noise.

    Returns:
        ``(1, 3, H / scale, W / scale)`` float32 of whole numbers in 0..255. Pixel centres lie where
        those of the MATLAB reduction do.

    Raises:
        ArgumentError: another shape or type, or the sides are no multiples of the scale.
    """
    if hr.dtype != torch.uint8 or hr.ndim != 4 or hr.shape[:2] != (1, 3):
        raise ArgumentError(f"expected one image (1, 3, H, W) of uint8, got {tuple(hr.shape)} of {hr.dtype}")
    height, width = hr.shape[-2:]
    if height % scale or width % scale:
        raise ArgumentError(f"sides must be multiples of the scale {scale}, got {width}x{height}")
    if not recipe:
        return imresize(hr, 1 / scale).float()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    image = hr.cpu().float() / 255
    with torch.autocast("cpu", enabled=False):
        for name, numbers in recipe:
            if name == "reduce":
                kernel, share = numbers
                rows, columns = (max(1, round(side * scale**-share)) for side in (height, width))
                image = _reduce(image, (rows, columns), list(KERNELS)[int(kernel)])
            else:
                image = STEPS[name](image, numbers, generator)
    return _to_levels(image).to(hr.device)


def draw_recipe(rng: np.random.Generator, config: DegradationConfig) -> Recipe:
    """Draw the damage of one image.

    Blur comes before the reduction of its round, noise and JPEG after it in either order. Two rounds reduce
    in two parts, so that an image is damaged at two sizes.
    """
    if rng.random() < config.clean:
        return ()
    twice = rng.random() < config.twice
    steps: list[Step] = []
    for share in (float(rng.uniform(0.0, 0.9)), 1.0) if twice else (1.0,):
        if rng.random() < config.blur.probability:
            # Narrow blurs are more likely, by the square of a uniform number.
            low, high = config.blur.low, config.blur.high
            wide, narrow = (low + (high - low) * float(rng.random()) ** 2 for _ in range(2))
            is_round = rng.random() >= config.anisotropic
            widths = (wide, wide, 0.0) if is_round else (wide, narrow, float(rng.uniform(0, math.pi)))
            steps.append(("blur", widths))
        steps.append(("reduce", (float(rng.integers(len(KERNELS))), share)))
        after: list[Step] = []
        for name, damage in (("noise", config.noise), ("poisson", config.poisson)):
            if rng.random() < damage.probability:
                gray = float(rng.random() < config.gray)
                after.append((name, (float(rng.uniform(damage.low, damage.high)), gray)))
        if rng.random() < config.jpeg.probability:
            quality = float(rng.uniform(config.jpeg.low, config.jpeg.high))
            compressed: Step = ("jpeg", (quality, float(rng.random() < 0.25)))
            # Noise usually comes before JPEG: the camera adds it.
            after.insert(len(after) if rng.random() < 0.8 else 0, compressed)
        steps += after
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Degradation:
    """A named way from an image to its low-resolution image."""

    name: str
    """The text that it was read from."""
    recipe: Recipe | None
    """Its steps; None draws other ones of ``PHOTO`` for every seed."""

    def __call__(self, hr: Tensor, *, scale: int = 4, seed: int = 0) -> Tensor:
        """Make the low-resolution image ``(1, 3, H / scale, W / scale)`` uint8, as ``apply_recipe``.

        ``seed`` chooses noise and, for ``photo``, the damage; give every image its own. Raises
        ``ArgumentError`` for a negative seed or a scale below 1, too.
        """
        if scale < 1 or seed < 0:
            raise ArgumentError(f"expected a scale >= 1 and a seed >= 0, got {scale} and {seed}")
        recipe = draw_recipe(np.random.default_rng([seed, 2]), PHOTO) if self.recipe is None else self.recipe
        return apply_recipe(hr, recipe, scale=scale, seed=seed).to(torch.uint8)


_STRENGTHS = {"blur": (0.0, 20.0), "noise": (0.0, 255.0), "poisson": (0.01, 255.0), "jpeg": (1.0, 100.0)}
"""Least and largest strength of each damage that text can name."""


def parse_degradation(text: str) -> Degradation:
    """Read a degradation's name.

    ``bicubic`` is MATLAB's reduction. ``jpeg50`` (4:2:0), ``noise10`` (Gaussian, sigma out of 255, colour),
    ``poisson5`` (sigma at white) and ``blur1.5`` (sigma in HR pixels) add one damage to it. Names joined by
    ``+``, such as ``blur1+noise5+jpeg75``, add several in this order; blur comes before the reduction, the
    rest after it. ``photo`` draws other damage for every seed, as training does.

    Raises:
        ArgumentError: the text names no degradation, or a strength is out of range.
    """
    name = text.strip().lower()
    if name in ("photo", "bicubic"):
        return Degradation(name, None if name == "photo" else ())
    before: list[Step] = []
    after: list[Step] = []
    for part in name.split("+"):
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] not in _STRENGTHS:
            raise ArgumentError(
                f"a degradation is bicubic, photo, or damages joined by + such as "
                f"{', '.join(f'{each}<number>' for each in _STRENGTHS)}; got {text!r}"
            )
        (low, high), strength = _STRENGTHS[match[1]], float(match[2])
        if not low <= strength <= high:
            raise ArgumentError(f"{match[1]} must lie in {low:g}..{high:g}, got {strength:g} in {text!r}")
        if match[1] == "blur":
            before.append(("blur", (strength, strength, 0.0)))
        else:
            after.append((match[1], (strength, 0.0)))
    return Degradation(name, (*before, ("reduce", (0.0, 1.0)), *after))


def _gauss(distance: Tensor) -> Tensor:
    """Gaussian of a distance in sigmas, with the sum 1."""
    weights = torch.exp(-0.5 * distance.square())
    return weights / weights.sum()


def _to_levels(image: Tensor) -> Tensor:
    """[0, 1] to whole numbers in 0..255, rounded half up."""
    return (image * 255 + 0.5).floor().clamp(0, 255)


def _reduce(image: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Resize by one of ``KERNELS``, antialiased; 8-bit levels before and after, as in image files."""
    levels, function = _to_levels(image), KERNELS[kernel]
    if function is None:
        return imresize(levels.to(torch.uint8), size=size).float() / 255
    rows, columns = (
        _weights(source, target, function) for source, target in zip(image.shape[-2:], size, strict=True)
    )
    return _to_levels(rows @ levels @ columns.T / 255) / 255


@lru_cache(maxsize=256)
def _weights(source: int, target: int, kernel: Callable[[Tensor, float], Tensor]) -> Tensor:
    """``(target, source)`` weights of a reduction with aligned centres and mirrored edges."""
    factor = source / target
    with torch.inference_mode(False), torch.no_grad():
        centre = (torch.arange(target, dtype=torch.float64, device="cpu") + 0.5) * factor - 0.5
        reach = math.ceil(factor) + 1
        index = centre.floor().long()[:, None] + torch.arange(-reach, reach + 1, device="cpu")
        weight = kernel((centre[:, None] - index).abs(), factor)
        weight = weight / weight.sum(1, keepdim=True)
        index = index.remainder(2 * source)
        index = torch.minimum(index, 2 * source - 1 - index)
        sums = torch.zeros(target, source, dtype=torch.float64, device="cpu")
        return sums.scatter_add_(1, index, weight).float()
