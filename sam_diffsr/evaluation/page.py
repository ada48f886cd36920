"""Shows an evaluation as one self-contained HTML file: tables, and sliders that compare two images."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from itertools import groupby
from string import Template
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sam_diffsr.evaluation.evaluate import ImageResult
from sam_diffsr.evaluation.methods import Method
from sam_diffsr.evaluation.metrics import luma
from sam_diffsr.evaluation.result import BETTER, Evaluation, Row

_MOST_IMAGES = 16
_MOST_RESULTS = 48
"""Crops of results on a page, which keep it at about ten megabytes."""
_SIDE = 256
"""Side of the crops, in pixels of the truth."""
_TEXT = {"damage", "model", "method", "start", "spacing"}


class _Card(NamedTuple):
    """The crop of one image, on the page."""

    psnr_y: float
    anchor: str
    html: str


class ComparisonPage:
    """Collects crops while an evaluation runs, and writes the page at the end.

    Only the worst images keep a crop: those with the lowest PSNR-Y of the first model or folder of results.
    The tables hold all images. Call ``evaluate_methods`` with the same methods and ``on_image=page.add``.
    ``most`` images have a crop; None takes 16, and fewer where there are many methods.
    """

    def __init__(self, methods: Sequence[Method], *, scale: int, most: int | None = None) -> None:
        self.scale = scale
        self.most = max(2, min(_MOST_IMAGES, _MOST_RESULTS // len(methods))) if most is None else most
        self.labels = [method.label for method in methods]
        kinds = [method.kind for method in methods]
        self.leading = next((i for i, kind in enumerate(kinds) if kind in ("model", "images")), 0)
        self._cards: list[_Card] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    def add(self, result: ImageResult) -> None:
        """Keep an image's crop if it is among the worst so far."""
        self._sizes[result.pair.name] = (result.pair.hr.shape[-2], result.pair.hr.shape[-1])
        psnr_y = result.scores[self.leading].psnr_y
        if len(self._cards) < self.most or psnr_y < self._cards[-1].psnr_y:
            card = _Card(psnr_y, _anchor(result.damage, result.pair.name), self._slider(result))
            self._cards = sorted([*self._cards, card], key=lambda card: card.psnr_y)[: self.most]

    def html(self, evaluation: Evaluation) -> str:
        """The page of the evaluation that the crops were collected in."""
        total = sum(len(row.images) for row in evaluation.rows) // len(self.labels)
        shown = len(self._cards)
        record = {
            "protocol": f"{evaluation.protocol}, a border of {evaluation.border} pixels left out",
            "input": evaluation.lr,
            "cropped": ", ".join(evaluation.cropped) or "none",
            "gray": ", ".join(evaluation.gray) or "none",
            "seed": evaluation.seed,
            "commit": evaluation.commit or "not a git checkout",
            **{key.replace("_", " "): value for key, value in evaluation.machine.items()},
            **evaluation.versions,
        }
        return Template(_resource("page.html")).substitute(
            title=escape(f"Evaluation: {evaluation.dataset}" if evaluation.dataset else "Evaluation"),
            style=_resource("page.css"),
            script=_resource("slider.js") + _resource("page.js"),
            heading=escape(evaluation.heading()),
            summary=_summary(evaluation),
            notes="\n".join(_tag("p", escape(note), class_="dim") for note in evaluation.notes()),
            record="".join(_tag("dt", escape(key)) + _tag("dd", escape(str(record[key]))) for key in record),
            shown=f"The {shown} worst of {total} images" if shown < total else "Images",
            leading=escape(evaluation.rows[self.leading].label),
            cards="\n".join(card.html for card in self._cards),
            tables="\n".join(
                self._images(damage, list(rows))
                for damage, rows in groupby(evaluation.rows, lambda row: row.damage)
            ),
        )

    def _images(self, damage: str, rows: Sequence[Row]) -> str:
        """Table of the images of one damage, lowest PSNR-Y of the leading method first."""
        header = ""
        for index, label in enumerate(["image", "pixels", *self.labels]):
            order = "ascending" if index == 2 + self.leading else ""
            button = _tag("button", escape(label), type="button")
            header += _tag("th", button, class_="" if index else "text", aria_sort=order, scope="col")
        pictured = {card.anchor for card in self._cards}
        lines: list[str] = []
        images = zip(*(row.images for row in rows), strict=True)
        for scores in sorted(images, key=lambda scores: scores[self.leading].psnr_y):
            name = scores[0].name
            anchor, link = _anchor(damage, name), escape(name)
            link = _tag("a", link, href=f"#{anchor}") if anchor in pictured else link
            height, width = self._sizes.get(name, (0, 0))
            line = _tag("td", link, class_="text", data_value=name)
            line += _tag("td", f"{width} × {height}" if width else "", data_value=str(height * width))
            best = max(score.psnr_y for score in scores)
            for score in scores:
                value = str(score.psnr_y).replace("inf", "Infinity")  # as the page's script reads it
                cell = f"{score.psnr_y:.2f}<small>{score.ssim_y:.4f}</small>"
                line += _tag("td", cell, class_="best" if score.psnr_y == best else "", data_value=value)
            lines.append(line)
        title = _tag("h3", escape(damage)) if damage else ""
        return title + _table(header, lines, class_="images")

    def _slider(self, result: ImageResult) -> str:
        """Slider of one crop, bicubic or the input on its left and the leading method on its right."""
        # the crop lies where truth and results differ most
        pair, outputs, name = result.pair, result.outputs, result.pair.name
        place = largest_disagreement(pair.hr, outputs, scale=self.scale, side=_SIDE)
        low = [value // self.scale for value in place]
        crops = [_crop(pair.lr, low), *(_crop(image, place) for image in (*outputs, pair.hr))]
        top, left, height, width = place

        # one picture each for the input, the methods and the truth; two of them are seen at first
        scored = zip(self.labels, result.scores, strict=True)
        captions = ["input", *(f"{label} · {score.psnr_y:.2f} dB" for label, score in scored), "truth"]
        after = 1 + self.leading
        sides = {1 if after > 1 else 0: "before", after: "after"}
        images = [
            f'<img src="{_address(crop)}" alt="{escape(f"{name}: {caption}")}"'
            + (f' class="{sides[index]}">' if index in sides else ">")
            for index, (crop, caption) in enumerate(zip(crops, captions, strict=True))
        ]
        choices = ""
        for chosen, side in sides.items():
            options = [_tag("option", escape(caption)) for caption in captions]
            options[chosen] = options[chosen].replace("<option", "<option selected")
            choices += _tag("select", "".join(options), class_=side, aria_label=side)
        return Template(_resource("card.html")).substitute(
            anchor=_anchor(result.damage, name),
            name=escape(f"{name}, {result.damage}" if result.damage else name),
            left=left,
            top=top,
            width=width,
            height=height,
            images="\n".join(images),
            choices=choices,
        )


def largest_disagreement(
    truth: Tensor, outputs: Sequence[Tensor], *, scale: int, side: int
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box where truth and results differ most among themselves.

    That is the first box with the greatest variance of luma; where nothing differs, the middle of the image.
    Images are ``(1, 3, H, W)`` uint8. The box begins and ends at whole pixels of the input; ``side`` is cut
    down to a multiple of the scale, and to the image where that is smaller.
    """
    stack = torch.cat([luma(image, data_range=255) for image in (truth, *outputs)])
    spread = stack.var(dim=0, correction=0)[0]
    rows, columns = spread.shape
    height, width = (min(max(scale, side // scale * scale), length) for length in (rows, columns))
    if not spread.any():
        return (rows - height) // 2 // scale * scale, (columns - width) // 2 // scale * scale, height, width
    boxes = functional.avg_pool2d(spread[None], (height, 1), stride=(scale, 1))
    boxes = functional.avg_pool2d(boxes, (1, width), stride=(1, scale))[0]
    row, column = divmod(int(boxes.argmax()), boxes.shape[1])
    return row * scale, column * scale, height, width


def _summary(evaluation: Evaluation) -> str:
    """Table of means; the best value of each column and damage is marked."""
    header, lines = evaluation.columns()
    head, body = "", [""] * len(lines)
    for title, column in zip(header, zip(*lines, strict=True), strict=True):
        kind = "text" if title in _TEXT else "number"
        head += _tag("th", escape(title), class_=kind, scope="col")
        rivals: dict[str, list[float]] = {}
        for row, cell in zip(evaluation.rows, column, strict=True):
            if cell and title in BETTER:
                rivals.setdefault(row.damage, []).append(float(cell))
        for index, (row, cell) in enumerate(zip(evaluation.rows, column, strict=True)):
            best = cell and title in BETTER and float(cell) == BETTER[title](rivals[row.damage])
            body[index] += _tag("td", escape(cell), class_=f"{kind} best" if best else kind)
    return _table(head, body, id="summary")


def _table(header: str, lines: Sequence[str], **attributes: str) -> str:
    rows = "\n".join(_tag("tr", line) for line in lines)
    head = _tag("thead", _tag("tr", header))
    table = _tag("table", f"{head}\n{_tag('tbody', rows)}", **attributes)
    return _tag("div", table, class_="scroll")


def _tag(name: str, content: str, **attributes: str) -> str:
    """An element; ``content`` is HTML, ``data_value`` is the attribute data-value, empty attributes go."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    given = "".join(f' {names[key]}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{given}>{content}</{name}>"


def _anchor(damage: str, name: str) -> str:
    """An identifier that no other image of the page has."""
    return f"image-{os.fsencode(f'{damage}/{name}').hex()}"


def _crop(image: Tensor, place: Sequence[int]) -> Tensor:
    top, left, height, width = place
    return image[..., top : top + height, left : left + width]


def _address(image: Tensor) -> str:
    """An image ``(1, 3, H, W)`` uint8 as a lossless ``data:`` address."""
    buffer = io.BytesIO()
    Image.fromarray(image[0].permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _resource(name: str) -> str:
    return resources.files("sam_diffsr.evaluation").joinpath(name).read_text(encoding="utf-8")
