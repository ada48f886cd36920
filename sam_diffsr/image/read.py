"""Opens image files and loads their pixels; every way in which this fails has its own message."""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from sam_diffsr.errors import ArgumentError, ImageError, ImageNotFoundError, ImageTooLargeError
from sam_diffsr.image.metadata import RESERVED_KEYS

_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
"""Formats that Pillow only hands to other programs (Ghostscript) or cannot decode by itself."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PILLOW_LIMIT = threading.Lock()


@cache
def register_formats() -> None:
    """Let Pillow load its own plugins and, where it is installed, the one for HEIC."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener  # pyright: ignore

        register_heif_opener()  # pyright: ignore[reportUnknownVariableType]


def readable_endings() -> frozenset[str]:
    """Endings, in lower case and with their dot, of the files that can be read."""
    register_formats()
    formats = {*_readable_formats(), "MPO"}  # which Pillow opens as JPEG
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def _readable_formats() -> tuple[str, ...]:
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@contextmanager
def open_image(
    image: Image.Image | str | os.PathLike[str] | IO[bytes], *, max_pixels: int | None
) -> Generator[tuple[Image.Image, str]]:
    """Give a PIL image of an allowed size, and the name that messages call it by.

    Of a file the header is read, and the file is closed in the end; an open file is left at its position.
    Pillow's own limit is lifted where ``max_pixels`` is higher (None: no limit).
    """
    with ExitStack() as stack:
        if isinstance(image, Image.Image):
            opened, name = image, "the image"
        elif isinstance(image, (str, os.PathLike)) or (hasattr(image, "read") and hasattr(image, "seek")):
            is_path = isinstance(image, (str, os.PathLike))
            given = os.fspath(image) if is_path else getattr(image, "name", None)
            name = repr(given) if isinstance(given, str) else "the image"
            file = stack.enter_context(_open_path(Path(image), name) if is_path else _rest_of(image, name))
            opened = stack.enter_context(closing(_open_header(file, name, max_pixels)))
        else:
            raise ImageError(
                "an image must be a PIL image, a numpy array, a path or an open file, got "
                f"{type(image).__name__}; tensors go to upscale_tensor, bytes into io.BytesIO"
            )
        check_size(opened.width, opened.height, max_pixels=max_pixels, name=name)
        yield opened, name


def _open_path(path: Path, name: str) -> IO[bytes]:
    try:
        state = path.stat()
        if stat.S_ISREG(state.st_mode) and state.st_size:
            return path.open("rb")
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"no such file: {name}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISREG(state.st_mode):
        raise ImageError(f"{name} is empty (0 bytes)")
    kind = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
    raise ImageError(f"{name} is {kind}; an image file is needed")


def _rest_of(source: IO[bytes], name: str) -> IO[bytes]:
    """Copy of an open file from its position on, which stays as it is."""
    try:
        position = source.tell()
        content: Any = source.read()
        source.seek(position)
    except (OSError, ValueError, AttributeError) as error:
        raise ImageError(f"cannot read {name}: expected an open, seekable binary file ({error})") from error
    if not isinstance(content, bytes):
        raise ImageError(f"{name} is open as text; open it with mode 'rb'")
    if not content:
        raise ImageError(f"{name} is empty")
    return io.BytesIO(content)


def _open_header(file: IO[bytes], name: str, max_pixels: int | None) -> Image.Image:
    register_formats()
    try:
        colour, file = _scan_png(file, name)
        with _pillow_limit(name, max_pixels):
            image = Image.open(file, formats=_readable_formats())
        if colour is not None:
            image.info["cicp"] = colour
        return image
    except UnidentifiedImageError as error:
        heic = name.rstrip("'").lower().endswith((".heic", ".heif", ".hif"))
        advice = "; HEIC needs the extra sam-diffsr[heif]" if heic else ""
        raise ImageError(
            f"{name} is not an image that can be read{advice}; convert it to PNG, JPEG, TIFF or WebP"
        ) from error
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # decoders raise whatever their parsing runs into
        raise ImageError(f"{name} is damaged: its header cannot be read ({error})") from error


@contextmanager
def _pillow_limit(name: str, max_pixels: int | None) -> Generator[None]:
    """Lift Pillow's limit on pixels, which is one for the whole process, where the caller's is higher."""
    limit = Image.MAX_IMAGE_PIXELS
    lifted = limit is not None and (max_pixels is None or max_pixels > limit)
    with _PILLOW_LIMIT if lifted else nullcontext():
        if lifted:
            Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageTooLargeError(
                f"{name} exceeds Pillow's limit against decompression bombs ({error}); raise max_pixels "
                "(None: no limit) if you trust the file"
            ) from error
        finally:
            if lifted:
                Image.MAX_IMAGE_PIXELS = limit


