"""Many files: which are read, where results go, that one bad file stops no other, and that work overlaps."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, ImageError, OutputError
from sam_diffsr.image.jobs import STDIN, STDOUT, Job, plan_jobs
from sam_diffsr.pipeline.batch import run_jobs

POSIX = pytest.mark.skipif(os.name != "posix", reason="links, permissions and byte names are POSIX's")

# Doing the work


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (4, 3), "red").save(folder / name)
    return folder


def as_path(path):
    return path


def run(jobs, upscale, decode=as_path, **options):
    """The jobs, with paths in the place of decoded images."""
    return run_jobs(jobs, upscale, decode=decode, **options)


def double(paths: list[Path]) -> list[Image.Image]:
    if any(path.name == "b.png" for path in paths):
        raise ImageError("b is broken")
    return [Image.open(path).resize((8, 6)) for path in paths]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_a_bad_file_is_reported_and_the_rest_go_on(photos: Path, tmp_path: Path, batch_size: int) -> None:
    outcomes = list(run(plan_jobs(photos, tmp_path / "large"), double, batch_size=batch_size))
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

    assert [outcome.status for outcome in run(jobs, counted)] == ["written"]
    before = (tmp_path / "a.png").stat().st_mtime_ns
    (refused,) = run(jobs, counted)
    with pytest.raises(OutputError, match=r"already exists; overwrite \(--overwrite\) or skip it"):
        raise refused.error or AssertionError
    assert [outcome.status for outcome in run(jobs, counted, existing="skip")] == ["skipped"]
    assert len(calls) == 1
    assert (tmp_path / "a.png").stat().st_mtime_ns == before
    assert [outcome.status for outcome in run(jobs, counted, existing="overwrite")] == ["written"]
    assert len(calls) == 2


@pytest.mark.parametrize(("existing", "status"), [("skip", "skipped"), ("error", "failed")])
def test_a_result_that_another_run_wrote_meanwhile_is_kept(photos, tmp_path, existing, status) -> None:
    def meanwhile(paths: list[Path]) -> list[Image.Image]:
        (tmp_path / "x.png").write_bytes(b"theirs")
        return double(paths)

    jobs = plan_jobs(photos / "a.png", tmp_path / "x.png")
    assert [outcome.status for outcome in run(jobs, meanwhile, existing=existing)] == [status]
    assert (tmp_path / "x.png").read_bytes() == b"theirs"


def test_a_bug_in_one_file_is_reported_too(photos: Path, tmp_path: Path) -> None:
    def broken(paths: list[Path]) -> list[Image.Image]:
        raise ZeroDivisionError("unexpected")

    outcomes = list(run(plan_jobs(photos, tmp_path / "x"), broken))
    assert [type(outcome.error) for outcome in outcomes] == [ZeroDivisionError] * 3


@pytest.mark.parametrize("error", [CancelledError("stop"), ArgumentError("steps"), KeyboardInterrupt()])
def test_what_concerns_the_whole_call_ends_it(photos: Path, tmp_path: Path, error: BaseException) -> None:
    def stopping(paths: list[Path]) -> list[Image.Image]:
        raise error

    with pytest.raises(type(error)):
        list(run(plan_jobs(photos, tmp_path / "x"), stopping, batch_size=2))


def test_transparency_is_not_lost_in_jpeg_and_nothing_is_computed_for_it(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    job = Job(source=tmp_path / "a.png", target=tmp_path / "a.jpg")
    calls: list[Path] = []
    (outcome,) = run_jobs([job], lambda paths: calls.extend(paths) or [])
    with pytest.raises(OutputError, match=r"has transparency .*, which JPEG cannot hold"):
        raise outcome.error or AssertionError
    assert not calls


def test_a_place_that_cannot_be_written_is_reported(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    jobs = [
        Job(source=photos / "a.png", target=tmp_path / "file" / "a.png"),
        Job(source=photos / "c.png", target=tmp_path / "c.png"),
    ]
    refused, written = run(jobs, double)
    with pytest.raises(OutputError, match=r"cannot write .*: .*file' is not a folder"):
        raise refused.error or AssertionError
    assert refused.size is None
    assert written.status == "written"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"existing": "maybe"}, "existing must be one of error, skip, overwrite"),
        ({"batch_size": 0}, "batch_size must be None or a whole number >= 1, got 0"),
        ({"batch_size": 2.5}, r"batch_size must be .*, got 2\.5"),
        ({"batch_size": True}, "batch_size must be .*, got True"),
        ({"quality": 0}, r"quality must be in 1\.\.100, or lossless"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        list(run([], double, **options))


def test_quality_reaches_the_file(photos: Path, tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    sizes = []
    for quality in (10, 95):
        job = Job(source=photos / "a.png", target=tmp_path / f"{quality}.jpg")
        list(run([job], lambda paths: [noise], quality=quality))
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
    outcomes = list(run(jobs, upscale, decode=decode, batch_size=1))
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

    outcomes = list(run(plan_jobs(photos, tmp_path / "large"), upscale))
    assert sizes == [8, 3, 2]
    assert len(outcomes) == 13
    sizes.clear()
    list(run(plan_jobs(photos, tmp_path / "more"), upscale, pixels_together=24))
    assert sizes == [2, 2, 2, 2, 2, 1, 1, 1]


def test_what_was_computed_before_a_cancel_is_saved_and_reported(photos: Path, tmp_path: Path) -> None:
    def upscale(paths: list[Path]) -> list[Image.Image]:
        if paths[0].name == "b.png":
            raise CancelledError("stop")
        return [Image.new("RGB", (8, 6)) for _ in paths]

    outcomes = run(plan_jobs(photos, tmp_path / "large"), upscale, batch_size=1)
    assert next(outcomes).status == "written"
    with pytest.raises(CancelledError, match="stop"):
        next(outcomes)
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["a_out.png"]


def outcomes_of(jobs, **options):
    """Real decoding and saving, a result twice as large."""

    def upscale(images):
        return [Image.new(image.format.pil_mode, image.rgb.shape[:1:-1]).resize((8, 6)) for image in images]

    return list(run_jobs(jobs, upscale, **options))


@pytest.mark.parametrize(
    ("mode", "target", "result", "message"),
    [
        ("RGB", "a.webp", (3, 16384), "WEBP cannot hold 16384 x 3 pixels"),
        ("RGB", "a.jpg", (65504, 8), "JPEG cannot hold 8 x 65504 pixels"),
        ("I;16", "a.jpg", (3, 4), "has 16 bits a sample"),
    ],
)
def test_the_limits_of_a_format_are_found_before_the_work(tmp_path, mode, target, result, message) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "in.png")
    job = Job(source=tmp_path / "in.png", target=tmp_path / target)

    def upscale(images):
        raise AssertionError("computed")

    (outcome,) = run_jobs([job], upscale, result_size=lambda height, width: result)
    assert isinstance(outcome.error, OutputError)
    assert message in str(outcome.error)


def test_a_quality_that_one_format_does_not_have(photos: Path, tmp_path: Path) -> None:
    jobs = [Job(source=photos / "a.png", target=tmp_path / name) for name in ("a.webp", "a.jpg")]
    written, refused = outcomes_of(jobs, quality="lossless")
    assert written.status == "written"
    assert "JPEG is never lossless" in str(refused.error)


def test_the_time_of_the_source_can_be_kept(photos: Path, tmp_path: Path) -> None:
    os.utime(photos / "a.png", (10**9, 10**9))
    for keep in (False, True):
        outcomes_of(
            [Job(source=photos / "a.png", target=tmp_path / "x.png")], keep_time=keep, existing="overwrite"
        )
        assert ((tmp_path / "x.png").stat().st_mtime == 10**9) == keep


def test_a_problem_of_the_plan_is_an_outcome(photos: Path, tmp_path: Path) -> None:
    bad = Job(source=photos, target=tmp_path / "x.png", problem=ImageError("not readable"))
    failed, written = outcomes_of([bad, Job(source=photos / "a.png", target=tmp_path / "y.png")])
    assert (str(failed.error), written.status) == ("not readable", "written")


def test_standard_input_and_output(monkeypatch) -> None:
    given, made = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(given, format="PNG")
    given.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=given))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=made))
    (outcome,) = outcomes_of(plan_jobs("-"))
    assert (outcome.status, outcome.job) == ("written", Job(source=STDIN, target=STDOUT))
    assert Image.open(made).size == (8, 6)


def test_what_standard_output_cannot_hold_is_found_before_the_work(monkeypatch, tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3)).save(tmp_path / "a.png")
    jobs = plan_jobs(tmp_path / "a.png", "-", ext="jpg")
    for dry_run in (True, False):
        (outcome,) = run_jobs(jobs, lambda images: pytest.fail("computed"), dry_run=dry_run)
        assert outcome.status == "failed"
        assert "cannot write the image" in str(outcome.error)
        assert "has transparency" in str(outcome.error)


@POSIX
def test_a_full_disk_fails_each_file_and_leaves_nothing(photos: Path, tmp_path: Path, monkeypatch) -> None:
    def full(self, file, **options):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    outcomes = outcomes_of(plan_jobs(photos, tmp_path / "x"))
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert "No space left on device; check" in str(outcomes[0].error)
    assert not list((tmp_path / "x").iterdir())


@POSIX
def test_links_and_modes_are_kept_on_overwrite(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "real.png").touch(mode=0o600)
    (tmp_path / "link.png").symlink_to("real.png")
    (outcome,) = outcomes_of(
        [Job(source=photos / "a.png", target=tmp_path / "link.png")], existing="overwrite"
    )
    assert outcome.status == "written"
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o600
