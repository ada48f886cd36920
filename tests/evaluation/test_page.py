"""The comparison page: what is on it, what it must not contain, and how a browser shows it."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.data.degrade import parse_degradation
from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, model_methods, results_method
from sam_diffsr.evaluation.page import ComparisonPage, _address, largest_disagreement
from sam_diffsr.evaluation.report import write_text

MakePage = Callable[..., str]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Reader(HTMLParser):
    """Every tag with its attributes, and the text of every cell and heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th", "h3"):
            self.cells.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th", "h3")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


@pytest.fixture
def hr_files(tmp_path: Path) -> list[Path]:
    """Pictures of growing contrast, so that the last one is the worst, under names that need care."""
    names = ["a.png", "b & c.png", '<img src=x onerror="alert(1)">.png']
    files: list[Path] = []
    for index, name in enumerate(names):
        noise = np.random.default_rng(index).integers(0, 60 * (index + 1), (40, 36, 3), dtype=np.uint8)
        files.append(tmp_path / name)
        Image.fromarray(noise).save(files[-1])
    return files


@pytest.fixture
def make_page(resolver, hr_files) -> MakePage:
    def make(*, most: int | None = None) -> str:
        methods = [
            bicubic_method(4),
            *model_methods(resolver, name="<b>tiny</b>"),
            results_method(hr_files, hr_files, name="truth"),
        ]
        page = ComparisonPage(methods, scale=4, most=most)
        evaluation = evaluate_methods(hr_files, methods, scale=4, dataset="a<b", on_image=page.add)
        return page.html(evaluation)

    return make


def test_tables_and_pictures_are_there_worst_first(make_page) -> None:
    page = Reader(make_page())
    tables = [attributes.get("id") or attributes["class"] for tag, attributes in page.tags if tag == "table"]
    assert tables == ["summary", "images"]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    alts = [str(attributes["alt"]) for attributes in images]
    assert len(alts) == 3 * (1 + 4 + 1)  # the input, four methods, the truth
    assert [alt.partition(".png: ")[2].partition(" · ")[0] for alt in alts[:6]] == [
        "input",
        "bicubic",
        "<b>tiny</b>, encoder",
        "<b>tiny</b>, ddim 2 steps",
        "truth",
        "truth",
    ]
    assert [attributes.get("class") for attributes in images[:6]] == [
        None,
        "before",
        None,
        "after",
        None,
        None,
    ]
    order = [alt.removesuffix(": truth") for alt in alts[5::6]]
    assert order == ['<img src=x onerror="alert(1)">.png', "b & c.png", "a.png"]
    values = [
        attributes["data-value"]
        for tag, attributes in page.tags
        if tag == "td" and "data-value" in attributes
    ]
    assert values.count("Infinity") == 3  # of the truth itself
    names = [cell for cell in page.cells if cell.endswith(".png")]
    assert names == order


def test_each_damage_has_its_rows_and_cards(resolver, hr_files) -> None:
    methods = [bicubic_method(4), *model_methods(resolver, name="tiny")]
    page = ComparisonPage(methods, scale=4)
    damages = [parse_degradation(text) for text in ("jpeg50", "noise10")]
    evaluation = evaluate_methods(hr_files[:2], methods, scale=4, damages=damages, on_image=page.add)
    reader = Reader(page.html(evaluation))
    assert sum(tag == "section" for tag, _ in reader.tags) == 4
    assert [attributes.get("class") for tag, attributes in reader.tags if tag == "table"] == [
        None,
        "images",
        "images",
    ]
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert {f"#{attributes['id']}" for tag, attributes in reader.tags if tag == "section"} == {*links}
    assert "jpeg50" in reader.cells
    best = [attributes for _, attributes in reader.tags if "best" in (attributes.get("class") or "")]
    assert len(best) >= 2 * 4  # in the summary one per measure and damage, at least


