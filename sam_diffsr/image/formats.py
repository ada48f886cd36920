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


@dataclass(frozen=True, slots=True)
class _Format:
    """What a file format can hold, beside 8-bit gray and RGB."""

    modes: str = ""
    """PIL modes with transparency, 16 bits or floats."""
    keeps: str = ""
    """Entries of ``Image.info``; ``colour`` stands for PNG's colour chunks."""
    side: int = 2**31 - 1
    """Most pixels of a side."""
    block: int | None = None
    """Most bytes of EXIF, and of XMP."""


_FORMATS = {
    "PNG": _Format("LA RGBA I;16", "exif icc_profile dpi xmp colour"),
    "JPEG": _Format("", "exif icc_profile dpi xmp", side=65500, block=65504),
    "WEBP": _Format("LA RGBA", "exif icc_profile xmp", side=16383),
    "TIFF": _Format("LA RGBA I;16 F", "exif icc_profile dpi xmp"),
    "AVIF": _Format("LA RGBA", "exif icc_profile xmp", side=32768),
    "HEIF": _Format("LA RGBA", "exif icc_profile xmp", side=16384),
    "JPEG2000": _Format("LA RGBA I;16"),
    "GIF": _Format("LA RGBA", side=65535),
    "BMP": _Format("", "dpi"),
    "PPM": _Format("I;16"),
    "TGA": _Format("LA RGBA", side=65535),
}
"""Formats that results are written in; GIF, which has 256 colours, only for animations."""
ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats of animations."""
FRAMES = "frames"
"""Entry of ``Image.info`` with the further frames of an animation."""
_DEMANDS = {
    "LA": ("has transparency", ".png or .webp"),
    "RGBA": ("has transparency", ".png or .webp"),
    "I;16": ("has 16 bits a sample", ".png or .tif"),
    "F": ("has float samples", ".tif"),
}
"""What a PIL mode needs, and where it finds it."""
_LOST = {"exif": "EXIF block", "icc_profile": "colour profile"}
"""Metadata that are warned of where they cannot be kept."""
_COMMON = ".png, .jpg, .webp, .tif, .avif or .jp2"


def output_format(ending: str) -> str | None:
    """Pillow's name of the format that an ending stands for, if results can be written in it."""
    register_formats()
    name = Image.registered_extensions().get(ending.lower())
    return name if name in _FORMATS and name in Image.SAVE else None


def format_of(target: Path) -> str:
    """Pillow's name of the format of a file to write, by its ending."""
    name = output_format(target.suffix)
    if name is None:
        raise OutputError(
            f"cannot write {str(target)!r}: {target.suffix or 'no ending'!r} is not the ending of a format "
            f"that results are written in; use {_COMMON}"
        )
    return name


def kept_entries(file_format: str) -> list[str]:
    """Kinds of metadata that a format can hold."""
    return _FORMATS[file_format].keeps.split()


def check_output(
    target: Path, form: ImageFormat, *, width: int, height: int, strip_metadata: bool = False
) -> None:
    """Refuse, before anything is computed, what :func:`~sam_diffsr.image.save_image` could not write.

    ``form`` is that of the decoded source. The folder of ``target`` may still have to be made.

    Raises:
        OutputError: an ending, a place, a name or an image that cannot be written.
    """
    check_file(target)
    info: Mapping[Any, Any] = {} if strip_metadata else form.metadata
    check_image(repr(str(target)), format_of(target), form.pil_mode, (width, height), info)


def check_file(target: Path) -> None:
    """Refuse a place that cannot be written: looked up in the file system, nothing is made."""
    problem = _problem_of_place(target)
    if problem is not None:
        raise OutputError(f"cannot write {str(target)!r}: {problem}")


def _problem_of_place(target: Path) -> str | None:
    try:
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            return f"there is a {'folder' if stat.S_ISDIR(mode) else 'device or pipe'} of this name"
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return "its name is too long; use --suffix or another name"
        return f"{getattr(error, 'strerror', None) or error}; choose another place"
    folder = Path(os.path.realpath(target)).parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        return f"{str(folder)!r} is not a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write into {str(folder)!r}; choose another folder"
    return None


def check_image(
    name: str, file_format: str, mode: str, size: tuple[int, int], info: Mapping[Any, Any]
) -> None:
    """Refuse an image of a mode, a ``(width, height)`` or metadata that a format cannot hold.

    Warns where metadata are lost or colours would look different.
    """
    able = _FORMATS[file_format]
    if file_format == "GIF" and FRAMES not in info:
        raise OutputError(
            f"cannot write {name}: GIF has 256 colours and is written for animations only; use {_COMMON}"
        )
    if mode in _DEMANDS and mode not in able.modes.split():
        demand, better = _DEMANDS[mode]
        raise OutputError(
            f"cannot write {name}: the image {demand} (mode {mode}), which {file_format} cannot hold; "
            f"use {better}, or convert the image"
        )
    if max(size) > able.side:
        raise OutputError(
            f"cannot write {name}: {file_format} cannot hold {size[0]} x {size[1]} pixels, only "
            f"{able.side} a side; use .png or .tif, or a smaller scale"
        )
    if able.block is not None:
        exif = info.get("exif") and exif_for_size(info["exif"], width=size[0], height=size[1])
        for label, content in (("EXIF", exif), ("XMP", info.get("xmp"))):
            if content and len(content) > able.block:
                raise OutputError(
                    f"cannot write {name}: {file_format} cannot hold {len(content)} bytes of {label}, "
                    "only 64 KB; leave metadata out (--strip-metadata), or use .png or .tif"
                )
    keeps = able.keeps.split()
    lost = [label for entry, label in _LOST.items() if info.get(entry) and entry not in keeps]
    if lost:
        warnings.warn(
            f"{file_format} has no place for the {' and the '.join(lost)} of {name}; use .png", stacklevel=3
        )
    kept = "colour" in keeps and ("cicp" not in info or _png_takes_cicp())
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


def _unusual_colours(info: Mapping[Any, Any]) -> bool:
    """Whether PNG chunks describe other colours than those of sRGB."""
    if (cicp := info.get("cicp")) is not None:
        return bytes(cicp[:2]) != b"\x01\x0d"
    if info.get("srgb") is not None:
        return False
    srgb = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    chromaticity: tuple[float, ...] = info.get("chromaticity") or srgb
    gamma: float = info.get("gamma") or 0.45455
    distance = max(abs(a - b) for a, b in zip(chromaticity, srgb, strict=False))
    return abs(gamma - 0.45455) > 0.02 or distance > 0.005
