"""Make the pictures of the README, the gallery and the method page: ``python examples/lab/pictures.py``.

    python examples/lab/pictures.py hero -m photo --jpeg 75
    python examples/lab/pictures.py gallery damaged
    python examples/lab/pictures.py spe

``hero`` shows a whole photograph and a part of it from input, bicubic, SAM-DiffSR and original. ``gallery``
writes both sides of each slider, ``damaged`` compares ``small`` and ``photo`` on damaged input, and ``spe``
shows the steps from a photograph to the structure field. Photographs are reduced four times by MATLAB's
bicubic and compressed where the name says so. They are free of copyright restrictions
(``examples/README.md`` names their authors), and no model of this project was trained on them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from sam_diffsr import SuperResolver
from sam_diffsr.masks import GraphMaskGenerator, StructureField
from sam_diffsr.masks.picture import draw_structure, field_colours
from sam_diffsr.masks.spe import position_field
from sam_diffsr.resize import imresize

EXAMPLES = Path(__file__).resolve().parents[1]
IMAGES = EXAMPLES.parent / "docs" / "images"
GAP, STRIP = 8, 26
HEIGHT = 440
"""Height of the whole photograph in the hero, in pixels."""


def photograph(name: str) -> Image.Image:
    """One of ``examples/`` or of scikit-image, with sides that are multiples of 4."""
    found = sorted(EXAMPLES.glob(f"{name}.*"))
    image = Image.open(found[0]).convert("RGB") if found else Image.fromarray(getattr(data, name)())
    return image.crop((0, 0, image.width // 4 * 4, image.height // 4 * 4))


def resize(image: Image.Image, factor: float) -> Image.Image:
    """Resize by MATLAB's bicubic, in 8 bits."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return Image.fromarray(imresize(pixels, factor).permute(1, 2, 0).numpy())


def compress(image: Image.Image, quality: int | None) -> Image.Image:
    """Return the image as it is after JPEG; None leaves it alone."""
    if quality is None:
        return image
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


def labelled(image: Image.Image, text: str) -> Image.Image:
    """Put a label below an image."""
    panel = Image.new("RGB", (image.width, image.height + STRIP), "white")
    panel.paste(image)
    middle = (image.width / 2, image.height + STRIP / 2 + 1)
    ImageDraw.Draw(panel).text(middle, text, fill="#222", font=ImageFont.load_default(15), anchor="mm")
    return panel


def hero(
    resolver: SuperResolver, name: str, part: tuple[int, int, int], quality: int | None, **options: Any
) -> None:
    """Draw the README's picture.

    Args:
        resolver: The model.
        name: The photograph.
        part: Left, top and side of the part that is shown four times, in pixels of the photograph.
        quality: JPEG quality of the input, or None.
        **options: Options of ``upscale``.
    """
    original = photograph(name)
    small = compress(resize(original, 0.25), quality)
    result = resolver.upscale(small, **options)
    views = {
        f"input, {small.width} x {small.height}": small.resize(original.size, Image.Resampling.NEAREST),
        "bicubic": resize(small, 4),
        "SAM-DiffSR": result,
        "original": original,
    }
    x, y, side = part
    box = (x, y, x + side, y + side)

    # the whole result, with a white frame between two black ones around the part
    factor = HEIGHT / result.height
    whole = result.resize((round(result.width * factor), HEIGHT), Image.Resampling.LANCZOS)
    for out, colour in ((3, "black"), (2, "white"), (1, "white"), (0, "black")):
        frame = [round(value * factor) + way * out for value, way in zip(box, (-1, -1, 1, 1), strict=True)]
        ImageDraw.Draw(whole).rectangle(frame, outline=colour)

    # the four parts in a square as high as the photograph
    zoom = (HEIGHT - STRIP - GAP) // 2
    canvas = Image.new("RGB", (whole.width + 2 * (GAP + zoom), HEIGHT + STRIP), "white")
    canvas.paste(labelled(whole, f"SAM-DiffSR, {result.width} x {result.height}"))
    for n, (text, view) in enumerate(views.items()):
        kernel = Image.Resampling.BICUBIC if n else Image.Resampling.NEAREST
        panel = labelled(view.crop(box).resize((zoom, zoom), kernel), text)
        canvas.paste(panel, (whole.width + GAP + n % 2 * (zoom + GAP), n // 2 * (zoom + STRIP + GAP)))
    canvas.save(IMAGES / "hero.webp", quality=92)


def gallery(resolver: SuperResolver, **options: Any) -> None:
    """Write both sides of each slider: bicubic and result, reduced photographs and one small JPEG."""
    for name, quality in (
        ("nuts", None),
        ("chelsea", None),
        ("coffee", None),
        ("astronaut", None),
        ("nuts", 50),
    ):
        small = compress(resize(photograph(name), 0.25), quality)
        stem = name if quality is None else f"{name}_jpeg{quality}"
        resize(small, 4).save(IMAGES / f"{stem}_before.webp", quality=88)
        resolver.upscale(small, **options).save(IMAGES / f"{stem}_after.webp", quality=88)


def damaged() -> None:
    """Draw parts of two photographs after JPEG and with noise, by bicubic, ``small`` and ``photo``."""
    models = {name: SuperResolver.from_pretrained(name) for name in ("small", "photo")}
    generator = np.random.default_rng(0)
    rows: list[list[Image.Image]] = []
    for name, (x, y) in (("nuts", (420, 150)), ("astronaut", (176, 60))):
        original = photograph(name)
        small = resize(original, 0.25)
        noisy = np.array(small) + generator.normal(0, 10, (small.height, small.width, 3))
        inputs = {
            "JPEG 50": compress(small, 50),
            "noise 10": Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)),
        }
        for damage, image in inputs.items():
            views = {f"{damage}, bicubic": resize(image, 4)}
            views |= {name: model.upscale(image) for name, model in models.items()}
            views["original"] = original
            box = (x, y, x + 160, y + 160)
            rows.append([labelled(v.crop(box).resize((240, 240)), text) for text, v in views.items()])
    width, height = rows[0][0].size
    canvas = Image.new("RGB", (4 * (width + GAP) - GAP, len(rows) * height), "white")
    for n, panels in enumerate(rows):
        for m, panel in enumerate(panels):
            canvas.paste(panel, (m * (width + GAP), n * height))
    canvas.save(IMAGES / "damaged.webp", quality=90)


