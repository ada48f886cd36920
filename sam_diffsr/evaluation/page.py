"""Shows an evaluation as one self-contained HTML file: tables, and sliders that compare two images."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam_diffsr.evaluation.evaluate import ImageResult
from sam_diffsr.evaluation.measures import MEASURES
from sam_diffsr.evaluation.methods import Method
from sam_diffsr.evaluation.metrics import luma
from sam_diffsr.evaluation.result import Evaluation, ImageScore, Row

__all__ = ["ComparisonPage", "largest_disagreement"]

_MOST_IMAGES = 16
_MOST_RESULTS = 48
"""Crops of results on a page, which keep it at about ten megabytes."""
_SIDE = 256
"""Side of the crops, in pixels of the truth."""
_BETTER_HIGH = {
    **{
        "PSNR-Y": True,
        "SSIM-Y": True,
        "PSNR-RGB": True,
        "artifacts 1e-4": False,
        "LPIPS": False,
        "FID": False,
    },
    **{name: False for name, measure in MEASURES.items() if measure.lower_is_better},
}
_TEXT = {"damage", "model", "method", "start", "spacing"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    """The crop of one image: position and size in the truth, scores and pictures."""

    damage: str
    name: str
    place: tuple[int, int, int, int]
    scores: tuple[ImageScore, ...]
    pictures: list[str]


class ComparisonPage:
    """Collects crops while an evaluation runs, and writes the page at the end.

    Only the worst images keep a crop: those with the lowest PSNR-Y of the first model or folder of results.
    The tables hold all images.

    Args:
        methods: The methods; call :func:`~sam_diffsr.evaluation.evaluate.evaluate_methods` with
            ``on_image=page.add``.
        scale: Upscaling factor.
        most: Images with a crop; None takes 16, and fewer where there are many methods.
    """

    def __init__(self, methods: Sequence[Method], *, scale: int, most: int | None = None) -> None:
        self.scale = scale
        self.most = max(2, min(_MOST_IMAGES, _MOST_RESULTS // len(methods))) if most is None else most
        kinds = [method.kind for method in methods]
        self.leading = next((i for i, kind in enumerate(kinds) if kind in ("model", "images")), 0)
        self._cards: list[_Card] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    def add(self, result: ImageResult) -> None:
        """Keep an image's crop if it is among the worst so far."""
        pair, outputs = result.pair, result.outputs
        self._sizes[pair.name] = (pair.hr.shape[-2], pair.hr.shape[-1])
        if len(self._cards) >= self.most:
            best = max(self._cards, key=self._order)
            if result.scores[self.leading].psnr_y >= self._order(best):
                return
            self._cards.remove(best)
        top, left, height, width = largest_disagreement(pair.hr, outputs, scale=self.scale, side=_SIDE)
        low = [value // self.scale for value in (top, left, height, width)]
        crops = [image[..., top : top + height, left : left + width] for image in (*outputs, pair.hr)]
        crops.insert(0, pair.lr[..., low[0] : low[0] + low[2], low[1] : low[1] + low[3]])
        self._cards.append(
            _Card(
                damage=result.damage,
                name=pair.name,
                place=(top, left, height, width),
                scores=result.scores,
                pictures=[_address(crop) for crop in crops],
            )
        )

    def html(self, evaluation: Evaluation) -> str:
        """The page of the evaluation that the crops were collected in."""
        # rows come damage by damage, and every damage has the same methods
        damages = list(dict.fromkeys(row.damage for row in evaluation.rows))
        rows = {damage: [row for row in evaluation.rows if row.damage == damage] for damage in damages}
        leading = evaluation.rows[self.leading].label
        cards = sorted(self._cards, key=self._order)
        title = f"Evaluation: {evaluation.dataset}" if evaluation.dataset else "Evaluation"
        total = len(evaluation.rows[0].images) * len(damages)
        shown = f"The {len(cards)} worst of {total} images" if len(cards) < total else "Images"
        tables = [
            self._images(rows[damage], pictured={_anchor(card) for card in cards}) for damage in damages
        ]
        return "\n".join(
            [
                "<!DOCTYPE html>",
                '<html lang="en">',
                "<head>",
                '<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(title)}</title>",
                f"<style>\n{_resource('page.css')}</style>",
                "</head>",
                "<body>",
                f"<h1>{escape(title)}</h1>",
                f'<p class="dim">{escape(evaluation.heading())}</p>',
                "<h2>Means over all images</h2>",
                _summary(evaluation),
                *(f'<p class="dim">{escape(note)}</p>' for note in evaluation.notes()),
                _record(evaluation),
                f"<h2>{escape(shown)}, worst first</h2>",
                '<p class="dim">Each crop lies where truth and results differ most; the lowest PSNR-Y of '
                f"{escape(leading)} comes first. Drag the line to compare, click to zoom.</p>",
                '<div class="cards">',
                *(self._card(card, rows[card.damage]) for card in cards),
                "</div>",
                "<h2>Image by image</h2>",
                '<p class="dim">PSNR-Y in dB, SSIM-Y below it. Click a heading to sort.</p>',
                *tables,
                f"<script>\n{_resource('page.js')}</script>",
                "</body>",
                "</html>",
                "",
            ]
        )

    def _order(self, card: _Card) -> float:
        return card.scores[self.leading].psnr_y

    def _images(self, rows: Sequence[Row], *, pictured: set[str]) -> str:
        """Table of the images of one damage, lowest PSNR-Y of the leading method first."""
        header = ["image", "pixels", *map(_method, rows)]
        cells = [
            f'<th{_class("text", when=index == 0)}{_sorted(when=index == 2 + self.leading)} scope="col">'
            f'<button type="button">{escape(label)}</button></th>'
            for index, label in enumerate(header)
        ]
        leading = rows[self.leading].images
        lines: list[str] = []
        for index in sorted(range(len(leading)), key=lambda index: leading[index].psnr_y):
            name = leading[index].name
            anchor = _anchor_of(rows[0].damage, name)
            height, width = self._sizes.get(name, (0, 0))
            link = f'<a href="#{anchor}">{escape(name)}</a>' if anchor in pictured else escape(name)
            scores = [row.images[index] for row in rows]
            best = max(score.psnr_y for score in scores)
            line = [
                f'<td class="text" data-value="{escape(name)}">{link}</td>',
                f'<td data-value="{height * width}">{f"{width} × {height}" if width else ""}</td>',
            ]
            line += [
                f'<td{_class("best", when=score.psnr_y == best)} data-value="{_script_number(score.psnr_y)}">'
                f"{score.psnr_y:.2f}<small>{score.ssim_y:.4f}</small></td>"
                for score in scores
            ]
            lines.append(f"<tr>{''.join(line)}</tr>")
        title = f"<h3>{escape(rows[0].damage)}</h3>" if rows[0].damage else ""
        return (
            f'{title}<div class="scroll"><table class="images"><thead><tr>{"".join(cells)}</tr></thead>'
            "\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
        )

    def _card(self, card: _Card, rows: Sequence[Row]) -> str:
        """Slider of one crop, bicubic or the input on its left and the leading method on its right."""
        top, left, height, width = card.place
        captions = [
            f"{_method(row)} · {score.psnr_y:.2f} dB" for row, score in zip(rows, card.scores, strict=True)
        ]
        captions = ["input", *captions, "truth"]
        right = 1 + self.leading
        before = 1 if right > 1 else 0
        images = [
            f'<img src="{picture}" alt="{escape(f"{card.name}: {caption}")}"'
            f"{_class('before', when=index == before)}{_class('after', when=index == right)}>"
            for index, (picture, caption) in enumerate(zip(card.pictures, captions, strict=True))
        ]
        choices = ""
        for side, chosen in (("before", before), ("after", right)):
            options = "".join(
                f"<option{' selected' if index == chosen else ''}>{escape(caption)}</option>"
                for index, caption in enumerate(captions)
            )
            choices += f'<select class="{side}" aria-label="{side}">{options}</select>'
        name = f"{card.name}, {card.damage}" if card.damage else card.name
        return "\n".join(
            [
                f'<section class="card" id="{_anchor(card)}">',
                f'<h3>{escape(name)} <span class="dim">at ({left}, {top})</span></h3>',
                f'<div class="slider" style="aspect-ratio:{width}/{height}">',
                *images,
                "<i></i></div>",
                '<input type="range" max="100" value="50" step="0.5" aria-label="position of the line">',
                f'<div class="sides">{choices}</div>',
                '<label class="dim"><input type="checkbox"> difference from the truth, 4 x brighter</label>',
                "</section>",
            ]
        )


def largest_disagreement(
    truth: Tensor, outputs: Sequence[Tensor], *, scale: int, side: int
) -> tuple[int, int, int, int]:
    """The box where truth and results differ most among themselves: greatest variance of their luma.

    Args:
        truth: ``(1, 3, H, W)`` uint8, H and W multiples of ``scale``.
        outputs: Results of the same shape.
        scale: Boxes begin and end at whole pixels of the input.
        side: Side of the box; cut down to a multiple of the scale, and to the image where that is smaller.

    Returns:
        Top, left, height and width of the first such box from the top left; the middle of the image where
        nothing differs.
    """
    stack = torch.cat([luma(image, data_range=255) for image in (truth, *outputs)])
    spread = stack.var(dim=0, correction=0)[0]
    full = (spread.shape[0], spread.shape[1])
    height, width = (min(max(scale, side // scale * scale), length) for length in full)
    if not spread.any():
        top, left = (
            (whole - part) // 2 // scale * scale for whole, part in zip(full, (height, width), strict=True)
        )
        return top, left, height, width
    sums = torch.zeros(full[0] + 1, full[1] + 1, dtype=torch.float64)
    sums[1:, 1:] = spread.cpu().cumsum(0).cumsum(1)
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    boxes = boxes[::scale, ::scale]
    row, column = divmod(int(boxes.argmax()), boxes.shape[1])
    return row * scale, column * scale, height, width


def _summary(evaluation: Evaluation) -> str:
    """Table of means; the best value of each column and damage is marked."""
    header, lines = evaluation.columns()
    damages = [row.damage for row in evaluation.rows]
    best: dict[tuple[str, str], float] = {}
    for title, damage in ((title, damage) for title in header for damage in dict.fromkeys(damages)):
        column = header.index(title)
        values = [line[column] for line, row in zip(lines, damages, strict=True) if row == damage]
        known = [float(value) for value in values if title in _BETTER_HIGH and value]
        if known:
            best[title, damage] = max(known) if _BETTER_HIGH[title] else min(known)
    head = "".join(
        f'<th class="{"text" if title in _TEXT else "number"}" scope="col">{escape(title)}</th>'
        for title in header
    )
    body: list[str] = []
    for line, damage in zip(lines, damages, strict=True):
        cells = [
            f'<td class="{"text" if title in _TEXT else "number"}'
            f'{" best" if cell and (title, damage) in best and float(cell) == best[title, damage] else ""}">'
            f"{escape(cell)}</td>"
            for title, cell in zip(header, line, strict=True)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table id="summary"><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def _record(evaluation: Evaluation) -> str:
    """How it was measured, as a list that opens on a click."""
    entries = {
        "protocol": f"{evaluation.protocol}, a border of {evaluation.border} pixels left out",
        "input": evaluation.lr,
        "cropped": ", ".join(evaluation.cropped) or "none",
        "gray": ", ".join(evaluation.gray) or "none",
        "seed": str(evaluation.seed),
        "commit": evaluation.commit or "not a git checkout",
        **{key.replace("_", " "): str(value) for key, value in evaluation.machine.items()},
        **evaluation.versions,
    }
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries.items())
    return f"<details><summary>How this was measured</summary><dl>{rows}</dl></details>"


def _method(row: Row) -> str:
    """Label of a row among those of one damage."""
    return row.label.removeprefix(f"{row.damage}: ")


def _class(name: str, *, when: bool) -> str:
    return f' class="{name}"' if when else ""


def _sorted(*, when: bool) -> str:
    return ' aria-sort="ascending"' if when else ""


def _script_number(value: float) -> str:
    """A number as the page's script reads it."""
    return "Infinity" if value == float("inf") else str(value)


def _anchor(card: _Card) -> str:
    return _anchor_of(card.damage, card.name)


def _anchor_of(damage: str, name: str) -> str:
    """An identifier that no other image of the page has."""
    return f"image-{os.fsencode(f'{damage}/{name}').hex()}"


def _address(image: Tensor) -> str:
    """An image ``(1, 3, H, W)`` uint8 as a lossless ``data:`` address."""
    buffer = io.BytesIO()
    array = np.ascontiguousarray(image[0].permute(1, 2, 0).cpu().numpy())
    Image.fromarray(array).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _resource(name: str) -> str:
    return resources.files("sam_diffsr.evaluation").joinpath(name).read_text(encoding="utf-8")
