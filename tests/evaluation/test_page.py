"""The comparison page: what is on it, what it must not contain, and how a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, model_methods, results_method
from sam_diffsr.evaluation.page import ComparisonPage

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
    tables = [attributes.get("id") for tag, attributes in page.tags if tag == "table"]
    assert tables == ["summary", "images"]
    alts = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    of_one = ["LR", "whole image", "bicubic", "bicubic, error"]
    assert [alt.partition(".png: ")[2] for alt in alts[:4]] == of_one
    assert len(alts) == 3 * (2 + 2 * 4 + 2)
    order = [alt.partition(": ")[0] for alt in alts if alt.endswith(": HR")]
    assert order == ['<img src=x onerror="alert(1)">.png', "b & c.png", "a.png"]
    values = [
        attributes["data-value"]
        for tag, attributes in page.tags
        if tag == "td" and "data-value" in attributes
    ]
    assert values.count("Infinity") == 3  # of the truth itself
    names = [cell for cell in page.cells if cell.endswith(".png")]
    assert names == order


def test_it_needs_nothing_else_and_runs_nothing_of_others(make_page) -> None:
    text = make_page()
    page = Reader(text)
    for tag, attributes in page.tags:
        source = attributes.get("src") or attributes.get("href") or "#"
        assert source.startswith(("data:image/", "#")), (tag, source)
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
    assert card["id"] == "image-" + b'<img src=x onerror="alert(1)">.png'.hex()


def test_many_methods_take_pictures_from_fewer_images(resolver) -> None:
    few = ComparisonPage([bicubic_method(4)] * 3, scale=4)
    many = ComparisonPage([bicubic_method(4)] * 40, scale=4)
    assert few.most == 24
    assert many.most == 3


def test_the_best_of_each_measure_is_marked(make_page) -> None:
    page = Reader(make_page())
    best = [
        attributes
        for tag, attributes in page.tags
        if tag == "td" and "best" in (attributes.get("class") or "")
    ]
    # the truth itself is best by three measures, and in each of three images
    assert len(best) == 3 + 3


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    return found


PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  const sides = images.map((image) => [image.naturalWidth, image.getBoundingClientRect().width]);
  const first = () => document.querySelector("#images tbody tr td").textContent;
  const before = first();
  document.querySelectorAll("#images th button")[0].click();
  const ascending = first();
  document.querySelectorAll("#images th button")[0].click();
  const report = {
    loaded: sides.filter(([natural]) => natural > 0).length,
    shown: sides.filter(([, width]) => width > 50).length,
    rows: document.querySelectorAll("#summary tbody tr").length,
    background: getComputedStyle(document.body).backgroundColor,
    before, ascending, descending: first(), sorted: document.querySelector("th[aria-sort]").textContent,
    injected: document.querySelectorAll("img[onerror], h1 b").length,
  };
  document.title = "REPORT" + Object.entries(report).map((entry) => entry.join("=")).join("|");
});
</script>
"""


def test_a_browser_shows_the_table_and_the_pictures(make_page, tmp_path) -> None:
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
    pictures = 3 * (2 + 2 * 4 + 2)
    assert (report["loaded"], report["shown"]) == (str(pictures), str(pictures))
    assert report["rows"] == "4"
    assert report["background"] != "rgba(0, 0, 0, 0)"  # the style was read
    assert report["before"].startswith("<img")
    assert (report["ascending"], report["descending"]) == ('<img src=x onerror="alert(1)">.png', "b & c.png")
    assert report["sorted"] == "image"
    assert report["injected"] == "0"