def check_size(width: int, height: int, *, max_pixels: int | None, name: str) -> None:
    """Refuse images without pixels and images beyond the limit, before anything is allocated for them."""
    if max_pixels is not None and (
        isinstance(max_pixels, bool) or not hasattr(max_pixels, "__index__") or max_pixels < 1
    ):
        raise ArgumentError(
            f"max_pixels must be a whole number >= 1, or None for no limit, got {max_pixels!r}"
        )
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width} wide and {height} high")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} = {width * height} pixels, more than the limit of {max_pixels}; "
            "raise max_pixels (None: no limit) if that is what you want"
        )


def load_pixels(image: Image.Image, *, name: str, max_pixels: int | None = None) -> None:
    """Decode the pixels of an opened image; warn of frames and of bits that are left out."""
    raw_modes = _raw_modes(image)
    reduced = _reduced_from_16_bit(image.mode, raw_modes)
    closed = getattr(image, "tile", None) and getattr(getattr(image, "fp", None), "closed", True)
    try:
        # Pillow rereads a GIF or TIFF to count its frames, which drops pixels that are loaded.
        loaded = image.format in ("GIF", "TIFF") and not getattr(image, "tile", None)
        frames = 1 if loaded else int(getattr(image, "n_frames", 1))
        with _pillow_limit(name, max_pixels):
            image.load()
    except (MemoryError, ImageTooLargeError):
        raise
    except Exception as error:  # decoders raise whatever their parsing runs into
        if closed or "closed image" in str(error):
            raise ImageError(f"{name} is closed; use it before it is closed, or give its path") from error
        raise ImageError(
            f"the pixels of {name} cannot be decoded, the file is damaged or cut off: {error}"
        ) from error
    if "transparency" in image.info:
        image.info["transparency"] = _as_loaded(image.info["transparency"], raw_modes)
    if frames > 1 and image.format != "MPO":  # whose further frames are previews and depth maps
        current = int(image.tell()) + 1
        shown = "first frame" if current == 1 else f"current frame (number {current})"
        warnings.warn(f"{name} has {frames} frames; only its {shown} is used", stacklevel=4)
    if reduced:
        warnings.warn(f"{name} has 16 bits per sample in several channels, of which 8 are read", stacklevel=4)


def _raw_modes(image: Image.Image) -> set[str]:
    """How the samples of an opened image are stored, which is known until the pixels are read."""
    tiles: list[tuple[Any, ...]] = getattr(image, "tile", None) or []
    raw: list[Any] = [tile[3][0] if tile[3] and isinstance(tile[3], tuple) else tile[3] for tile in tiles]
    return {mode for mode in raw if isinstance(mode, str)}


def _reduced_from_16_bit(mode: str, raw_modes: set[str]) -> bool:
    """Whether Pillow cuts 16-bit samples to 8; "BGR;16" is 16 bits a pixel, not a sample."""
    deep = any("16" in raw and not raw.startswith("BGR") for raw in raw_modes)
    return deep and not mode.startswith(("I", "F"))


def _as_loaded(colour: Any, raw_modes: set[str]) -> Any:
    """The transparent colour of a PNG in samples of the loaded image; Pillow leaves it as it is stored."""
    for raw, factor in (("L;2", 85), ("L;4", 17)):
        if raw in raw_modes and isinstance(colour, int):
            return colour * factor
    if "RGB;16B" in raw_modes and isinstance(colour, tuple):
        return tuple(value >> 8 for value in cast("tuple[int, ...]", colour))
    return colour


def _scan_png(file: IO[bytes], name: str) -> tuple[bytes | None, IO[bytes]]:
    """The cICP chunk of a PNG, if any, and the file without the texts and profiles that Pillow stops at."""
    colour: bytes | None = None
    kept, start = bytearray(), 0
    if file.read(len(_PNG_SIGNATURE)) == _PNG_SIGNATURE:
        stream = PngImagePlugin.PngStream(file)
        with suppress(SyntaxError, struct.error):  # the end, or what is no PNG after all
            while True:
                kind, position, length = stream.read()
                end = position + length + 4
                if kind == b"cICP" and length == 4:
                    colour = file.read(4)
                elif kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
                    try:
                        stream.call(kind, position, length)
                        if RESERVED_KEYS.intersection(stream.im_text):
                            stream.im_text.clear()
                            raise ValueError
                    except ValueError:  # too long, or it would replace what Pillow reads elsewhere
                        file.seek(start)
                        kept += file.read(position - 8 - start)
                        start = end
                file.seek(end)
    file.seek(start)
    if not start:
        return colour, file
    warnings.warn(
        f"{name} holds texts or a colour profile larger than 1 MB, or texts whose names mean something else "
        "to Pillow, which are left out",
        stacklevel=6,
    )
    return colour, io.BytesIO(kept + file.read())
