"""Many files: which are read, where results go, that one bad file stops no other, and that work overlaps."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, ImageError, OutputError
from sam_diffsr.image.formats import output_format
from sam_diffsr.pipeline.batch import STDIN, STDOUT, Job, find_images, overlapped, plan_jobs, run_jobs

POSIX = pytest.mark.skipif(os.name != "posix", reason="links, permissions and byte names are POSIX's")

# Which files, and where results go


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.JPG", "a.png", "Thumbs.db", ".hidden.png", "sub/c.webp", "sub/deep/d.gif", ".git/e.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def targets(jobs, root: Path) -> list[str]:
    return names([job.target for job in jobs], root)


def test_a_folder_is_read_by_endings(tree: Path) -> None:
    assert names(find_images(tree), tree) == ["a.png", "b.JPG"]
    everything = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.gif"]
    assert names(find_images(tree, recursive=True), tree) == everything
    assert names(find_images(tree, recursive=True, exclude=tree / "sub"), tree) == everything[:2]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere")


def test_one_file_goes_to_the_very_name(tree: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs(tree / "a.png", tmp_path / "large.jpg")
    assert (job.source, job.target) == (tree / "a.png", tmp_path / "large.jpg")


@pytest.mark.parametrize("output", ["folder", "folder.v2", "there.png"])
def test_one_file_goes_into_a_folder(tree: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "there.png").mkdir()
    (job,) = plan_jobs(tree / "a.png", tmp_path / output)
    assert job.target == tmp_path / output / "a_out.png"


def test_a_separator_at_the_end_means_a_folder(tree: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs(tree / "a.png", f"{tmp_path}/new.png{os.sep}")
    assert job.target == tmp_path / "new.png" / "a_out.png"


def test_the_tree_is_kept(tree: Path, tmp_path: Path) -> None:
    jobs = plan_jobs(tree, tmp_path / "large", recursive=True, suffix="x4")
    assert targets(jobs, tmp_path / "large") == [
        "a_x4.png",
        "b_x4.png",
        "sub/c_x4.png",
        "sub/deep/d_x4.png",
    ]


@pytest.mark.parametrize(
    ("ext", "expected"),
    [("auto", ["a_out.png", "b_out.jpg", "sub/c_out.webp", "sub/deep/d_out.png"]), ("tif", ["a_out.tif"])],
)
def test_file_types(tree: Path, tmp_path: Path, ext, expected) -> None:
    jobs = plan_jobs(tree, tmp_path / "large", recursive=True, ext=ext)
    assert targets(jobs, tmp_path / "large")[: len(expected)] == expected


def test_an_empty_suffix_keeps_the_stem(tree: Path, tmp_path: Path) -> None:
    assert targets(plan_jobs(tree, tmp_path, suffix=""), tmp_path) == ["a.png", "b.png"]


def test_patterns(tree: Path, tmp_path: Path) -> None:
    assert targets(plan_jobs(f"{tree}/*.png", tmp_path), tmp_path) == ["a_out.png"]
    assert targets(plan_jobs(f"{tree}/**/c.*", tmp_path), tmp_path) == ["c_out.png"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    (job,) = plan_jobs(tmp_path / "a[1].png", tmp_path / "out")
    assert job.source.name == "a[1].png"


def test_several_inputs_are_read_once(tree: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([tree, tree / "a.png", tree / "sub" / "c.webp"], tmp_path / "x")
    assert targets(jobs, tmp_path / "x") == ["a_out.png", "b_out.png", "c_out.png"]


def test_a_folder_into_itself_twice_finds_the_same_files(tree: Path) -> None:
    first = plan_jobs(tree, tree)
    for job in first:
        job.target.touch()
    assert plan_jobs(tree, tree) == first


def test_results_inside_the_input_are_not_read_again(tree: Path) -> None:
    (tree / "large").mkdir()
    (tree / "large" / "a_out.png").touch()
    jobs = plan_jobs(tree, tree / "large", recursive=True)
    assert "large/a_out_out.png" not in targets(jobs, tree)
    assert len(jobs) == 4


def test_a_missing_file_is_left_to_the_reader(tmp_path: Path) -> None:
    (job,) = plan_jobs(tmp_path / "gone.png", tmp_path / "x.png")
    assert job.source == tmp_path / "gone.png"


@pytest.mark.parametrize(
    ("inputs", "output", "options", "error", "message"),
    [
        (
            "photos/a.png",
            "o",
            {"ext": "gif"},
            ArgumentError,
            "ext must be one of png, jpg, webp, tif, avif, jp2, auto",
        ),
        ("photos/a.png", "o", {"suffix": "a/b"}, ArgumentError, "suffix is part of a file name"),
        ("photos/a.png", "o.png", {"suffix": "x4"}, ArgumentError, "leave them out"),
        ("photos/a.png", "o.gif", {}, ArgumentError, r"cannot be written as \.gif"),
        ("photos", "o.png", {}, ArgumentError, r"go into a folder, but .*o\.png is a file name"),
        ("empty", "o", {}, ImageError, "has no image .*subfolders are read only when asked for"),
        ("empty", "o", {"recursive": True}, ImageError, "has no image; looked for"),
        ("photos/*.bmp", "o", {}, ImageError, "no file matches"),
    ],
)
def test_refuses(tree, tmp_path, monkeypatch, inputs, output, options, error, message) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        plan_jobs(inputs, output, **options)


def test_results_of_one_name_are_called_after_the_whole_name(tree: Path, tmp_path: Path) -> None:
    (tree / "a.jpg").touch()
    jobs = plan_jobs(tree, tmp_path / "x")
    assert targets(jobs, tmp_path / "x") == ["a_jpg_out.png", "a_png_out.png", "b_out.png"]
    assert not any(job.problem for job in jobs)
    assert targets(plan_jobs(tree, tmp_path / "x", ext="auto"), tmp_path / "x") == [
        "a_out.jpg",
        "a_out.png",
        "b_out.jpg",
    ]


def test_one_name_in_two_folders_fails_for_the_second(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").touch()
    first, *_, second = plan_jobs([tree, tmp_path / "other"], tmp_path / "x")
    assert first.problem is None
    with pytest.raises(ArgumentError, match=r"photos.a\.png and .*other.a\.png would both be written to"):
        raise second.problem or AssertionError


def test_without_an_output_results_lie_next_to_their_inputs(tree: Path) -> None:
    (job,) = plan_jobs(tree / "a.png", suffix="x4")
    assert job.target == tree / "a_x4.png"
    jobs = plan_jobs([tree, tree / "sub" / "c.webp"], suffix="x4", ext="auto")
    assert targets(jobs, tree.parent) == ["photos_x4/a.png", "photos_x4/b.jpg", "photos/sub/c_x4.webp"]
    jobs = plan_jobs(tree, recursive=True, suffix="x4")
    assert targets(jobs, tree.parent)[-1] == "photos_x4/sub/deep/d.png"
    assert targets(plan_jobs(f"{tree}/*.png", suffix="x4"), tree) == ["a_x4.png"]
    (tree / "a_x4.png").touch()
    assert targets(plan_jobs(f"{tree}/*.png", suffix="x4"), tree) == ["a_x4.png"], (
        "results are not read again"
    )


def test_the_current_folder_has_a_name(tree: Path, monkeypatch) -> None:
    monkeypatch.chdir(tree)
    assert targets(plan_jobs(".", suffix="x4"), tree.parent) == ["photos_x4/a.png", "photos_x4/b.png"]


def test_standard_streams_are_a_dash(tree: Path, tmp_path: Path) -> None:
    assert plan_jobs("-") == [Job(source=STDIN, target=STDOUT)]
    assert plan_jobs("-", tmp_path / "x.png") == [Job(source=STDIN, target=tmp_path / "x.png")]
    assert plan_jobs(tree / "a.png", "-") == [Job(source=tree / "a.png", target=STDOUT)]
    assert targets(plan_jobs(["-", tree / "a.png"], tmp_path), tmp_path) == ["stdin_out.png", "a_out.png"]
    with pytest.raises(ArgumentError, match="several files go into a folder"):
        plan_jobs(tree, "-")


@pytest.mark.parametrize("name", ["large.avif", "large.jp2", "large.jfif", "large.jpe"])
def test_every_ending_that_is_written_names_a_file(tree: Path, tmp_path: Path, name: str) -> None:
    if output_format(f".{name[6:]}") is None:
        pytest.skip("this Pillow does not write it")
    assert plan_jobs(tree / "a.png", tmp_path / name)[0].target == tmp_path / name


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.jpe", "a.mpo", "a.tga", "a.jp2", "a.ico", "a.psd", "a.qoi", "a.apng"]
)
def test_endings_that_can_be_opened_are_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert find_images(tmp_path) == [tmp_path / name] or f".{name[2:]}" not in Image.registered_extensions()


def test_what_is_left_out_is_counted(tree: Path, caplog) -> None:
    for name in ("notes.txt", "photo.cr2", "photo.svg"):
        (tree / name).touch()
    with caplog.at_level(logging.INFO):
        find_images(tree)
    (line,) = caplog.messages
    assert line.endswith("1 subfolder (--recursive reads them), 2 files that are no image, 1 .cr2, 1 .svg")


# Names and folders that the file system is difficult about


def test_a_name_that_begins_with_a_tilde(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "~draft.png").touch()
    assert plan_jobs("~draft.png", "x.png")[0].source == Path("~draft.png")
    assert plan_jobs("~nobody.png", "x.png")[0].source == Path("~nobody.png")
    if os.name == "posix":
        assert plan_jobs("~/a.png", "~/x.png") == [
            Job(source=tmp_path / "home" / "a.png", target=tmp_path / "home" / "x.png")
        ]


def test_brackets_in_a_folder_beside_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "f [2020]"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        (folder / name).touch()
    assert targets(plan_jobs(f"{folder}/*.png", tmp_path), tmp_path) == ["1_out.png", "2_out.png"]


@POSIX
def test_a_loop_of_links_stops_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    written, failed = outcomes_of(plan_jobs(tmp_path / "in", tmp_path / "out"))
    assert (written.status, failed.status) == ("written", "failed")
    assert "cannot read" in str(failed.error)


@POSIX
def test_names_that_are_no_text_and_names_that_are_too_long(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (b"caf\xe9.png", b"n" * 251 + b".png", "写真.png".encode()):
        Image.new("RGB", (4, 3)).save(tmp_path / "in" / "a.png")
        try:
            os.rename(tmp_path / "in" / "a.png", os.path.join(os.fsencode(tmp_path / "in"), name))
        except OSError:
            pytest.skip("this file system has no such names")
    outcomes = outcomes_of(plan_jobs(tmp_path / "in", tmp_path / "out"))
    assert sorted(outcome.status for outcome in outcomes) == ["failed", "written", "written"]
    (failed,) = (outcome for outcome in outcomes if outcome.status == "failed")
    assert "its name is too long" in str(failed.error)


@POSIX
def test_a_folder_that_cannot_be_read_is_a_failure(tree: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    *_, job = plan_jobs(tree, tmp_path / "x", recursive=True)
    assert job.source == tree / "sub"
    with pytest.raises(ImageError, match=r"cannot read the folder .*sub': Permission denied"):
        raise job.problem or AssertionError
    assert len(find_images(tree, recursive=True)) == 2
    assert "cannot read the folder" in caplog.text
    with pytest.raises(ImageError, match="cannot read the folder"):
        find_images(tree / "sub")


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
    with pytest.raises(OutputError, match="already exists; choose --overwrite or --skip-existing"):
        raise refused.error or AssertionError
    assert [outcome.status for outcome in run(jobs, counted, existing="skip")] == ["skipped"]
    assert len(calls) == 1
    assert (tmp_path / "a.png").stat().st_mtime_ns == before
    assert [outcome.status for outcome in run(jobs, counted, existing="overwrite")] == ["written"]
    assert len(calls) == 2


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


@POSIX
def test_a_full_disk_fails_each_file_and_leaves_nothing(photos: Path, tmp_path: Path, monkeypatch) -> None:
    def full(self, file, **options):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    outcomes = outcomes_of(plan_jobs(photos, tmp_path / "x"))
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert "No space left on device; look at" in str(outcomes[0].error)
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


# Overlap


def test_all_batches_come_in_order() -> None:
    for count in range(5):
        result = overlapped(
            range(count), read=str, compute=lambda text: text + "c", write=lambda text: text + "w"
        )
        assert list(result) == [f"{index}cw" for index in range(count)]


def test_reading_computing_and_writing_go_on_at_the_same_time_and_not_far_apart() -> None:
    """Each waits for another that must be at work meanwhile: one after the other would never end."""
    read, computed, written = ([threading.Event() for _ in range(6)] for _ in range(3))
    taken: list[int] = []
    threads: dict[str, set[int]] = {"read": set(), "compute": set(), "write": set()}

    def note(task: str) -> None:
        threads[task].add(threading.get_ident())

    def batches() -> Iterator[int]:
        for index in range(6):
            taken.append(index)
            yield index

    def reading(index: int) -> int:
        note("read")
        read[index].set()
        return index

    def compute(index: int) -> int:
        note("compute")
        assert index == 5 or read[index + 1].wait(20), "the next one is read"
        assert len(taken) <= index + 3
        computed[index].set()
        return index

    def write(index: int) -> int:
        note("write")
        assert index == 5 or computed[index + 1].wait(20), "the next one is computed"
        written[index].set()
        return index

    for index in overlapped(batches(), read=reading, compute=compute, write=write):
        assert written[index].is_set()
        assert not any(event.is_set() for event in computed[index + 2 :])
    assert threads["compute"] == {threading.get_ident()}
    assert [len(found) for found in threads.values()] == [1, 1, 1]
    assert len(set.union(*threads.values())) == 3


@pytest.mark.parametrize("failing", ["read", "compute", "write"])
@pytest.mark.parametrize("count", [1, 4])
def test_an_error_comes_after_what_was_finished_before_it(failing: str, count: int) -> None:
    bad = min(2, count - 1)

    def step(task: str):
        def work(index: int) -> int:
            if task == failing and index == bad:
                raise ValueError(f"{task} of {index}")
            return index

        return work

    results = overlapped(range(count), read=step("read"), compute=step("compute"), write=step("write"))
    assert [next(results) for _ in range(bad)] == list(range(bad))
    with pytest.raises(ValueError, match=f"{failing} of {bad}"):
        next(results)


def test_one_batch_needs_no_thread() -> None:
    (idents,) = overlapped(
        [0],
        read=lambda _: [threading.get_ident()],
        compute=lambda found: [*found, threading.get_ident()],
        write=lambda found: {*found, threading.get_ident()},
    )
    assert idents == {threading.get_ident()}


def test_only_the_caller_computes_with_several_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        used = overlapped(
            range(3),
            read=lambda _: [torch.get_num_threads()],
            compute=lambda found: [*found, torch.get_num_threads()],
            write=lambda found: [*found, torch.get_num_threads()],
        )
        assert list(used) == [[1, 3, 1]] * 3
        assert torch.get_num_threads() == 3
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3], "threads of the caller's own are left alone"
    finally:
        torch.set_num_threads(before)
