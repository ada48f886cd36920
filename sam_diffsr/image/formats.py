"""File formats of results: what each can hold. Everything that can be refused is refused before the work."""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from sam_diffsr.errors import OutputError
from sam_diffsr.image.kinds import ImageFormat
from sam_diffsr.image.metadata import exif_for_size
from sam_diffsr.image.read import register_formats

__all__ = ["ANIMATED", "FRAMES", "check_file", "check_image", "check_output", "format_of", "output_format"]

_SIDE = 2**31 - 1
_MARKER = 65533
"""Bytes that a block of metadata may have in JPEG."""
_TRANSPARENT, _DEEP, _FLOAT = {"LA", "RGBA"}, {"I;16"}, {"F"}


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a file format can hold, beside 8-bit gray and RGB."""

    modes: set[str]
    """PIL modes with transparency, 16 bits or floats."""
    keeps: frozenset[str]
    """Entries of ``Image.info``; ``text`` stands for all texts, ``colour`` for PNG's colour chunks."""
    side: int = _SIDE
    """Most pixels of a side."""
    marker: int | None = None
    """Most bytes of EXIF, and of XMP."""


def _keeps(names: str) -> frozenset[str]:
    return frozenset(names.split())


_FORMATS: dict[str, _Limits] = {
    "PNG": _Limits(_TRANSPARENT | _DEEP, _keeps("exif icc_profile dpi xmp text colour")),
    "JPEG": _Limits(set(), _keeps("exif icc_profile dpi xmp"), side=65500, marker=_MARKER),
    "WEBP": _Limits(_TRANSPARENT, _keeps("exif icc_profile xmp"), side=16383),
    "TIFF": _Limits(_TRANSPARENT | _DEEP | _FLOAT, _keeps("exif icc_profile dpi xmp")),
    "AVIF": _Limits(_TRANSPARENT, _keeps("exif icc_profile xmp"), side=32768),
    "HEIF": _Limits(_TRANSPARENT, _keeps("exif icc_profile xmp"), side=16384),
    "JPEG2000": _Limits(_TRANSPARENT | _DEEP, frozenset()),
    "GIF": _Limits(_TRANSPARENT, frozenset(), side=65535),
    "BMP": _Limits(set(), _keeps("dpi")),
    "PPM": _Limits(_DEEP, frozenset()),
    "TGA": _Limits(_TRANSPARENT, frozenset(), side=65535),
}
"""Formats that results are written in; GIF, which has 256 colours, only for animations."""
ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats of animations."""
FRAMES = "frames"
"""Entry of ``Image.info`` with the further frames of an animation."""
_REASONS = {
    "LA": "has transparency",
    "RGBA": "has transparency",
    "I;16": "has 16 bits a sample",
    "F": "has float samples",
}
_LOST = {"exif": "EXIF block", "icc_profile": "colour profile"}
"""Metadata that are warned of where they cannot be kept."""
_COMMON = ".png, .jpg, .webp, .tif, .avif or .jp2"


def output_format(ending: str) -> str | None:
    """Pillow's name of the format that an ending stands for, if results can be written in it."""
    register_formats()
    name = Image.registered_extensions().get(ending.lower())
    return name if name in _FORMATS and name in Image.SAVE else None


def format_of(target: Path) -> str:
    """Pillow's name of the format of a file to write.

    Raises:
        OutputError: the ending stands for none that can be written.
    """
    name = output_format(target.suffix)
    if name is None:
        raise OutputError(
            f"cannot write {str(target)!r}: {target.suffix or 'no ending'!r} is not the ending of a format "
            f"that results are written in; use {_COMMON}"
        )
    return name


def check_output(
    target: Path, form: ImageFormat, *, width: int, height: int, strip_metadata: bool = False
) -> None:
    """Refuse, before anything is computed, what could not be written afterwards.

    Args:
        target: file to write; its folder may still have to be made.
        form: of the decoded source.
        width: of the result.
        height: of the result.
        strip_metadata: as in :func:`~sam_diffsr.image.save_image`.

    Raises:
        OutputError: an ending, a place, a name or an image that cannot be written.
    """
    check_file(target)
    info = {} if strip_metadata else dict(form.metadata)
    check_image(target, format_of(target), form.pil_mode, (width, height), info)


