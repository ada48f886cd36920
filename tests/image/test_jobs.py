"""Which files are found, and where results go; names and folders that are difficult."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, ImageError, OutputError
from sam_diffsr.image.formats import output_format
from sam_diffsr.image.jobs import STDIN, STDOUT, Existing, Job, find_images, plan_jobs
from sam_diffsr.pipeline.batch import run_jobs

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
        ("photos/a.png", "o.pdf", {}, ArgumentError, r"cannot be written as \.pdf"),
        ("photos", "o.png", {}, ArgumentError, r"go into a folder, but .*o\.png is a file name"),
        ("empty", "o", {}, ImageError, "has no image .*subfolders are read only when asked for"),
        ("empty", "o", {"recursive": True}, ImageError, "has no image that can be read$"),
        ("photos/a.png", "o.xyz", {}, ArgumentError, r"o\.xyz looks like a file .*, or o\.xyz/ for a folder"),
        ("photos/*.bmp", "o", {}, ImageError, "no file matches"),
        ("", "o", {}, ArgumentError, "an input is an empty name"),
    ],
)
def test_refuses(tree, tmp_path, monkeypatch, inputs, output, options, error, message) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        plan_jobs(inputs, output, **options)


def test_an_input_without_images_stops_no_other(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty, unmatched, good = plan_jobs([tmp_path / "empty", tree / "*.bmp", tree / "a.png"], tmp_path / "x")
    for job, message in ((empty, "the folder .*empty has no image"), (unmatched, "no file matches")):
        with pytest.raises(ImageError, match=message):
            raise job.problem or AssertionError
    assert good == Job(source=tree / "a.png", target=tmp_path / "x" / "a_out.png")


def test_a_folder_may_have_an_unknown_ending(tree: Path, tmp_path: Path) -> None:
    assert plan_jobs(tree / "a.png", f"{tmp_path}/o.xyz/")[0].target == tmp_path / "o.xyz" / "a_out.png"
    (tmp_path / "o.abc").mkdir()
    assert plan_jobs(tree / "a.png", tmp_path / "o.abc")[0].target == tmp_path / "o.abc" / "a_out.png"


@pytest.mark.parametrize(("ext", "ending"), [(None, ".png"), ("jpg", ".jpg"), ("auto", ".jpg")])
def test_the_format_of_standard_output(tmp_path: Path, ext, ending: str) -> None:
    (job,) = plan_jobs(tmp_path / "photo.jpeg", "-", ext=ext)
    assert (job.target, job.ending) == (STDOUT, ending)


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


@POSIX
def test_one_place_in_two_spellings_is_one_place(tree: Path, tmp_path: Path, monkeypatch) -> None:
    (tree / "a.jpg").touch()
    (tmp_path / "link").symlink_to(tree)
    monkeypatch.chdir(tree)
    for other in (tree / "a.jpg", "../link/a.jpg"):
        jobs = plan_jobs(["a.png", other])
        assert [job.target.name for job in jobs] == ["a_png_out.png", "a_jpg_out.png"]


def test_lossless_videos_are_mkv_before_names_are_compared(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov"):
        (tmp_path / name).touch()
    jobs = plan_jobs([tmp_path / "a.mp4", tmp_path / "a.mov"], tmp_path / "x", lossless=True)
    assert targets(jobs, tmp_path / "x") == ["a_mp4_out.mkv", "a_mov_out.mkv"]
    (job,) = plan_jobs(tmp_path / "a.mp4", tmp_path / "." / "b.mp4", lossless=True)
    assert job.target == tmp_path / "b.mp4"  # a file name is taken as it is


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
    assert line.endswith(".cr2: 1, .svg: 1, other files: 2, subfolders: 1 (--recursive reads them)")


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
def outcomes_of(jobs, **options):
    """Real decoding and saving, a result twice as large."""

    def upscale(images):
        return [Image.new(image.format.pil_mode, image.rgb.shape[:1:-1]).resize((8, 6)) for image in images]

    return list(run_jobs(jobs, upscale, **options))


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


def test_addresses_are_refused(tree: Path, tmp_path: Path) -> None:
    for inputs, output in (("s3://b/a.png", None), (tree, "s3://b/out")):
        with pytest.raises(ArgumentError, match=r"'s3://b/.*' is an address, no file or folder"):
            plan_jobs(inputs, output)


def test_a_result_that_exists_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    job, odd = Job(source=source, target=target), cast(Existing, "Skip")
    source.touch()
    assert not job.is_done("error")
    target.touch()
    assert job.is_done("skip")
    assert not job.is_done("overwrite")
    for existing in ("error", odd):
        with pytest.raises(OutputError, match="already exists"):
            job.is_done(existing)
    stored = Job(source=source, target=Path("s3:/bucket/a.png"))  # a store says whether it exists
    with pytest.raises(OutputError, match=r"'s3://bucket/a\.png' already exists"):
        stored.is_done("error", exists=True, name="s3://bucket/a.png")
    (tmp_path / "link.png").symlink_to(source)
    for own in (source, tmp_path / "link.png"):
        for existing in ("overwrite", "skip"):
            with pytest.raises(OutputError, match="it is the source; choose another name"):
                Job(source=source, target=own).is_done(existing)


@POSIX
def test_a_link_to_a_file_has_a_result_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").touch()
    (folder / "b.png").symlink_to("a.png")
    (tmp_path / "same").symlink_to(folder)
    jobs = plan_jobs([folder, tmp_path / "same" / "a.png"], tmp_path / "out")
    assert [job.target.name for job in jobs] == ["a_out.png", "b_out.png"]


@POSIX
def test_links_to_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("lib/a.png", "nas/deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("one", "two"):  # a search that followed them would not end
        (tmp_path / "lib" / name).symlink_to(tmp_path / "lib")
    (tmp_path / "lib" / "year").symlink_to(tmp_path / "nas")
    with caplog.at_level("INFO"):
        assert names(find_images(tmp_path / "lib", recursive=True), tmp_path) == ["lib/a.png"]
    assert "linked folders: 3 (name them to read them)" in caplog.text
    jobs = plan_jobs(str(tmp_path / "**" / "*.png"), tmp_path / "out")
    assert [job.source.name for job in jobs] == ["a.png", "b.png"]
    assert plan_jobs(str(tmp_path / "lib" / "y*" / "deep" / "*"), tmp_path / "out")[0].source.name == "b.png"
