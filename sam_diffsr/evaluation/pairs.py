"""Finds the ground truth and the input that belong together, and reads or makes them.

The field's conventions hold: the truth is cropped at the bottom and right to a multiple of the scale, the
input is MATLAB's bicubic reduction of the rest, and both are 8-bit.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sam_diffsr.data import find_dataset
from sam_diffsr.data.degrade import Degradation
from sam_diffsr.errors import ImageError
from sam_diffsr.image import decode_image, image_size
from sam_diffsr.image.jobs import find_images
from sam_diffsr.resize import imresize

PathLike = str | os.PathLike[str]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Ground truth and input of one image, on the CPU."""

    name: str
    """File name of the truth."""
    hr: Tensor
    """``(1, 3, s*h, s*w)`` uint8."""
    lr: Tensor
    """``(1, 3, h, w)`` uint8."""
    full_size: Size
    """Height and width of the file, before it was cropped."""
    gray: bool = False
    """Whether the truth's file has one channel."""

    @property
    def stem(self) -> str:
        """Name without ending."""
        return Path(self.name).stem

    @property
    def cropped(self) -> bool:
        """Whether the file's sides are no multiples of the scale, so that it was cropped."""
        return tuple(self.hr.shape[-2:]) != self.full_size


def find_pairs(
    hr: PathLike, lr: PathLike | None = None, *, scale: int, inputs: bool = True
) -> tuple[list[Path], list[Path] | None]:
    """Find truths, sorted, and an input for each; None in place of inputs that have to be made.

    ``hr`` is a data set as :func:`~sam_diffsr.data.find_dataset` knows it. Inputs are those in the folder
    ``lr``, or with ``inputs`` those of the data set, if it has any.

    Raises:
        DataError: No such data set, no images in it, or inputs for only some of them.
        ImageError: ``lr`` is no folder, or lacks inputs, which are named.
    """
    found = find_dataset(hr, scale=scale, inputs=inputs and lr is None)
    if lr is None:
        return found.hr, found.lr
    return found.hr, match_files(found.hr, find_images(lr), scale=scale, what=f"an input in {lr}")