def check_file(target: Path) -> None:
    """Refuse a place that cannot be written: looked up in the file system, nothing is made.

    Raises:
        OutputError: a folder, a device or a loop of that name, a name that is too long, or a folder (the
            nearest one that exists) in which nothing may be made.
    """

    def refused(reason: str) -> OutputError:
        return OutputError(f"cannot write {str(target)!r}: {reason}")

    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise refused("its name is too long; use --suffix or another name") from error
        if not isinstance(error, NotADirectoryError):
            raise refused(f"{getattr(error, 'strerror', None) or error}; choose another place") from error
    else:
        if stat.S_ISDIR(mode):
            raise refused("there is a folder of this name")
        if not stat.S_ISREG(mode):
            raise refused("there is a device or pipe of this name")
    folder = Path(os.path.realpath(target)).parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise refused(f"{str(folder)!r} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise refused(f"no permission to write into {str(folder)!r}; choose another folder")


def check_image(
    target: Path | str, file_format: str, mode: str, size: tuple[int, int], info: Mapping[Any, Any]
) -> None:
    """Refuse an image that a format cannot hold; warn where colours would look different.

    Args:
        target: as messages call it.
        file_format: from :func:`format_of`.
        mode: PIL mode of the image.
        size: its width and height.
        info: metadata to be written with it.

    Raises:
        OutputError: too large, too deep, transparent, or with too long metadata for this format.
    """
    limits, name = _FORMATS[file_format], repr(str(target))
    if file_format == "GIF" and FRAMES not in info:
        raise OutputError(
            f"cannot write {name}: GIF has 256 colours and is written for animations only; use {_COMMON}"
        )
    if mode in _REASONS and mode not in limits.modes:
        better = [
            f".{other.lower().replace('tiff', 'tif')}"
            for other, able in _FORMATS.items()
            if mode in able.modes
        ]
        raise OutputError(
            f"cannot write {name}: the image {_REASONS[mode]} (mode {mode}), which {file_format} cannot "
            f"hold; use {' or '.join(better[:2])}, or convert the image"
        )
    if max(size) > limits.side:
        raise OutputError(
            f"cannot write {name}: {file_format} cannot hold {size[0]} x {size[1]} pixels, only "
            f"{limits.side} a side; use .png or .tif, or a smaller scale"
        )
    for entry in ("exif", "xmp"):
        content = info.get(entry, b"")
        if entry == "exif" and isinstance(content, bytes) and content:
            content = exif_for_size(content, width=size[0], height=size[1])
        if limits.marker is not None and isinstance(content, bytes) and len(content) > limits.marker - 29:
            raise OutputError(
                f"cannot write {name}: {file_format} cannot hold {len(content)} bytes of {entry.upper()}, "
                "only 64 KB; leave metadata out (--strip-metadata), or use .png or .tif"
            )
    lost = [label for entry, label in _LOST.items() if info.get(entry) and entry not in limits.keeps]
    if lost:
        warnings.warn(
            f"{file_format} has no place for the {' and the '.join(lost)} of {name}; use .png", stacklevel=3
        )
    kept = "colour" in limits.keeps and ("cicp" not in info or _png_takes_cicp())
    if not kept and "icc_profile" not in info and _unusual_colours(info):
        advice = "a newer Pillow" if file_format == "PNG" else ".png"
        warnings.warn(
            f"there is no place in {file_format} for the gAMA, cHRM or cICP chunk that describes the colours "
            f"of {name}, which will look different; use {advice}",
            stacklevel=3,
        )


@cache
def _png_takes_cicp() -> bool:
    """Whether this version of Pillow writes the cICP chunk."""
    file, chunks = io.BytesIO(), PngImagePlugin.PngInfo()
    chunks.add(b"cICP", bytes(4))
    Image.new("L", (1, 1)).save(file, format="PNG", pnginfo=chunks)
    return b"cICP" in file.getvalue()


def kept_entries(file_format: str) -> frozenset[str]:
    """Kinds of metadata that a format can hold."""
    return _FORMATS[file_format].keeps


def _unusual_colours(info: Mapping[Any, Any]) -> bool:
    """Whether PNG chunks describe other colours than those of sRGB."""
    if (cicp := info.get("cicp")) is not None:
        return bytes(cicp[:2]) != b"\x01\x0d"
    if info.get("srgb") is not None:
        return False
    srgb = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    chromaticity: tuple[float, ...] = info.get("chromaticity") or srgb
    gamma: float = info.get("gamma") or 0.45455
    return abs(gamma - 0.45455) > 0.02 or any(
        abs(a - b) > 0.005 for a, b in zip(chromaticity, srgb, strict=False)
    )
