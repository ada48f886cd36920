"""Draws a photo with its regions in colours, next to the structure field E with a colour bar."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sam_diffsr.errors import DataError
from sam_diffsr.masks.segments import check_image, nearest
from sam_diffsr.masks.spe import StructureField

_LONGEST, _SHORTEST = 768, 320
"""Limits of a panel's longest side, in pixels; photos are enlarged or reduced to the nearest pixel."""
_OPACITY = 0.55
"""Opacity of the regions' colours over the photo."""
_GAP, _BAR, _TEXT = 16, 18, 14
_GOLDEN = 0.6180339887498949
_STOPS = np.array(
    [[33, 60, 140], [120, 160, 220], [245, 245, 240], [235, 150, 100], [150, 20, 35]], np.float64
)
"""Colours of E: blue below zero, white at zero, red above."""


def draw_structure(image: NDArray[np.uint8], structure: StructureField) -> Image.Image:
    """Draw a photo with its regions in colours, next to the field E with its colour bar.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        structure: field of the same size.

    Returns:
        An RGB picture of two panels with the photo's aspect ratio. Pixels of no region keep their colours.

    Raises:
        ImageError: ``image`` is of another rank, dtype or number of channels.
        DataError: the sizes differ.
    """
    check_image(image)
    if structure.size != image.shape[:2]:
        raise DataError(
            f"the regions are of an image of {structure.size} (height, width), "
            f"the photo has {image.shape[:2]}"
        )
    # Panels show the photo's pixels, enlarged or reduced to the nearest one.
    longest = max(structure.size)
    scale = min(1.0, _LONGEST / longest) if longest >= _SHORTEST else float(-(-_SHORTEST // longest))
    height, width = (max(1, round(side * scale)) for side in structure.size)
    labels, photo = nearest(structure.labels, (height, width)), nearest(image, (height, width))

    border = np.zeros(labels.shape)
    border[1:] = labels[1:] != labels[:-1]
    border[:, 1:] = np.maximum(border[:, 1:], labels[:, 1:] != labels[:, :-1])
    weight = (labels > 0)[..., None] * _OPACITY
    coloured = photo * (1 - weight) + region_colours(len(structure.values))[labels] * weight
    regions = np.rint((1 - 0.65 * border[..., None]) * coloured).astype(np.uint8)
    return _compose(regions, structure.values[labels], len(np.unique(labels[labels > 0])), structure)


def region_colours(count: int) -> NDArray[np.uint8]:
    """Colours of labels 0 to ``count - 1``, ``(count, 3)``; neighbouring numbers look different."""
    colours = [
        colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.9 - 0.35 * (label % 3 == 0), 1 - 0.25 * (label % 2))
        for label in range(1, count)
    ]
    return np.rint(np.array([(0, 0, 0), *colours][:count]).reshape(-1, 3) * 255).astype(np.uint8)


def field_colours(field: NDArray[np.float32], *, reach: float) -> NDArray[np.uint8]:
    """Colour a field from ``-reach`` (blue) over 0 (white) to ``reach`` (red); ``(..., 3)`` uint8."""
    place = (np.clip(field.astype(np.float64) / reach, -1, 1) + 1) / 2
    known = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(place, known, _STOPS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _compose(
    regions: NDArray[np.uint8], field: NDArray[np.float32], shown: int, structure: StructureField
) -> Image.Image:
    # Lay out the two panels, the colour bar and its ticks from left to right.
    height, width = field.shape
    font = ImageFont.load_default(_TEXT)
    top, bar_height = _GAP + _TEXT + 8, max(height, 160)
    reach = float(np.abs(structure.values).max()) or 1.0
    ticks = [reach, reach / 2, 0.0, -reach / 2, -reach]
    texts = [f"{tick:+.3g}" if tick else "0" for tick in ticks]
    left_field = _GAP + width + _GAP
    left_bar = left_field + width + _GAP
    left_text = left_bar + _BAR + 8
    right = left_text + int(max(font.getlength(text) for text in texts)) + 1 + _GAP
    canvas = Image.new("RGB", (right, top + bar_height + _GAP), "white")
    ramp = np.linspace(reach, -reach, bar_height).astype(np.float32)[:, None].repeat(_BAR, 1)
    canvas.paste(Image.fromarray(regions), (_GAP, top))
    canvas.paste(Image.fromarray(field_colours(field, reach=reach)), (left_field, top))
    canvas.paste(Image.fromarray(field_colours(ramp, reach=reach)), (left_bar, top))

    # Captions, frames, and the ticks of the bar.
    draw = ImageDraw.Draw(canvas)
    span = f"E, {float(field.min()):+.3g} to {float(field.max()):+.3g}"
    draw.text((_GAP, _GAP), f"{shown} region{'' if shown == 1 else 's'}", fill="black", font=font)
    draw.text((left_field, _GAP), span, fill="black", font=font)
    for left, across, down in ((left_field, width, height), (left_bar, _BAR, bar_height)):
        draw.rectangle((left - 1, top - 1, left + across, top + down), outline="gray")
    for index, text in enumerate(texts):
        y = top + round(index * (bar_height - 1) / (len(texts) - 1))
        draw.line((left_bar + _BAR, y, left_bar + _BAR + 4, y), fill="gray")
        place = min(max(y - _TEXT // 2 - 2, top - 6), top + bar_height - _TEXT - 2)
        draw.text((left_text, place), text, fill="black", font=font)
    return canvas
