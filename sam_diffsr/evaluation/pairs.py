"""Which files belong together, and the ground truth and input that are made of them.

The conventions of the field: the truth is cropped at the bottom and right to a multiple of the scale, the
input is MATLAB's bicubic reduction of what is left, and both are 8-bit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sam_diffsr.errors import ImageError
from sam_diffsr.image import decode_image
from sam_diffsr.image.read import open_file
from sam_diffsr.resize import imresize

__all__ = [
    "Pair",
    "check_names",
    "check_sizes",
    "make_pair",
    "match_files",
    "read_image",
    "read_pair",
    "to_uint8",
]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Ground truth and input of one image, on the CPU."""

    name: str
    """File name of the truth."""
    hr: Tensor
    """``(1, 3, s*h, s*w)`` uint8."""
    lr: Tensor
    """``(1, 3, h, w)`` uint8."""
    full_size: tuple[int, int]
    """Height and width of the file, before it was cropped."""

    @property
    def stem(self) -> str:
        """Name without ending."""
        return Path(self.name).stem

    @property
    def cropped(self) -> bool:
        """Whether pixels of the file were left out, because its sides are no multiples of the scale."""
        return tuple(self.hr.shape[-2:]) != self.full_size


def read_pair(hr_file: PathLike, *, scale: int, lr_file: PathLike | None = None, smallest: int = 1) -> Pair:
    """Read the truth and its input, or make the input.

    Args:
        hr_file: ground truth of any size, cropped at the bottom and right to a multiple of the scale.
        scale: factor between the two.
        lr_file: the input; None makes it by MATLAB's bicubic, rounded to 8 bit.
        smallest: least height and width of the cropped truth.

    Raises:
        ImageError: a file cannot be read, the truth is too small, or the input is not exactly ``scale`` times
            smaller than the cropped truth.
    """
    image = read_image(hr_file)
    full = (image.shape[-2], image.shape[-1])
    height, width = (side // scale * scale for side in full)
    if min(height, width) < max(smallest, scale):
        raise ImageError(
            f"{hr_file} has {full[0]}x{full[1]} pixels; at least {max(smallest, scale)} of each "
            "are needed to score it"
        )
    hr = image[..., :height, :width].contiguous()
    if lr_file is None:
        lr = imresize(hr, 1 / scale)
    else:
        lr = read_image(lr_file)
        _check_lr(Path(lr_file), (lr.shape[-2], lr.shape[-1]), hr_file, full, scale)
    return Pair(name=Path(hr_file).name, hr=hr, lr=lr, full_size=full)


def make_pair(file: PathLike, *, scale: int, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """The truth and its bicubic reduction of :func:`read_pair` as floats, for code that goes on computing.

    Returns:
        ``hr`` ``(1, 3, s*h, s*w)`` and ``lr`` ``(1, 3, h, w)``, float32 in [0, 1], whole numbers of 255ths.

    Raises:
        ImageError: it cannot be read or is too small.
    """
    pair = read_pair(file, scale=scale, smallest=smallest)
    return pair.hr.float() / 255, pair.lr.float() / 255


def read_image(file: PathLike) -> Tensor:
    """Colours of a file as ``(1, 3, H, W)`` uint8; gray is repeated, transparency is left out.

    Raises:
        ImageError: it cannot be read.
    """
    return to_uint8(decode_image(Path(file)).rgb)


def to_uint8(image: Tensor) -> Tensor:
    """Clip to [0, 1] and round to 8 bit, as a saved file would be; uint8 comes back as it is."""
    return image if image.dtype == torch.uint8 else (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def check_names(truths: Sequence[PathLike], *, doubt: str) -> None:
    """Refuse truths that only their endings tell apart, where endings do not count.

    Args:
        truths: ground-truth files.
        doubt: what is not clear then, such as ``"which of them has an input"``.

    Raises:
        ImageError: two share a name; both are named.
    """
    seen: dict[str, Path] = {}
    for truth in map(Path, truths):
        if truth.stem in seen:
            raise ImageError(
                f"{seen[truth.stem]} and {truth} have the same name without ending, so it is not "
                f"clear {doubt}; rename one"
            )
        seen[truth.stem] = truth


def match_files(
    truths: Sequence[PathLike], others: Sequence[PathLike], *, scale: int, what: str
) -> list[Path]:
    """For each truth its counterpart by name: ``0001``, ``0001x4`` or ``0001_x4``, each also with ``_out``.

    Endings do not count. What belongs to no truth is left alone.

    Args:
        truths: ground-truth files.
        others: the files to choose from.
        scale: the number behind the ``x``.
        what: how errors call the counterpart, such as ``"an image in results"``.

    Returns:
        One file a truth, in their order.

    Raises:
        ImageError: truths that share a name, have no counterpart, or have several; all are named.
    """
    check_names(truths, doubt=f"which of them has {what}")
    by_stem: dict[str, list[Path]] = {}
    for other in map(Path, others):
        by_stem.setdefault(other.stem, []).append(other)
    found: list[Path] = []
    missing: list[str] = []
    for truth in map(Path, truths):
        stems = [
            f"{truth.stem}{size}{tail}" for tail in ("", "_out") for size in ("", f"x{scale}", f"_x{scale}")
        ]
        candidates = [path for stem in stems for path in by_stem.get(stem, [])]
        if len(candidates) > 1:
            raise ImageError(
                f"{truth} has several counterparts: {', '.join(map(str, candidates))}; leave one of them"
            )
        found += candidates
        missing += [] if candidates else [truth.name]
    if missing:
        first = Path(truths[0]).stem
        raise ImageError(
            f"{len(missing)} of {len(truths)} images do not have {what}: {_some(missing)}; names must be "
            f"those of the truth ({first}, {first}x{scale} or {first}_x{scale}, also with _out), any ending"
        )
    return found


def check_sizes(
    truths: Sequence[PathLike],
    *,
    scale: int,
    inputs: Sequence[PathLike] | None = None,
    results: Sequence[Sequence[PathLike]] = (),
) -> None:
    """Compare the sizes of all files by their headers, before any work is done for the first of them.

    No pixel is decoded. Orientation, which may stand behind the pixels, is not looked at: a size passes in
    either order here, and :func:`read_pair` and the methods check again what they read.

    Args:
        truths: ground truths.
        scale: factor between input and truth.
        inputs: their low-resolution files; None where these are made.
        results: for each folder of results, one file a truth.

    Raises:
        ImageError: a file cannot be opened, an input is not exactly ``scale`` times smaller than the cropped
            truth, or a result is neither as large as the truth nor as large as the cropped truth.
    """
    for index, truth in enumerate(truths):
        full = _header_size(truth)
        if inputs is not None:
            lr_file, lr = Path(inputs[index]), _header_size(inputs[index])
            if lr[::-1] != (full[0] // scale, full[1] // scale):
                _check_lr(lr_file, lr, truth, full, scale)
        cropped = (full[0] // scale * scale, full[1] // scale * scale)
        for files in results:
            size = _header_size(files[index])
            if not {size, size[::-1]} & {full, cropped}:
                raise ImageError(
                    f"{files[index]} has {size[0]}x{size[1]} pixels, but {truth} has {full[0]}x{full[1]}"
                    + ("" if full == cropped else f", cropped to {cropped[0]}x{cropped[1]}")
                    + "; results are never resized to fit"
                )


def _check_lr(lr_file: Path, lr: tuple[int, int], hr_file: PathLike, hr: tuple[int, int], scale: int) -> None:
    expected = (hr[0] // scale, hr[1] // scale)
    if lr != expected:
        raise ImageError(
            f"{lr_file} has {lr[0]}x{lr[1]} pixels; expected {expected[0]}x{expected[1]}, which is "
            f"{hr_file} ({hr[0]}x{hr[1]}) divided by {scale}"
        )


def _header_size(file: PathLike) -> tuple[int, int]:
    """Height and width as stored."""
    with open_file(file) as image:
        return image.height, image.width


def _some(names: Sequence[str], *, most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
