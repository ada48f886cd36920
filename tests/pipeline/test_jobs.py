"""One bad file does not stop the others, and nothing is overwritten by accident."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, ImageError, OutputError
from sam_diffsr.pipeline.folder import Job, plan_jobs
from sam_diffsr.pipeline.jobs import run_jobs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (4, 3), "red").save(folder / name)
    return folder


def double(paths: list[Path]) -> list[Image.Image]:
    if any(path.name == "b.png" for path in paths):
        raise ImageError("b is broken")
    return [Image.open(path).resize((8, 6)) for path in paths]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_a_bad_file_is_reported_and_the_rest_go_on(photos: Path, tmp_path: Path, batch_size: int) -> None:
    outcomes = list(run_jobs(plan_jobs(photos, tmp_path / "large"), double, batch_size=batch_size))
    assert [outcome.status for outcome in outcomes] == ["written", "failed", "written"]
    assert outcomes[0].size == (6, 8)
    assert isinstance(outcomes[1].error, ImageError)
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == ["a_out.png", "c_out.png"]


def test_a_result_that_is_there(photos: Path, tmp_path: Path) -> None:
    jobs = plan_jobs(photos / "a.png", tmp_path / "a.png")
    calls: list[Path] = []

    def counted(paths: list[Path]) -> list[Image.Image]:
        calls.extend(paths)
        return double(paths)

    assert [outcome.status for outcome in run_jobs(jobs, counted)] == ["written"]
    before = (tmp_path / "a.png").stat().st_mtime_ns
    (refused,) = run_jobs(jobs, counted)
    with pytest.raises(OutputError, match="already there; choose --overwrite or --skip-existing"):
        raise refused.error or AssertionError
    assert [outcome.status for outcome in run_jobs(jobs, counted, existing="skip")] == ["skipped"]
    assert len(calls) == 1
    assert (tmp_path / "a.png").stat().st_mtime_ns == before
    assert [outcome.status for outcome in run_jobs(jobs, counted, existing="overwrite")] == ["written"]
    assert len(calls) == 2


def test_a_bug_in_one_file_is_reported_too(photos: Path, tmp_path: Path) -> None:
    def broken(paths: list[Path]) -> list[Image.Image]:
        raise ZeroDivisionError("unexpected")

    outcomes = list(run_jobs(plan_jobs(photos, tmp_path / "x"), broken))
    assert [type(outcome.error) for outcome in outcomes] == [ZeroDivisionError] * 3


@pytest.mark.parametrize("error", [CancelledError("stop"), ArgumentError("steps"), KeyboardInterrupt()])
def test_what_concerns_the_whole_call_ends_it(photos: Path, tmp_path: Path, error: BaseException) -> None:
    def stopping(paths: list[Path]) -> list[Image.Image]:
        raise error

    with pytest.raises(type(error)):
        list(run_jobs(plan_jobs(photos, tmp_path / "x"), stopping, batch_size=2))


def test_transparency_is_not_lost_in_jpeg_and_nothing_is_computed_for_it(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    job = Job(source=tmp_path / "a.png", target=tmp_path / "a.jpg")
    calls: list[Path] = []
    (outcome,) = run_jobs([job], lambda paths: calls.extend(paths) or [])
    with pytest.raises(OutputError, match="has transparency, which JPEG cannot hold"):
        raise outcome.error or AssertionError
    assert not calls


def test_a_place_that_cannot_be_written_is_reported(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    jobs = [
        Job(source=photos / "a.png", target=tmp_path / "file" / "a.png"),
        Job(source=photos / "c.png", target=tmp_path / "c.png"),
    ]
    refused, written = run_jobs(jobs, double)
    with pytest.raises(OutputError, match=r"cannot create the folder .*file"):
        raise refused.error or AssertionError
    assert refused.size is None
    assert written.status == "written"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"existing": "maybe"}, "existing must be one of error, skip, overwrite"),
        ({"batch_size": 0}, "batch_size must be None or at least 1"),
        ({"quality": 0}, r"quality must be in 1\.\.100"),
    ],
)
def test_refuses(options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        list(run_jobs([], double, **options))


def test_quality_reaches_the_file(photos: Path, tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    sizes = []
    for quality in (10, 95):
        job = Job(source=photos / "a.png", target=tmp_path / f"{quality}.jpg")
        list(run_jobs([job], lambda paths: [noise], quality=quality))
        sizes.append(job.target.stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_the_next_file_is_read_and_the_last_one_saved_while_one_is_computed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(6):
        Image.new("RGB", (4, 3)).save(photos / f"{index}.png")
    read: list[str] = []
    ahead: list[int] = []
    done = threading.Event()

    def decode(path: Path) -> tuple[Path, Image.Image]:
        read.append(path.stem)
        if len(read) == 2:
            done.set()
        return path, Image.open(path)

    def upscale(items: list[tuple[Path, Image.Image]]) -> list[Image.Image]:
        assert done.wait(20), "the second file is read while the first one is computed"
        ahead.append(len(read) - int(items[0][0].stem))
        return [image.resize((8, 6)) for _, image in items]

    jobs = plan_jobs(photos, tmp_path / "large")
    outcomes = list(run_jobs(jobs, upscale, decode=decode, batch_size=1))
    assert [outcome.job for outcome in outcomes] == jobs
    assert {outcome.status for outcome in outcomes} == {"written"}
    assert max(ahead) <= 2  # the one that is computed and the one that follows


def test_small_files_go_together_and_large_ones_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(10):
        Image.new("RGB", (4, 3)).save(photos / f"a{index}.png")
    for index in range(2):
        Image.new("RGB", (600, 400)).save(photos / f"b{index}.png")
    (photos / "c.png").write_bytes(b"not an image")
    sizes: list[int] = []

    def upscale(paths: list[Path]) -> list[Image.Image]:
        sizes.append(len(paths))
        return [Image.new("RGB", (8, 6)) for _ in paths]

    outcomes = list(run_jobs(plan_jobs(photos, tmp_path / "large"), upscale))
    assert sizes == [8, 3, 2]
    assert len(outcomes) == 13


def test_what_was_computed_before_a_cancel_is_saved_and_reported(photos: Path, tmp_path: Path) -> None:
    def upscale(paths: list[Path]) -> list[Image.Image]:
        if paths[0].name == "b.png":
            raise CancelledError("stop")
        return [Image.new("RGB", (8, 6)) for _ in paths]

    outcomes = run_jobs(plan_jobs(photos, tmp_path / "large"), upscale, batch_size=1)
    assert next(outcomes).status == "written"
    with pytest.raises(CancelledError, match="stop"):
        next(outcomes)
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["a_out.png"]
