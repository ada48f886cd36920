"""Metadata of an image: the orientation is applied once, and what stays true of a larger image is kept."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from PIL import ExifTags, Image, ImageCms

_ORIENTATION = ExifTags.Base.Orientation
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GEOREFERENCE = (0x830E, 0x8482, 0x85D8, 0x87AF, 0x87B0, 0x87B1)
"""Place and size of the pixels of a GeoTIFF on the earth."""
_SUBJECT = (0x9214, 0xA214)
"""SubjectArea and SubjectLocation, in pixels."""
_NOT_CARRIED = frozenset(
    {
        *(0x00FE, 0x00FF, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x010A, 0x0111, 0x0112, 0x0115, 0x0116),
        *(0x0117, 0x0118, 0x0119, 0x011C, 0x0122, 0x0123, 0x0129, 0x013D, 0x0140, 0x0142, 0x0143, 0x0144),
        *(0x0145, 0x014A, 0x0152, 0x0153, 0x0154, 0x0155, 0x015B, 0x0201, 0x0202, 0x0212, 0x0213, 0x02BC),
        *(0x8649, 0x8773, *_GEOREFERENCE),
    }
)
"""The orientation (0x0112), which has been applied, the tags that describe how a TIFF is laid out, and those
that are wrong for a larger image."""

_COLOUR_CHANGES = ("CMYK", "LAB", "HSV")
"""PIL modes that become RGB here, so that the source's description of its colours is wrong for the result."""
_COLOUR_ENTRIES = ("gamma", "chromaticity", "srgb", "cicp")
"""Entries of ``Image.info`` for PNG's gAMA, cHRM, sRGB and, which is ours, cICP."""
RESERVED_KEYS = frozenset(
    {*_COLOUR_ENTRIES, "compression", "default_image", "dpi", "duration", "frames", "icc_profile", "iptc"}
    | {"bbox", "blend", "disposal", "interlace", "loop", "transparency"}
)
"""Entries of ``Image.info`` that a text of the same name would be taken for."""
_XMP_KEYWORD = "XML:com.adobe.xmp"
_XMP_ORIENTATION = re.compile(
    rb"""\s+tiff:Orientation\s*=\s*["'][0-9]["']|<tiff:Orientation>[0-9]</tiff:Orientation>"""
)


def apply_orientation(image: Image.Image, name: str) -> tuple[Image.Image, bytes | None]:
    """A loaded image turned upright as its EXIF says, and the block without orientation and file structure.

    A block that cannot be read whole is dropped with a ``UserWarning``; an orientation that can be read from
    it is applied all the same.
    """
    turn: Image.Transpose | None = None
    kept: bytes | None = None
    try:
        turn = _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())
        if any(tag in exif for tag in _GEOREFERENCE):
            warnings.warn(f"the place of {name} on the earth (GeoTIFF) is left out", stacklevel=5)
        for tag in _NOT_CARRIED.intersection(exif):
            del exif[tag]
        kept = exif.tobytes() if len(exif) else None
    except Exception as error:  # cameras and editors write broken blocks in every way there is
        warnings.warn(
            f"the EXIF block of {name} cannot be read whole and is left out ({error})", stacklevel=5
        )
    # Pillow turns a TIFF upright while loading it; its older versions leave the tag as it was.
    return image if turn is None or image.format == "TIFF" else image.transpose(turn), kept


def is_turned(image: Image.Image) -> bool:
    """Whether :func:`apply_orientation` will swap the sides of an opened image, as far as its header says."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False  # Pillow would decode the pixels to answer
    with suppress(Exception):  # a broken block, which the decoder warns of
        return image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    return False


def exif_for_size(exif: bytes, *, width: int, height: int) -> bytes:
    """Give an EXIF block whose pixel dimensions, where it has them, are those of the result.

    The places of subjects in the image are left out.
    """
    block = Image.Exif()
    block.load(exif)
    if ExifTags.IFD.Exif not in block:
        return exif
    details = block.get_ifd(ExifTags.IFD.Exif)
    for tag, value in ((ExifTags.Base.ExifImageWidth, width), (ExifTags.Base.ExifImageHeight, height)):
        if tag in details:
            details[tag] = value
    for tag in _SUBJECT:
        details.pop(tag, None)
    return block.tobytes()


def kept_metadata(image: Image.Image, exif: bytes | None) -> dict[str, Any]:
    """Entries of a loaded image's ``info`` that are still true of its decoded pixels, with upright EXIF."""
    info = image.info
    kept: dict[str, Any] = dict(png_texts(info)) if image.format in (None, "PNG") else {}
    if image.mode not in _COLOUR_CHANGES:
        kept |= {name: info[name] for name in _COLOUR_ENTRIES if not isinstance(info.get(name), str | None)}
        if isinstance(profile := info.get("icc_profile"), bytes) and profile:
            kept["icc_profile"] = profile
    with suppress(TypeError, ValueError):
        across, down = map(float, () if isinstance(info.get("dpi"), str) else info.get("dpi", ()))
        if 0.5 <= across < 65535 and 0.5 <= down < 65535:  # files can store it
            kept["dpi"] = (across, down)
    xmp = info.get("xmp") or info.get(_XMP_KEYWORD)
    if isinstance(xmp, (bytes, str)) and xmp:
        kept["xmp"] = _XMP_ORIENTATION.sub(b"", xmp.encode() if isinstance(xmp, str) else xmp)
    for marker, content in getattr(image, "applist", ()):
        if marker == "APP13":  # IPTC: captions and keywords of a JPEG
            kept["iptc"] = content
    if isinstance(iptc := info.get("iptc"), bytes):
        kept["iptc"] = iptc
    if exif is not None:
        kept["exif"] = exif
    return kept


def png_texts(info: Mapping[Any, Any]) -> dict[str, str]:
    """Texts among the entries of an image: those that a PNG can hold, without XMP."""
    return {
        key: value
        for key, value in info.items()
        if isinstance(key, str)
        and isinstance(value, str)
        and key not in (*RESERVED_KEYS, _XMP_KEYWORD)
        and 1 <= len(key) <= 79
        and key.isprintable()
        and key.encode("latin-1", "replace").decode("latin-1") == key
    }


def convert_cmyk(image: Image.Image) -> Image.Image:
    """Convert CMYK to RGB: to sRGB through the image's own profile, else by the plain formula."""
    profile = image.info.get("icc_profile")
    converted = None
    if isinstance(profile, bytes) and profile:
        # A broken profile, or a Pillow without LittleCMS, leaves the plain formula.
        with suppress(ImportError, OSError, ImageCms.PyCMSError):
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.ImageCmsProfile(cast("Any", ImageCms.createProfile("sRGB")))
            converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
    return image.convert("RGB") if converted is None else converted
