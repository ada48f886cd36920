"""Write images to files: whole or not at all."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, features

from sam_diffsr.errors import ArgumentError, ImageError, OutputError
from sam_diffsr.files import atomic_file
from sam_diffsr.image.formats import ANIMATED, FRAMES, check_file, check_image, format_of, kept_entries
from sam_diffsr.image.metadata import RESERVED_KEYS, png_texts

LOSSY = ("JPEG", "WEBP", "AVIF", "HEIF")
"""Formats that have a quality."""

Quality = int | Literal["lossless"]
"""1 (worst) to 100, or ``"lossless"``."""

_SUB_BLOCKS = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop}
"""Blocks within EXIF, which Pillow cannot write into a compressed TIFF."""


def save_image(
    image: Image.Image,
    path: str | os.PathLike[str] | IO[bytes],
    *,
    quality: Quality = 95,
    strip_metadata: bool = False,
    ending: str = ".png",
) -> None:
    """Write ``image`` to ``path``, in the format that the ending names.

    A file is written under a temporary name in the same folder and then renamed: whatever goes wrong,
    ``path`` holds what it held before, or the whole new image. A symbolic link stays one, and a file that is
    replaced keeps its permissions. EXIF, ICC profile, resolution, XMP and PNG's text and colour chunks are
    taken from ``image.info``, as far as the format has a place for them. JPEG and AVIF store colour in full
    resolution. TIFF is compressed by LZW, except with camera data in EXIF, which Pillow cannot write then.

    Args:
        image: any PIL image; mode ``"I"`` with values in 0..65535 is written as 16-bit gray.
        path: file to write (an existing one is replaced; its folder must exist), or a file open for writing.
        quality: 1 (worst) to 100, for JPEG, WebP, AVIF and HEIC; ``"lossless"`` for WebP and the formats that
            have no loss anyway.
        strip_metadata: leave out all that ``image.info`` holds.
        ending: format for a ``path`` that is an open file.

    Raises:
        ArgumentError: ``quality`` is out of range, or JPEG, AVIF or HEIC is asked to be lossless.
        ImageError: not a PIL image.
        OutputError: an unknown ending, an image or metadata that the format cannot hold (transparency in
            JPEG, 16 bits in WebP, 70000 pixels), no such folder, a folder of this name, no permission, or no
            space left.
    """
    if not hasattr(image, "mode"):
        raise ImageError(f"save_image takes a PIL image, got {type(image).__name__}; use Image.fromarray")
    target = Path(path) if isinstance(path, (str, os.PathLike)) else None
    if target is None and not hasattr(path, "write"):
        raise OutputError(f"save_image writes to a path or an open file, got {path!r}")
    file_format = format_of(target or Path(f"result{ending}"))
    check_quality(quality, file_format)
    name = "the image" if target is None else repr(str(target))
    if target is not None:
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {name}: there is no folder {str(target.parent)!r}; create it")
        check_file(target)
    image = _storable(image, name)
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    # A text of a PNG may have the name of an entry that is no text.
    info = {key: x for key, x in image.info.items() if not (key in RESERVED_KEYS and isinstance(x, str))}
    moving = {key: info[key] for key in (FRAMES, "duration", "loop") if FRAMES in info}
    info = moving if strip_metadata else info | _as_bytes(info, name)
    check_image(name, file_format, mode, image.size, info)
    options = _metadata_options(file_format, info) | _encoder_options(file_format, quality, moving)
    if strip_metadata:
        image = image.copy()  # a plain image: what a file's own class remembers is gone, too
        image.info = {}
    try:
        with io.BytesIO() if target is None else atomic_file(target) as file:
            image.save(file, format=file_format, **options)
            if target is None:  # perhaps a pipe, in which an encoder cannot seek
                cast("IO[bytes]", path).write(cast("io.BytesIO", file).getvalue())
    except MemoryError:
        raise
    except Exception as error:  # encoders raise whatever they run into
        problem = (
            f"{file_format} cannot hold a {image.width} x {image.height} image of mode {image.mode} with its "
            f"metadata ({error}); use .png, or convert the image"
        )
        if isinstance(error, OSError) and target is None:
            problem = str(error.strerror or error)
        elif isinstance(error, OSError) and error.errno is not None:
            problem = f"{error.strerror}; check the folder's permissions and free space"
        raise OutputError(f"cannot write {name}: {problem}") from error


def _as_bytes(info: dict[Any, Any], name: str) -> dict[str, bytes]:
    """EXIF and XMP that a program has set as Pillow's object and as text."""
    try:
        given = {key: info[key] for key in ("exif", "xmp") if isinstance(info.get(key), Image.Exif | str)}
        return {key: x.encode() if isinstance(x, str) else x.tobytes() for key, x in given.items()}
    except Exception as error:  # a value that its tag cannot have
        problem = f"its EXIF or XMP cannot be written ({error}); leave it out (strip_metadata=True)"
        raise OutputError(f"cannot write {name}: {problem}") from error