def read_pair(
    hr_file: PathLike,
    *,
    scale: int,
    lr_file: PathLike | None = None,
    damage: Degradation | None = None,
    seed: int = 0,
    smallest: int = 1,
) -> Pair:
    """Read a truth, at least ``smallest`` pixels high and wide once it is cropped, and its input.

    Without ``lr_file`` the input is made by ``damage``, which draws from ``seed`` and the file's name, or by
    MATLAB's bicubic. A file that cannot be read or has a wrong size is an ``ImageError``.
    """
    decoded = decode_image(Path(hr_file))
    image = to_uint8(decoded.rgb)
    full = _size(image)
    height, width = (side // scale * scale for side in full)
    least = max(smallest, scale)
    if min(height, width) < least:
        raise ImageError(
            f"{hr_file} has {full[1]}x{full[0]} pixels; at least {least} of each are needed to score it"
        )
    hr = image[..., :height, :width].contiguous()
    name, gray = Path(hr_file).name, decoded.format.grayscale
    if lr_file is not None:
        lr = read_image(lr_file)
        check_size(lr_file, [_size(lr)], hr_file, full, scale=scale, result=False)
    elif damage is not None:
        lr = damage(hr, scale=scale, seed=(seed + zlib.crc32(os.fsencode(name))) % 2**31)
        lr = to_gray(lr) if gray else lr
    else:
        lr = imresize(hr, 1 / scale)
    return Pair(name=name, hr=hr, lr=lr, full_size=full, gray=gray)


def read_image(file: PathLike) -> Tensor:
    """Colours of a file as ``(1, 3, H, W)`` uint8 without transparency; raises ``ImageError``."""
    return to_uint8(decode_image(Path(file)).rgb)


def to_uint8(image: Tensor) -> Tensor:
    """Clip to [0, 1] and round to 8 bit, as a saved file would be; uint8 is returned unchanged."""
    return image if image.dtype == torch.uint8 else (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def to_gray(image: Tensor) -> Tensor:
    """Mean of the channels of a uint8 image, repeated: what ``upscale`` saves for a gray input."""
    return image.float().mean(dim=1, keepdim=True).round().to(torch.uint8).expand_as(image).contiguous()


def check_names(truths: Sequence[PathLike], *, unclear: str) -> None:
    """Refuse truths that differ only in their endings; ``unclear`` says what would be."""
    seen: dict[str, Path] = {}
    for truth in map(Path, truths):
        if truth.stem in seen:
            raise ImageError(
                f"{seen[truth.stem]} and {truth} differ only in their endings, so it is not clear {unclear}; "
                "rename one"
            )
        seen[truth.stem] = truth


def match_files(
    truths: Sequence[PathLike], others: Sequence[PathLike], *, scale: int, what: str
) -> list[Path]:
    """Find each truth's counterpart by name: ``0001``, ``0001x4`` or ``0001_x4``, each also with ``_out``.

    Endings do not count, nor does ``_SRF_4_HR`` in the truth's name. A truth with no or several counterparts
    is an ``ImageError``, where ``what`` names the counterpart, such as ``"a result in FOLDER"``.
    """
    check_names(truths, unclear=f"which of them has {what}")
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for other in map(Path, others):
        by_stem[other.stem].append(other)
    found: list[Path] = []
    missing: list[str] = []
    for truth in map(Path, truths):
        bare = truth.stem.removesuffix(f"_SRF_{scale}_HR")
        tails = [f"{size}{out}" for out in ("", "_out") for size in ("", f"x{scale}", f"_x{scale}")]
        stems = {stem + tail: None for stem in (truth.stem, bare) for tail in tails}
        if bare != truth.stem:
            stems |= {f"{bare}_SRF_{scale}_LR": None, f"{bare}_SRF_{scale}": None}
        candidates = [path for stem in stems for path in by_stem[stem]]
        if len(candidates) > 1:
            raise ImageError(
                f"{truth} has several counterparts: {', '.join(map(str, candidates))}; leave one of them"
            )
        found += candidates
        missing += [] if candidates else [truth.name]
    if missing:
        first, most = Path(truths[0]).stem, 5
        some = ", ".join(missing[:most]) + (f" and {len(missing) - most} more" if missing[most:] else "")
        raise ImageError(
            f"{len(missing)} of {len(truths)} images do not have {what}: {some}; names must be "
            f"those of the truth ({first}, {first}x{scale} or {first}_x{scale}, also with _out), any ending"
        )
    return found


def check_sizes(
    truths: Sequence[PathLike], files: Sequence[PathLike] | None, *, scale: int, result: bool = False
) -> None:
    """Compare the sizes of truths and inputs, or results, by their headers, before any image is enlarged.

    A header may not know the orientation, so height and width may be exchanged here; :func:`read_pair` and
    the methods check the decoded images.
    """
    for index, truth in enumerate(truths):
        full = image_size(truth)
        if files is not None:
            height, width = image_size(files[index])
            sizes = [(height, width), (width, height)]
            check_size(files[index], sizes, truth, full, scale=scale, result=result)


def check_size(
    file: PathLike, sizes: Sequence[Size], truth: PathLike, full: Size, *, scale: int, result: bool
) -> None:
    """Refuse a file unless one of its possible sizes fits a truth of size ``full``.

    An input must be ``scale`` times smaller than the cropped truth, a result as large as the truth, whole or
    cropped.
    """
    height, width = full[0] // scale, full[1] // scale
    fitting = [full, (scale * height, scale * width)] if result else [(height, width)]
    if not {*sizes} & {*fitting}:
        expected = " or ".join(dict.fromkeys(f"{size[1]}x{size[0]}" for size in fitting))
        raise ImageError(
            f"{file} has {sizes[0][1]}x{sizes[0][0]} pixels; expected {expected}, because {truth} has "
            f"{full[1]}x{full[0]} and the scale is {scale}; nothing is resized to fit"
        )


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]
