"""The handlers of the browser page, without a browser."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.app.worker import Choices, Result, Worker, _spoken
from sam_diffsr.errors import (
    CancelledError,
    ImageError,
    ImageTooLargeError,
    MissingDependencyError,
    OutputError,
)
from sam_diffsr.pipeline import SuperResolver, available_models
from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL


@pytest.fixture
def choices(worker: Worker) -> Choices:
    return Choices(model=worker.models[0], seed=3)


def upscale(worker: Worker, path: Path, choices: Choices) -> Result:
    worker.jobs.add("job")
    return worker.upscale(path, choices, job="job", report=lambda share: None)


def test_the_given_model_comes_first_and_the_bundled_ones_follow(worker: Worker, model_dir: Path):
    names = [DEFAULT_MODEL, *(name for name in available_models() if name != DEFAULT_MODEL)]
    assert worker.models == [str(model_dir), *names]


def test_the_job_is_described_with_sizes_and_time(worker: Worker, photo: Path, choices: Choices):
    pattern = r"40 × 30 pixels become {} × {}, in about (a second|\d+ (seconds|minutes))\."
    assert re.fullmatch(pattern.format(160, 120), worker.describe(photo, choices))
    smaller = dataclasses.replace(choices, outscale=2)
    assert re.fullmatch(pattern.format(80, 60), worker.describe(photo, smaller))


def test_the_result_is_that_of_the_library_with_metadata(
    worker: Worker, photo: Path, choices: Choices, model_dir: Path
):
    shares: list[float] = []
    worker.jobs.add("job")
    result = worker.upscale(photo, choices, job="job", report=shares.append)
    assert (result.path.name, result.size) == ("photo_x4.png", (120, 160))
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]
    with Image.open(result.path) as image:
        assert image.getexif()[0x010F] == "Maker"
        expected = SuperResolver.from_pretrained(model_dir, device="cpu").upscale(str(photo), seed=3)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert {Image.open(view).size for view in result.views} == {(160, 120)}


def test_scale_fidelity_and_file_type_are_taken(worker: Worker, photo: Path, choices: Choices):
    faithful = dataclasses.replace(choices, outscale=3, fidelity=1.0, extension="webp")
    result = upscale(worker, photo, faithful)
    assert result.path.name == "photo_x3.webp"
    assert Image.open(result.path).size == (120, 90)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "I;16"])
def test_every_kind_of_image_can_be_looked_at(worker: Worker, tmp_path: Path, choices: Choices, mode: str):
    path = tmp_path / "kind.png"
    Image.new(mode, (12, 10)).save(path)
    result = upscale(worker, path, choices)
    assert Image.open(result.path).mode == mode
    assert {Image.open(view).mode for view in result.views} == {"RGB"}


def test_cancelling_ends_the_job_at_the_next_step(worker: Worker, photo: Path, choices: Choices):
    shares: list[float] = []

    def report(share: float) -> None:
        shares.append(share)
        worker.jobs.discard("job")

    worker.jobs.add("job")
    with pytest.raises(CancelledError, match="stopped the work at step 1"):
        worker.upscale(photo, choices, job="job", report=report)
    assert shares == [0.2]
    with pytest.raises(CancelledError, match="cancelled before it started"):
        worker.upscale(photo, choices, job="job", report=report)


def test_a_cancelled_job_runs_until_it_has_ended(worker: Worker, photo: Path):
    pytest.importorskip("gradio")
    from sam_diffsr.app.page import build_page

    steps = [step.fn for step in build_page(worker).fns.values()]
    look, start, cancel, end = (
        next(step for step in steps if step is not None and step.__name__ == name)
        for name in ("look", "start", "cancel", "end")
    )
    visitor: Any = SimpleNamespace(session_hash="visitor")

    def can_start() -> bool:
        return look(str(photo), visitor, worker.models[0], True, 1.0, 4, 0, "png")[1]["interactive"]

    before = can_start()
    start(visitor)
    cancel(visitor)
    cancelled = can_start()
    end(visitor)
    assert (before, cancelled, can_start()) == (True, False, True)


def test_a_text_file_is_refused_by_its_name_alone(worker: Worker, tmp_path: Path, choices: Choices):
    path = tmp_path / "notes.png"
    path.write_text("no image")
    with pytest.raises(ImageError, match=r"notes\.png.* is not an image") as caught:
        worker.describe(path, choices)
    assert str(tmp_path) not in str(caught.value)


def test_the_limit_of_the_page_is_named(worker: Worker, tmp_path: Path, choices: Choices):
    path = tmp_path / "large.png"
    Image.new("L", (200, 200)).save(path)
    with pytest.raises(ImageTooLargeError, match=r"large\.png has more than 0\.01 megapixels.*--max-pixels"):
        worker.describe(path, choices)


def test_what_a_file_type_cannot_hold_is_refused_before_the_work(
    worker: Worker, tmp_path: Path, choices: Choices
):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8)).save(path)
    worker.jobs.add("job")
    with pytest.raises(OutputError, match="transparency"):
        worker.upscale(
            path,
            dataclasses.replace(choices, extension="jpg"),
            job="job",
            report=lambda share: pytest.fail("work was done"),
        )


def test_a_bad_file_fails_alone_and_cancelling_ends_the_list(
    worker: Worker, tmp_path: Path, photo: Path, choices: Choices
):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no")
    shares: list[float] = []
    worker.jobs.add("job")
    outcomes = worker.upscale_all([bad, photo, photo], choices, job="job", report=shares.append)
    name, error = next(outcomes)
    assert (name, type(error)) == ("bad.jpg", ImageError)
    name, result = next(outcomes)
    assert isinstance(result, Result)
    assert shares[-1] == pytest.approx(2 / 3)
    assert [path.name for path in result.path.parent.iterdir()] == ["photo_x4.png"]  # nobody looks at views
    worker.jobs.discard("job")
    assert list(outcomes) == []


def test_a_missing_gradio_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "sam_diffsr.app.page", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sam-diffsr\[app\]'"):
        importlib.import_module("sam_diffsr.app.page")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "a second"), (9.6, "10 seconds"), (100, "2 minutes"), (7300, "2 hours")]
)
def test_times_are_spoken_in_the_unit_that_fits(seconds: float, text: str):
    assert _spoken(seconds) == text