def test_names_that_are_not_utf8_are_shown(resolver, hr_files, tmp_path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    hr_files[0].rename(tmp_path / name)
    methods = [bicubic_method(4)]
    page = ComparisonPage(methods, scale=4)
    evaluation = evaluate_methods([tmp_path / name], methods, scale=4, on_image=page.add)
    for kind, text in (("html", page.html(evaluation)), ("csv", evaluation.to_csv())):
        write_text(tmp_path / f"x.{kind}", text)
        assert "caf\\udce9.png" in (tmp_path / f"x.{kind}").read_text(encoding="utf-8")


def test_it_needs_nothing_else_and_runs_nothing_of_others(make_page) -> None:
    text = make_page()
    page = Reader(text)
    for tag, attributes in page.tags:
        source = attributes.get("src") or attributes.get("href") or "#"
        assert source.startswith(("data:image/webp", "#")), (tag, source)
        assert not [key for key in attributes if key.startswith("on")]
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not re.search(r"https?://|url\(|@import", re.sub(r'"data:[^"]*"', "", text))
    assert "<b>" not in text
    assert 'onerror="' not in text
    assert "default-src &#x27;none&#x27;" in text


def test_links_lead_to_the_pictures(make_page) -> None:
    page = Reader(make_page(most=2))
    identifiers = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert len(identifiers) == 2
    assert links == [f"#{identifier}" for identifier in identifiers]
    assert page.cells.count("a.png") == 1  # in the table, without pictures


def test_only_the_worst_keep_their_pictures(make_page) -> None:
    text = make_page(most=1)
    assert "The 1 worst of 3 images, worst first" in text
    page = Reader(text)
    (card,) = [attributes for tag, attributes in page.tags if tag == "section"]
    assert card["id"] == "image-" + b'/<img src=x onerror="alert(1)">.png'.hex()


def test_many_methods_take_pictures_from_fewer_images(resolver) -> None:
    few = ComparisonPage([bicubic_method(4)] * 3, scale=4)
    many = ComparisonPage([bicubic_method(4)] * 40, scale=4)
    assert few.most == 16
    assert many.most == 2


def test_the_best_of_each_measure_is_marked(make_page) -> None:
    page = Reader(make_page())
    best = [
        attributes
        for tag, attributes in page.tags
        if tag == "td" and "best" in (attributes.get("class") or "")
    ]
    # the truth itself is best by four measures, and in each of three images
    assert len(best) == 4 + 3


def test_pictures_keep_every_pixel() -> None:
    image = torch.randint(0, 256, (1, 3, 9, 7)).to(torch.uint8)
    head, _, data = _address(image).partition(";base64,")
    assert head == "data:image/webp"
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert np.array_equal(got, image[0].permute(1, 2, 0).numpy())


def gray(height: int = 64, width: int = 80) -> torch.Tensor:
    return torch.full((1, 3, height, width), 120, dtype=torch.uint8)


def test_the_box_holds_the_largest_disagreement() -> None:
    truth, output = gray(), gray()
    output[..., 41:49, 50:58] = 200
    output[..., 2:4, 2:4] = 255  # larger, but of fewer pixels
    top, left, height, width = largest_disagreement(truth, [output], scale=4, side=17)
    assert (height, width, top % 4, left % 4) == (16, 16, 0, 0)
    assert top <= 41
    assert top + 16 >= 49
    assert left <= 50
    assert left + 16 >= 58


def test_a_box_is_no_larger_than_the_image_and_in_its_middle_where_nothing_differs() -> None:
    assert largest_disagreement(gray(), [gray()], scale=4, side=24) == (20, 28, 24, 24)
    output = gray(8, 16)
    output[..., 0, 0] = 0
    assert largest_disagreement(gray(8, 16), [output], scale=4, side=96) == (0, 0, 8, 16)


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    return found


PROBE = """
<script>
addEventListener("load", () => {
  const card = document.querySelector(".card");
  const slider = card.querySelector(".slider");
  const box = slider.getBoundingClientRect();
  const style = (name) => slider.style.getPropertyValue(name);
  const pointer = (kind, share) => slider.dispatchEvent(new PointerEvent(kind, {
    clientX: box.left + share * box.width, clientY: box.top + box.height / 2, pointerId: 1, bubbles: true }));
  slider.setPointerCapture = () => {};
  const first = () => document.querySelector(".images tbody tr td").textContent;
  const heading = document.querySelector(".images th button");
  const report = { loaded: [...document.images].filter((image) => image.naturalWidth > 0).length };
  report.shown = [...slider.querySelectorAll("img")].filter((image) => image.offsetWidth > 50).length;
  report.before = first();
  heading.click();
  report.ascending = first();
  heading.click();
  report.descending = first();
  pointer("pointerdown", .5); pointer("pointermove", .25); pointer("pointerup", .25);
  report.dragged = style("--split");
  pointer("pointerdown", .75); pointer("pointerup", .75);
  report.zoomed = slider.classList.contains("zoom") + " " + style("--cut");
  card.querySelector("select.before").selectedIndex = 2;
  card.querySelector("select.before").dispatchEvent(new Event("change"));
  report.chosen = slider.querySelectorAll("img")[2].className;
  card.querySelector("input[type=checkbox]").click();
  report.difference = getComputedStyle(slider.querySelector(".truth")).mixBlendMode;
  report.background = getComputedStyle(document.body).backgroundColor;
  report.injected = document.querySelectorAll("img[onerror], h1 b").length;
  document.title = "REPORT" + Object.entries(report).map((entry) => entry.join("=")).join("|");
});
</script>
"""


def test_a_browser_shows_tables_and_sliders(make_page, tmp_path) -> None:
    program = browser()
    file = tmp_path / "page.html"
    file.write_text(make_page().replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    command = [program, "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"]
    command.append("--no-sandbox")  # the page is our own, and containers often have no sandbox
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    title = re.search(r"<title>REPORT(.*?)</title>", done.stdout)
    assert title is not None, done.stderr[-2000:]
    report = dict(entry.split("=", 1) for entry in unescape(title[1]).split("|"))
    worst = '<img src=x onerror="alert(1)">.png'
    assert report.pop("background") != "rgba(0, 0, 0, 0)"  # the style was read
    assert report == {
        "loaded": str(3 * 6),
        "shown": "2",
        "before": worst,
        "ascending": worst,
        "descending": "b & c.png",
        "dragged": "25%",
        "zoomed": "true 62.5%",  # three quarters, and a quarter of the way back to 25 %
        "chosen": "before",
        "difference": "difference",
        "injected": "0",
    }
