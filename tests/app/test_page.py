"""The page in a browser: what goes in, what comes out, and that it asks no other machine for anything."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sam_diffsr.app.worker import Worker
from sam_diffsr.errors import ArgumentError

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def address(worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    from sam_diffsr.app.page import build_page

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = build_page(worker)
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield address
    page.close()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text("Drop Image Here").first.wait_for()
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture
def unhurried(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step take a while, so that a hand can cancel in between."""
    upscale = worker.upscale

    def slow(path: Path, choices: Any, *, job: str, report: Callable[[float], object]) -> Any:
        def late(share: float) -> None:
            report(share)
            time.sleep(2)

        return upscale(path, choices, job=job, report=late)

    monkeypatch.setattr(worker, "upscale", slow)


def test_an_image_goes_in_and_one_four_times_as_large_comes_out(page: Any, photo: Path, tmp_path: Path):
    page.set_input_files("input[type=file] >> nth=0", photo)
    page.get_by_text("40 × 30 pixels become 160 × 120").wait_for()
    page.get_by_role("button", name="Upscale").first.click()
    page.get_by_text("Done: 160 × 120 pixels").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").first.click()
    assert download.value.suggested_filename == "photo_x4.png"
    download.value.save_as(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (160, 120)
        assert image.getexif()[0x010F] == "Maker"


@pytest.mark.usefixtures("unhurried")
def test_cancel_ends_the_work(page: Any, photo: Path):
    page.set_input_files("input[type=file] >> nth=0", photo)
    go, stop = (
        page.get_by_role("button", name="Upscale").first,
        page.get_by_role("button", name="Cancel").first,
    )
    page.get_by_text("pixels become").wait_for()
    go.click()
    stop.click()
    page.get_by_text("Cancelled.").wait_for()
    sync_api.expect(go).to_be_enabled()
    sync_api.expect(stop).to_be_disabled()


def test_a_text_file_is_refused(page: Any, tmp_path: Path):
    path = tmp_path / "notes.png"
    path.write_text("no image")
    page.set_input_files("input[type=file] >> nth=0", path)
    page.get_by_text("This cannot be upscaled:").wait_for()
    assert page.get_by_text("is not an image").is_visible()
    sync_api.expect(page.get_by_role("button", name="Upscale").first).to_be_disabled()


def test_several_files_are_upscaled_and_a_bad_one_is_named(page: Any, tmp_path: Path, photo: Path):
    other, bad = tmp_path / "other.png", tmp_path / "bad.png"
    shutil.copy(photo, other)
    bad.write_text("no image")
    page.get_by_role("tab", name="Several images").click()
    page.set_input_files("input[type=file] >> nth=1", [photo, other, bad])
    page.get_by_text(re.compile("other.png: 40 × 30 pixels become")).wait_for()
    assert page.get_by_text(re.compile("Left out:.*bad.png.* is not an image")).is_visible()
    page.get_by_role("button", name="Upscale").last.click()
    page.get_by_text("Done: 2 of 3 files upscaled.").wait_for()
    for name in ("photo_x4", "other_x4", "results"):
        assert page.get_by_text(re.compile(name)).count() > 0


def test_a_port_that_is_taken_is_named(address: str):
    from sam_diffsr.app.page import serve

    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ArgumentError, match=rf"port {port} on 127\.0\.0\.1 cannot be used.*--port"):
        serve(port=port, device="cpu")
