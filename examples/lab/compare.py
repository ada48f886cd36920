"""Input, bicubic and output side by side: ``python examples/lab/compare.py LR.. PICTURE --crop X Y SIDE``.

Each input makes a row. The crop is given in pixels of the input, which is shown with its pixels enlarged to
squares. With ``--fidelity 1 0.5 0`` there is one output for each, ``--sr NAME=FOLDER`` shows what another
program made of the file of that name, and ``--hr FILE`` adds the truth. The PSNR of whole images, on Y and
without a border as wide as the scale, is then printed and, with ``--psnr``, written above them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from sam_diffsr import SuperResolver
from sam_diffsr.evaluation import psnr_y
from sam_diffsr.evaluation.pairs import read_image, read_pair, to_uint8
from sam_diffsr.image import decode_image
from sam_diffsr.resize import imresize

GAP = 8
CAPTION_HEIGHT = 24


def picture(image: Tensor) -> Image.Image:
    """``(1, 3, H, W)`` uint8 to PIL."""
    return Image.fromarray(image[0].permute(1, 2, 0).numpy())


def bicubic(path: str, scale: int) -> Image.Image:
    """Enlarge a file by MATLAB-compatible bicubic."""
    return picture(to_uint8(imresize(read_image(path).float() / 255, scale)))


def result_of(folder: str, name: str) -> Image.Image:
    """The file of that name, with any ending, in a folder of results."""
    found = [path for path in Path(folder).iterdir() if path.stem == Path(name).stem]
    if len(found) != 1:
        raise SystemExit(f"{folder} has {len(found)} files named {Path(name).stem}; there must be one")
    return Image.open(found[0])


def grid(rows: Sequence[dict[str, Image.Image]]) -> Image.Image:
    """Put equally large images in rows, each under its caption."""
    width, height = next(iter(rows[0].values())).size
    across, down = width + GAP, height + CAPTION_HEIGHT
    canvas = Image.new("RGB", (len(rows[0]) * across - GAP, len(rows) * down), "white")
    draw = ImageDraw.Draw(canvas)
    for row, panels in enumerate(rows):
        for column, (caption, panel) in enumerate(panels.items()):
            draw.text((column * across + 2, row * down + 4), caption, fill="black", font_size=14)
            canvas.paste(panel.convert("RGB"), (column * across, row * down + CAPTION_HEIGHT))
    return canvas


def main() -> None:
    """Parse, upscale, join, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lr", nargs="+", help="image files")
    parser.add_argument("output", help="picture to write")
    parser.add_argument(
        *("--crop", "-c"), type=int, nargs=3, action="append", metavar=("X", "Y", "SIDE"), help="part to show"
    )
    parser.add_argument("--fidelity", type=float, nargs="+", help="outputs at these instead of the default")
    parser.add_argument("--sr", action="append", default=[], metavar="[NAME=]FOLDER", help="others' results")
    parser.add_argument("--hr", nargs="+", help="the originals, if there are any: one for all, or one each")
    parser.add_argument("--psnr", action="store_true", help="write the PSNR into the picture")
    parser.add_argument("-m", "--model", help="bundled name, folder or Hub id (default: photo)")
    args = parser.parse_args()
    for flag, values in (("--crop", args.crop), ("--hr", args.hr)):
        if values is not None and len(values) not in (1, len(args.lr)):
            parser.error(f"{flag} must be given once or for each of the {len(args.lr)} inputs")

    resolver = SuperResolver.from_pretrained(args.model)
    scale = resolver.scale
    rows: list[dict[str, Image.Image]] = []
    for index, lr in enumerate(args.lr):
        source = Image.open(lr)
        size = (source.width * scale, source.height * scale)
        name = (
            "/".join(Path(lr).parts[-2:]) if len(args.lr) > 1 else f"input, {source.width} x {source.height}"
        )
        first = {name: source.resize(size, Image.Resampling.NEAREST)}
        panels = {"bicubic": bicubic(lr, scale)}
        for other in args.sr:
            title, _, folder = other.rpartition("=")
            panels[title or Path(folder).name] = result_of(folder, lr)
        if args.fidelity is None:
            panels["SAM-DiffSR"] = resolver.upscale(source)
        else:
            panels |= {f"fidelity {f:g}": resolver.upscale(source, fidelity=f) for f in args.fidelity}
        if args.hr is not None:
            truth = read_pair(args.hr[index % len(args.hr)], scale=scale, lr_file=lr).hr
            scored: dict[str, Image.Image] = {}
            for caption, panel in panels.items():
                sr = to_uint8(decode_image(panel).rgb)
                psnr = psnr_y(sr, truth, border=scale, data_range=255).item()
                print(f"{lr}: {caption} {psnr:.2f} dB")
                scored[f"{caption}, {psnr:.2f} dB" if args.psnr else caption] = panel
            panels = scored
            if index < len(args.hr):  # one original for all inputs is shown once
                panels["original"] = picture(truth)
        row = first | panels
        if args.crop:
            x, y, side = (value * scale for value in args.crop[index % len(args.crop)])
            row = {caption: panel.crop((x, y, x + side, y + side)) for caption, panel in row.items()}
        rows.append(row)
    grid(rows).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
