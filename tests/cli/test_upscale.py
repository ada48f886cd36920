"""``sam-diffsr upscale``: every flag reaches the library, files are kept apart, exit codes tell the truth."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.cli import main
from sam_diffsr.cli.app import build_parser
from sam_diffsr.errors import CancelledError, ImageError
from sam_diffsr.pipeline import SuperResolver


def upscale(model_dir: Path, *arguments: object) -> int:
    return main(["upscale", "-m", str(model_dir), "--device", "cpu", *map(str, arguments)])


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_file(model_dir, photos, tmp_path, capsys) -> None:
    assert upscale(model_dir, "-i", photos / "a.png", "-o", tmp_path / "large.png") == 0
    large = Image.open(tmp_path / "large.png")
    assert large.size == (36, 28)
    expected = SuperResolver.from_pretrained(model_dir, device="cpu").upscale(photos / "a.png")
    assert np.array_equal(np.asarray(large), np.asarray(expected))
    assert f"{photos / 'a.png'} -> {tmp_path / 'large.png'} (36x28, " in capsys.readouterr().out


def test_a_tree(model_dir, photos, tmp_path, capsys) -> None:
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "large", "--recursive", "--ext", "auto") == 0
    assert tree(tmp_path / "large") == ["a_out.png", "trip/b_out.jpg"]
    assert Image.open(tmp_path / "large" / "trip" / "b_out.jpg").mode == "L"
    assert "[2/2]" in capsys.readouterr().out


def test_a_quoted_pattern_and_a_suffix(model_dir, photos, tmp_path) -> None:
    pattern = f"{photos}/**/*.jpg"
    assert upscale(model_dir, "-i", pattern, "-o", tmp_path / "large", "--suffix", "x4") == 0
    assert tree(tmp_path / "large") == ["b_x4.png"]


def test_flags_reach_the_library(model_dir, photos, tmp_path, monkeypatch) -> None:
    seen: dict[str, object] = {}

    def fake(self, image, **options):
        seen.update(options)
        return [Image.new("RGB", item.rgb.shape[:1:-1]) for item in image]

    monkeypatch.setattr(SuperResolver, "upscale", fake)
    flags = (
        "--steps 3 --sampler dpmpp_2m --start 7 --seed 5 --tile 32 --tile-overlap 8 --batch-size 2 "
        "--outscale 2.5 --max-pixels 0 --max-memory 500 --precision bf16 --quiet"
    )
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x", *flags.split()) == 0
    assert seen == {
        "steps": 3,
        "sampler": "dpmpp_2m",
        "start": 7,
        "seed": [5],
        "tile": 32,
        "tile_overlap": 8,
        "batch_size": 2,
        "outscale": 2.5,
        "max_pixels": None,
        "max_memory": 500 * 2**20,
        "progress": False,
    }


def test_flags_that_are_not_given_leave_the_librarys_defaults(
    model_dir, photos, tmp_path, monkeypatch
) -> None:
    seen: dict[str, object] = {}
    real = SuperResolver.upscale

    def fake(self, image, **options):
        seen.update(options)
        return [Image.new("RGB", item.rgb.shape[:1:-1]) for item in image]

    monkeypatch.setattr(SuperResolver, "upscale", fake)
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x") == 0
    assert seen == {"seed": [inspect.signature(real).parameters["seed"].default]}


def test_the_same_seed_for_every_file(model_dir, photos, tmp_path) -> None:
    """A result depends on its file and the seed, not on the files beside it."""
    Image.open(photos / "a.png").save(photos / "copy.png")
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x", "--batch-size", 2, "--seed", 3) == 0
    first, second = (np.asarray(Image.open(tmp_path / "x" / f"{name}_out.png")) for name in ("a", "copy"))
    assert np.abs(first.astype(int) - second).max() <= 1


def test_outscale(model_dir, photos, tmp_path) -> None:
    assert upscale(model_dir, "-i", photos / "a.png", "-o", tmp_path / "x.png", "-s", "1.5") == 0
    assert Image.open(tmp_path / "x.png").size == (14, 10)


def test_metadata_can_be_stripped(model_dir, photos, tmp_path) -> None:
    exif = Image.Exif()
    exif[270] = "a caption"
    Image.open(photos / "a.png").save(photos / "a.png", exif=exif)
    for flags, kept in (((), "a caption"), (("--strip-metadata",), None)):
        target = tmp_path / f"{len(flags)}.png"
        assert upscale(model_dir, "-i", photos / "a.png", "-o", target, *flags) == 0
        assert Image.open(target).getexif().get(270) == kept


def test_a_result_that_is_there(model_dir, photos, tmp_path, capsys) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"precious")
    command = ("-i", photos / "a.png", "-o", target)
    assert upscale(model_dir, *command) == 1
    assert "is already there" in capsys.readouterr().err
    assert upscale(model_dir, *command, "--skip-existing") == 0
    assert "skipped" in capsys.readouterr().out
    assert target.read_bytes() == b"precious"
    assert upscale(model_dir, *command, "--overwrite") == 0
    assert Image.open(target).size == (36, 28)


def test_a_bad_file_is_reported_and_the_rest_go_on(model_dir, photos, tmp_path, capsys) -> None:
    (photos / "empty.png").touch()
    (photos / "0cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x") == 1
    assert tree(tmp_path / "x") == ["a_out.png"]
    errors = capsys.readouterr().err
    assert f"{photos / 'empty.png'}: '{photos / 'empty.png'}' is empty" in errors
    assert f"{photos / '0cut.png'}: the pixels of " in errors
    assert "2 of 3 images failed" in errors
    assert "Traceback" not in errors


def test_a_bug_is_named_by_its_type(model_dir, photos, tmp_path, monkeypatch, capsys) -> None:
    """The message of an error that is not ours may say nothing alone."""

    def broken(self, image, **options):
        raise KeyError("width")

    monkeypatch.setattr(SuperResolver, "upscale", broken)
    assert upscale(model_dir, "-i", photos / "a.png", "-o", tmp_path / "x.png") == 1
    assert capsys.readouterr().err == f"{photos / 'a.png'}: KeyError: 'width'\n"


def test_debug_shows_where_it_came_from(model_dir, tmp_path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        upscale(model_dir, "-i", tmp_path / "gone.png", "-o", tmp_path / "x.png", "--debug")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "gone.png", "-o", "x.png"], "gone.png"),
        (["-i", "photos", "-o", "x", "--steps", "11"], "steps must be a whole number from 1 to 10"),
        (["-i", "photos", "-o", "x", "--tile", "-3"], "tile must be 'auto', 0"),
        (["-i", "photos", "-o", "x", "--quality", "0"], "quality must be in 1..100"),
        (["-i", "photos", "-o", "x", "-m", "no-such-model"], "no-such-model"),
        (["-i", "photos/trip/*.png", "-o", "x"], "no file matches"),
        (["-i", "photos", "-o", "x", "--device", "cuda:77"], "cuda:77"),
        (["-i", "photos", "-o", "x", "--outscale", "-1"], "outscale must be"),
        (["-i", "photos/a.png", "-o", "x.png", "--max-pixels", "10"], "pixels"),
    ],
)
def test_errors_are_one_line(model_dir, photos, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert upscale(model_dir, *arguments) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert message in line
    assert tree(tmp_path) == ["photos/Thumbs.db", "photos/a.png", "photos/trip/b.jpg"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-i", "a.png"],
        ["-i", "a.png", "-o", "b.png", "--sampler", "euler"],
        ["-i", "a.png", "-o", "b.png", "--tile", "big"],
        ["-i", "a.png", "-o", "b.png", "--start", "early"],
        ["-i", "a.png", "-o", "b.png", "--skip-existing", "--overwrite"],
        ["-i", "a.png", "-o", "b.png", "--quality", "high"],
    ],
)
def test_wrong_usage_is_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["upscale", *arguments])
    assert "usage: sam-diffsr upscale" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (CancelledError("stop"), 1)])
def test_interrupted(model_dir, photos, tmp_path, monkeypatch, capsys, error, code) -> None:
    def interrupted(self, image, **options):
        raise error

    monkeypatch.setattr(SuperResolver, "upscale", interrupted)
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x") == code
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_flags_have_the_types_of_the_library() -> None:
    """Parse one value for each flag and compare with the annotation of the argument that it becomes."""
    flags = (
        "--steps 1 --sampler ddim --start 1 --fidelity 0.5 --tile 1 --tile-overlap 1 --batch-size 1 "
        "--outscale 2 --seed 1 --max-memory 1"
    )
    given = build_parser().parse_args(["upscale", "-i", "a", "-o", "b", "--max-pixels", "1", *flags.split()])
    aliases = {"SamplerName": "str", "Start": "int"}
    for name, parameter in inspect.signature(SuperResolver.upscale).parameters.items():
        if name in vars(given):
            annotation = str(parameter.annotation)
            for alias, meaning in aliases.items():
                annotation = annotation.replace(alias, meaning)
            assert type(getattr(given, name)).__name__ in annotation, name


def test_as_a_process(model_dir, photos, tmp_path) -> None:
    """``python -m sam_diffsr`` from another folder, with a non-ASCII name."""
    source = tmp_path / "Übung 猫.png"
    Image.open(photos / "a.png").save(source)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sam_diffsr",
            "upscale",
            "-m",
            str(model_dir),
            "-i",
            source.name,
            "-o",
            "ö.png",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "ö.png").size == (36, 28)
