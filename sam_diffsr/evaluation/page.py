"""An evaluation as one HTML file that needs nothing else: tables, crops side by side, maps of the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from sam_diffsr.evaluation.evaluate import ImageResult
from sam_diffsr.evaluation.measures import MEASURES
from sam_diffsr.evaluation.methods import Method
from sam_diffsr.evaluation.pictures import (
    ERROR_COLOURS,
    Box,
    ErrorScale,
    Panel,
    error_scale,
    largest_disagreement,
    overview,
    overview_error,
    panels,
    picture,
)
from sam_diffsr.evaluation.result import Evaluation, ImageScore, Row

__all__ = ["ComparisonPage"]

_MOST_IMAGES = 24
_MOST_PANELS = 120
"""What keeps a page at a few megabytes."""
_BETTER_HIGH = {
    **{"PSNR-Y": True, "SSIM-Y": True, "artifacts 1e-4": False, "LPIPS": False, "FID": False},
    **{name: False for name, measure in MEASURES.items() if measure.lower_is_better},
}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    """What is shown of one image."""

    name: str
    size: tuple[int, int]
    scores: tuple[ImageScore, ...]
    box: Box
    scale: ErrorScale
    lr: str
    hr: str
    panels: list[Panel]
    overview: str
    overview_error: str


class ComparisonPage:
    """Collects pictures while an evaluation runs, and writes the page when it is done.

    Only the worst images keep their pictures: those with the lowest PSNR-Y of the first method that is a
    model or a folder of results. The tables hold all of them.

    Args:
        methods: what is compared, as in
            :func:`~sam_diffsr.evaluation.evaluate.evaluate_methods`, which is called with
            ``on_image=page.add``.
        scale: upscaling factor.
        most: images with pictures; None takes 24, and fewer where there are many methods.
    """

    def __init__(self, methods: Sequence[Method], *, scale: int, most: int | None = None) -> None:
        self.scale = scale
        self.most = max(2, min(_MOST_IMAGES, _MOST_PANELS // len(methods))) if most is None else most
        kinds = [method.kind for method in methods]
        self.leading = next((i for i, kind in enumerate(kinds) if kind in ("model", "images")), 0)
        self._cards: list[_Card] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    def add(self, result: ImageResult) -> None:
        """Take one image in, if it is among the worst so far."""
        pair, outputs = result.pair, result.outputs
        self._sizes[pair.name] = (pair.hr.shape[-2], pair.hr.shape[-1])
        if len(self._cards) >= self.most:
            best = max(self._cards, key=self._order)
            if result.scores[self.leading].psnr_y >= self._order(best):
                return
            self._cards.remove(best)
        box = largest_disagreement(pair.hr, outputs, scale=self.scale)
        scale = error_scale(pair, outputs, box)
        self._cards.append(
            _Card(
                name=pair.name,
                size=(pair.hr.shape[-2], pair.hr.shape[-1]),
                scores=result.scores,
                box=box,
                scale=scale,
                lr=picture(box.cut(pair.lr, scale=self.scale)),
                hr=picture(box.cut(pair.hr)),
                panels=panels(pair, outputs, box, scale),
                overview=overview(pair.hr),
                overview_error=overview_error(outputs[self.leading], pair.hr, scale),
            )
        )

    def html(self, evaluation: Evaluation) -> str:
        """The page.

        Args:
            evaluation: the result of the run that the pictures were collected in.
        """
        leading = evaluation.rows[self.leading]
        cards = sorted(self._cards, key=self._order)
        title = f"Evaluation: {evaluation.dataset}" if evaluation.dataset else "Evaluation"
        shown = (
            f"The {len(cards)} worst of {len(self._sizes)} images"
            if len(cards) < len(self._sizes)
            else "Images"
        )
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
                "<h2>Image by image</h2>",
                f'<p class="dim">PSNR-Y in dB, SSIM-Y below it; lowest PSNR-Y of {escape(leading.label)} '
                "first. Click a heading to sort.</p>",
                self._images(evaluation, pictured={card.name for card in cards}),
                f"<h2>{escape(shown)}, worst first</h2>",
                '<p class="dim">Crops are taken where truth and results differ most, as marked below LR. '
                "Below each result is its error on Y, in one scale for all results of an image; below HR is "
                f"the mean error of {escape(leading.label)} over the whole image.</p>",
                *(self._card(card, evaluation.rows) for card in cards),
                f"<script>\n{_resource('page.js')}</script>",
                "</body>",
                "</html>",
                "",
            ]
        )

    def _order(self, card: _Card) -> float:
        return card.scores[self.leading].psnr_y

    def _images(self, evaluation: Evaluation, *, pictured: set[str]) -> str:
        header = ["image", "pixels", *(row.label for row in evaluation.rows)]
        cells = [
            f'<th{_class("text", when=index == 0)}{_sorted(when=index == 2 + self.leading)} scope="col">'
            f'<button type="button">{escape(label)}</button></th>'
            for index, label in enumerate(header)
        ]
        leading = evaluation.rows[self.leading].images
        lines: list[str] = []
        for index in sorted(range(len(leading)), key=lambda index: leading[index].psnr_y):
            name = leading[index].name
            height, width = self._sizes[name]
            link = f'<a href="#{_anchor(name)}">{escape(name)}</a>' if name in pictured else escape(name)
            scores = [row.images[index] for row in evaluation.rows]
            best = max(score.psnr_y for score in scores)
            line = [
                f'<td class="text" data-value="{escape(name)}">{link}</td>',
                f'<td data-value="{height * width}">{width} × {height}</td>',
            ]
            line += [
                f'<td{_class("best", when=score.psnr_y == best)} data-value="{_script_number(score.psnr_y)}">'
                f"{score.psnr_y:.2f}<small>{score.ssim_y:.4f}</small></td>"
                for score in scores
            ]
            lines.append(f"<tr>{''.join(line)}</tr>")
        return (
            f'<div class="scroll"><table class="images" id="images"><thead><tr>{"".join(cells)}</tr></thead>'
            "\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
        )

    def _card(self, card: _Card, rows: Sequence[Row]) -> str:
        colours = ", ".join(f"rgb{colour}" for colour in ERROR_COLOURS)
        box, (height, width) = card.box, card.size
        frame = (
            f"left:{100 * box.left / width:.2f}%;top:{100 * box.top / height:.2f}%;"
            f"width:{100 * box.width / width:.2f}%;height:{100 * box.height / height:.2f}%"
        )
        name = escape(card.name)
        whole = (
            f'<span class="frame"><img class="whole" src="{card.overview}" alt="{name}: whole image">'
            f'<i style="{frame}"></i></span>'
        )
        whole_error = f'<img class="whole" src="{card.overview_error}" alt="{name}: whole error">'
        figures = [_figure(_img(card.lr, f"{card.name}: LR") + whole, "LR", "nearest neighbour")]
        for row, score, panel in zip(rows, card.scores, card.panels, strict=True):
            alt = f"{card.name}: {row.label}"
            images = _img(panel.picture, alt) + _img(panel.error, f"{alt}, error")
            figures.append(_figure(images, row.label, f"{score.psnr_y:.2f} dB, {score.ssim_y:.4f}"))
        figures.append(_figure(_img(card.hr, f"{card.name}: HR") + whole_error, "HR", "truth"))
        return "\n".join(
            [
                f'<section class="card" id="{_anchor(card.name)}">',
                f'<header><h3>{name} <span class="dim">{width} × {height}</span></h3>',
                '<span class="legend">error on Y: 0 '
                f'<i style="background:linear-gradient(to right, {colours})"></i> '
                f"{card.scale.limit} levels and more</span></header>",
                '<div class="panels">',
                *figures,
                "</div>",
                "</section>",
            ]
        )


def _img(source: str, alt: str) -> str:
    return f'<img src="{source}" alt="{escape(alt)}">'


def _figure(images: str, label: str, note: str) -> str:
    caption = f"<strong>{escape(label)}</strong><span>{escape(note)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{images}</figure>"


def _summary(evaluation: Evaluation) -> str:
    header, lines = evaluation.columns()
    text = {"model", "method", "start", "spacing"}
    best: dict[str, float] = {}
    for column, title in enumerate(header):
        values = [float(line[column]) for line in lines if title in _BETTER_HIGH and line[column]]
        if values:
            best[title] = max(values) if _BETTER_HIGH[title] else min(values)
    head = "".join(
        f'<th class="{"text" if title in text else "number"}" scope="col">{escape(title)}</th>'
        for title in header
    )
    body: list[str] = []
    for line in lines:
        cells = [
            f'<td class="{"text" if title in text else "number"}'
            f'{" best" if cell and title in best and float(cell) == best[title] else ""}">{escape(cell)}</td>'
            for title, cell in zip(header, line, strict=True)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table id="summary"><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def _record(evaluation: Evaluation) -> str:
    """How it was measured, folded away."""
    entries = {
        "protocol": f"{evaluation.protocol}, a border of {evaluation.border} pixels left out",
        "input": evaluation.lr,
        "cropped": ", ".join(evaluation.cropped) or "none",
        "seed": str(evaluation.seed),
        "commit": evaluation.commit or "not a git checkout",
        **{key.replace("_", " "): str(value) for key, value in evaluation.machine.items()},
        **evaluation.versions,
    }
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries.items())
    return f"<details><summary>How this was measured</summary><dl>{rows}</dl></details>"


def _class(name: str, *, when: bool) -> str:
    return f' class="{name}"' if when else ""


def _sorted(*, when: bool) -> str:
    return ' aria-sort="ascending"' if when else ""


def _script_number(value: float) -> str:
    """A number as the page's script reads it."""
    return "Infinity" if value == float("inf") else str(value)


def _anchor(name: str) -> str:
    """An identifier that no other file name of the page has."""
    return "image-" + name.encode().hex()


def _resource(name: str) -> str:
    return resources.files("sam_diffsr.evaluation").joinpath(name).read_text(encoding="utf-8")