def spe() -> None:
    """Draw photograph and regions, position field, and structure field in both reductions."""
    image = np.array(photograph("chelsea"))
    records = GraphMaskGenerator().generate(image)
    by_image, by_region = (
        StructureField.from_masks(records, size=image.shape[:2], reduction=reduction)
        for reduction in ("image", "region")
    )
    height, width = image.shape[:2]
    regions = draw_structure(image, by_image).crop((16, 38, 16 + width, 38 + height))
    position = position_field((height, width)).astype(np.float32)
    panels = {
        f"{len(records)} regions": regions,
        "position field P, -1.4 to 1.4": Image.fromarray(field_colours(position, reach=1.42)),
    }
    for text, structure in (('reduction="image"', by_image), ('reduction="region"', by_region)):
        values = structure.to_tensor().numpy()
        coloured = field_colours(values, reach=float(np.abs(values).max()))
        panels[f"E, {text}, {values.min():.2f} to {values.max():.2f}"] = Image.fromarray(coloured)
    canvas = Image.new("RGB", (2 * width + GAP, 2 * (height + STRIP)), "white")
    for n, (text, panel) in enumerate(panels.items()):
        canvas.paste(labelled(panel, text), (n % 2 * (width + GAP), n // 2 * (height + STRIP)))
    canvas.save(IMAGES / "spe.webp", quality=90)


def main() -> None:
    """Make the pictures that the arguments name, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="*", metavar="hero|gallery|damaged|spe", help="pictures to make (default: all)"
    )
    parser.add_argument("-m", "--model", help="model (default: the bundled default)")
    parser.add_argument("--fidelity", type=float, help="1: closest to the input, to 0: most texture")
    parser.add_argument("--photo", default="nuts", help="photograph of the hero (default: nuts)")
    parser.add_argument("--part", type=int, nargs=3, default=(420, 150, 150), metavar=("X", "Y", "SIDE"))
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="compress the input of the hero")
    args = parser.parse_args()
    what = args.what or ["hero", "gallery", "damaged", "spe"]
    options = {} if args.fidelity is None else {"fidelity": args.fidelity}
    if "spe" in what:
        spe()
    if "damaged" in what:
        damaged()
    if "hero" in what or "gallery" in what:
        resolver = SuperResolver.from_pretrained(args.model)
        if "hero" in what:
            hero(resolver, args.photo, tuple(args.part), args.jpeg, **options)
        if "gallery" in what:
            gallery(resolver, **options)


if __name__ == "__main__":
    main()
