"""Input, bicubic and output side by side: ``python examples/compare.py LR PICTURE --crop X Y SIDE``.

The crop is given in pixels of the input. The input is shown with its pixels enlarged to squares. With
``--fidelity 1 0.5 0`` there is one output for each, and ``--hr FILE`` adds the truth.
"""

from __future__ import annotations

import argparse

from PIL import Image, ImageDraw

from sam_diffsr import SuperResolver
from sam_diffsr.image import decode_image, encode_image
from sam_diffsr.resize import imresize

GAP = 8
CAPTION_HEIGHT = 24


def bicubic(path: str, scale: int) -> Image.Image:
    """Enlarge a file by MATLAB-compatible bicubic."""
    decoded = decode_image(path)
    large = encode_image(imresize(decoded.rgb, scale).clamp(0, 1), None, decoded.format)
    if not isinstance(large, Image.Image):
        raise TypeError(f"a file must come back as a PIL image, got {type(large).__name__}")
    return large


def side_by_side(panels: dict[str, Image.Image]) -> Image.Image:
    """Join equally large images in a row, each under its caption."""
    width, height = next(iter(panels.values())).size
    canvas = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (caption, panel) in enumerate(panels.items()):
        left = index * (width + GAP)
        draw.text((left + 2, 4), caption, fill="black", font_size=14)
        canvas.paste(panel.convert("RGB"), (left, CAPTION_HEIGHT))
    return canvas


def main() -> None:
    """Parse, upscale, join, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lr", help="image file")
    parser.add_argument("output", help="picture to write")
    parser.add_argument("--crop", type=int, nargs=3, metavar=("X", "Y", "SIDE"), help="part to show")
    parser.add_argument("--fidelity", type=float, nargs="+", help="outputs at these instead of the default")
    parser.add_argument("--hr", help="the original, if there is one")
    parser.add_argument("-m", "--model", help="bundled name, folder or Hub id (default: the bundled model)")
    args = parser.parse_args()

    resolver = SuperResolver.from_pretrained(args.model)
    source = Image.open(args.lr)
    size = (source.width * resolver.scale, source.height * resolver.scale)
    panels = {
        f"input, {source.width} x {source.height}": source.resize(size, Image.Resampling.NEAREST),
        "bicubic": bicubic(args.lr, resolver.scale),
    }
    if args.fidelity is None:
        panels["SAM-DiffSR"] = resolver.upscale(source)
    else:
        for value in args.fidelity:
            panels[f"fidelity {value:g}"] = resolver.upscale(source, fidelity=value)
    if args.hr is not None:
        panels["original"] = Image.open(args.hr)
    if args.crop:
        x, y, side = (value * resolver.scale for value in args.crop)
        panels = {caption: panel.crop((x, y, x + side, y + side)) for caption, panel in panels.items()}
    side_by_side(panels).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
