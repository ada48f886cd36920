"""Which files are read and where results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.pipeline.folder import find_images, plan_jobs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.JPG", "a.png", "Thumbs.db", ".hidden.png", "sub/c.webp", "sub/deep/d.gif", ".git/e.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def targets(jobs, root: Path) -> list[str]:
    return names([job.target for job in jobs], root)


def test_a_folder_is_read_by_endings(photos: Path) -> None:
    assert names(find_images(photos), photos) == ["a.png", "b.JPG"]
    everything = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.gif"]
    assert names(find_images(photos, recursive=True), photos) == everything
    assert names(find_images(photos, recursive=True, exclude=photos / "sub"), photos) == everything[:2]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere")


def test_one_file_goes_to_the_very_name(photos: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs(photos / "a.png", tmp_path / "large.jpg")
    assert (job.source, job.target) == (photos / "a.png", tmp_path / "large.jpg")


@pytest.mark.parametrize("output", ["folder", "folder.v2", "there.png"])
def test_one_file_goes_into_a_folder(photos: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "there.png").mkdir()
    (job,) = plan_jobs(photos / "a.png", tmp_path / output)
    assert job.target == tmp_path / output / "a_out.png"


def test_a_separator_at_the_end_means_a_folder(photos: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs(photos / "a.png", f"{tmp_path}/new.png{os.sep}")
    assert job.target == tmp_path / "new.png" / "a_out.png"


def test_the_tree_is_kept(photos: Path, tmp_path: Path) -> None:
    jobs = plan_jobs(photos, tmp_path / "large", recursive=True, suffix="x4")
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
def test_file_types(photos: Path, tmp_path: Path, ext, expected) -> None:
    jobs = plan_jobs(photos, tmp_path / "large", recursive=True, ext=ext)
    assert targets(jobs, tmp_path / "large")[: len(expected)] == expected


def test_an_empty_suffix_keeps_the_stem(photos: Path, tmp_path: Path) -> None:
    assert targets(plan_jobs(photos, tmp_path, suffix=""), tmp_path) == ["a.png", "b.png"]


def test_patterns(photos: Path, tmp_path: Path) -> None:
    assert targets(plan_jobs(f"{photos}/*.png", tmp_path), tmp_path) == ["a_out.png"]
    assert targets(plan_jobs(f"{photos}/**/c.*", tmp_path), tmp_path) == ["c_out.png"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    (job,) = plan_jobs(tmp_path / "a[1].png", tmp_path / "out")
    assert job.source.name == "a[1].png"


def test_several_inputs_are_read_once(photos: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([photos, photos / "a.png", photos / "sub" / "c.webp"], tmp_path / "x")
    assert targets(jobs, tmp_path / "x") == ["a_out.png", "b_out.png", "c_out.png"]


def test_a_folder_into_itself_twice_finds_the_same_files(photos: Path) -> None:
    first = plan_jobs(photos, photos)
    for job in first:
        job.target.touch()
    assert plan_jobs(photos, photos) == first


def test_results_inside_the_input_are_not_read_again(photos: Path) -> None:
    (photos / "large").mkdir()
    (photos / "large" / "a_out.png").touch()
    jobs = plan_jobs(photos, photos / "large", recursive=True)
    assert "large/a_out_out.png" not in targets(jobs, photos)
    assert len(jobs) == 4


def test_a_missing_file_is_left_to_the_reader(tmp_path: Path) -> None:
    (job,) = plan_jobs(tmp_path / "gone.png", tmp_path / "x.png")
    assert job.source == tmp_path / "gone.png"


@pytest.mark.parametrize(
    ("inputs", "output", "options", "error", "message"),
    [
        ("photos/a.png", "o", {"ext": "gif"}, ArgumentError, "ext must be one of png, jpg, webp, tif, auto"),
        ("photos/a.png", "o", {"suffix": "a/b"}, ArgumentError, "suffix is part of a file name"),
        ("photos/a.png", "o.png", {"suffix": "x4"}, ArgumentError, "leave them out"),
        ("photos/a.png", "o.gif", {}, ArgumentError, r"cannot be written as \.gif"),
        ("photos", "o.png", {}, ArgumentError, r"go into a folder, but .*o\.png is a file name"),
        ("empty", "o", {}, ImageError, "has no image .*subfolders are read only when asked for"),
        ("empty", "o", {"recursive": True}, ImageError, "has no image; looked for"),
        ("photos/*.bmp", "o", {}, ImageError, "no file matches"),
    ],
)
def test_refuses(photos, tmp_path, monkeypatch, inputs, output, options, error, message) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        plan_jobs(inputs, output, **options)


def test_two_results_of_one_name_are_refused(photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").touch()
    with pytest.raises(ArgumentError, match=r"a\.jpg and .*a\.png would both be written to .*a_out\.png"):
        plan_jobs(photos, tmp_path / "x")
    assert len(plan_jobs(photos, tmp_path / "x", ext="auto")) == 3