def check_quality(quality: Quality, file_format: str | None = None) -> None:
    """Refuse a quality that is none, or that a format does not have."""
    if quality == "lossless":
        if file_format in ("JPEG", "AVIF", "HEIF"):
            raise ArgumentError(f"{file_format} is never lossless; use .png, .webp, .tif or .jp2")
    elif isinstance(quality, bool) or not hasattr(quality, "__index__") or not 1 <= quality <= 100:
        raise ArgumentError(f"quality must be in 1..100, or lossless, got {quality!r}")


def _storable(image: Image.Image, name: str) -> Image.Image:
    """Bring mode ``"I"`` to the one that files have."""
    if image.mode != "I":
        return image
    array = np.asarray(image)
    low, high = array.min(), array.max()
    if low < 0 or high > 65535:
        raise OutputError(f"cannot write {name}: mode 'I' must hold values in 0..65535, got {low} to {high}")
    deep = Image.fromarray(array.astype(np.uint16))
    deep.info = dict(image.info)
    return deep


def _encoder_options(file_format: str, quality: Quality, moving: dict[Any, Any]) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` for the pixels; ``moving`` are the frames of an animation, if any."""
    options: dict[str, Any] = {}
    if quality == "lossless":
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    elif file_format in LOSSY:
        options = {"quality": quality}
    if file_format in ("JPEG", "AVIF"):
        options["subsampling"] = "4:4:4"
    if file_format == "PNG":
        options["compress_type"] = zlib.Z_RLE  # photographs: as small as by default, a fifth of the time
    if moving and file_format in ANIMATED:
        times = moving["duration"] if file_format == "PNG" else [round(time) for time in moving["duration"]]
        options |= {"save_all": True, "append_images": moving[FRAMES], "duration": times}
        if file_format == "GIF":
            options["disposal"] = 2  # what is transparent does not show the frame before
        if file_format != "GIF" or moving["loop"] != 1:  # in a GIF this is a number of repetitions
            options["loop"] = moving["loop"]
    return options


def _metadata_options(file_format: str, info: dict[Any, Any]) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` for what the format can hold."""
    keeps = kept_entries(file_format)
    options = {name: info[name] for name in keeps if name != "colour" and info.get(name)}
    if file_format == "PNG":
        options["pnginfo"] = _png_chunks(info, options.pop("xmp", None))
    elif file_format == "JPEG":
        xmp = options.pop("xmp", None)
        blocks = [(0xFFE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)] if xmp else []
        blocks += [(0xFFED, info["iptc"])] if info.get("iptc") else []
        options["extra"] = b"".join(
            struct.pack(">HH", kind, 2 + len(block)) + block for kind, block in blocks
        )
    elif file_format == "TIFF":
        exif = Image.Exif()
        exif.load(options.get("exif", b""))
        if "xmp" in options:
            exif[ExifTags.Base.XMLPacket] = options.pop("xmp")
        options["exif"] = exif
        if features.check("libtiff") and not _SUB_BLOCKS & set(exif):
            options["compression"] = "tiff_lzw"
    return options


def _png_chunks(info: dict[Any, Any], xmp: bytes | None) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    if (gamma := info.get("gamma")) is not None:
        chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    if (chromaticity := info.get("chromaticity")) is not None:
        chunks.add(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in chromaticity)))
    if (intent := info.get("srgb")) is not None:
        chunks.add(b"sRGB", bytes([intent]))
    if (code_points := info.get("cicp")) is not None:
        chunks.add(b"cICP", code_points)
    for key, text in png_texts(info).items():
        chunks.add_text(key, text)
    if xmp is not None:
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return chunks
