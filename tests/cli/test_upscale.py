"""``sam-diffsr upscale``: every flag reaches the library, files are kept apart, exit codes tell the truth."""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageSequence

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
        "--steps 3 --sampler dpmpp_2m --start 7 --seed 5 --tile 32 --halo 8 --batch-size 2 --ensemble --wrap "
        "--outscale 2.5 --max-pixels 0 --max-memory 500 --precision bf16 --quiet"
    )
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x", *flags.split()) == 0
    assert seen == {
        "steps": 3,
        "sampler": "dpmpp_2m",
        "start": 7,
        "seed": [5],
        "tile": 32,
        "halo": 8,
        "ensemble": True,
        "wrap": True,
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
    assert seen.pop("progress") is False
    assert seen.pop("seed") == [0]
    assert seen == {name: inspect.signature(real).parameters[name].default for name in seen}


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
    assert "already exists; overwrite (--overwrite) or skip it" in capsys.readouterr().err
    assert upscale(model_dir, *command, "--skip-existing") == 0
    assert "skipped" in capsys.readouterr().out
    assert target.read_bytes() == b"precious"
    assert upscale(model_dir, *command, "--overwrite") == 0
    assert Image.open(target).size == (36, 28)


def test_a_source_is_never_replaced(model_dir, photos, capsys) -> None:
    content = (photos / "a.png").read_bytes()
    for output in (photos / "a.png", photos / "trip" / ".." / "a.png"):
        for dry in ([], ["--dry-run"]):
            assert upscale(model_dir, photos / "a.png", "-o", output, "--overwrite", *dry) == 1
            assert "a.png': it is the source; choose another name" in (said := capsys.readouterr().err)
            assert len(said.splitlines()) == 1
    assert upscale(model_dir, photos, "-o", photos, "--suffix", "", "--overwrite") == 1
    assert "it is the source" in capsys.readouterr().err
    assert upscale(model_dir, photos / "a.png", "-o", photos / "a.png", "--skip-existing") == 1
    assert (photos / "a.png").read_bytes() == content


def test_a_place_where_no_folder_can_be_made(model_dir, photos, tmp_path, monkeypatch, capsys) -> None:
    """As in /proc, which says that it can be written."""

    def refused(self, *_, **__) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", refused)
    assert upscale(model_dir, photos / "a.png", "-o", tmp_path / "new" / "x.png") == 1
    assert "cannot write the image '" in (said := capsys.readouterr().err)
    assert said.endswith("x.png': No such file or directory\n")


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        ([], None),
        (["--quality", "80", "--ext", "jpg"], None),
        (["--crf", "20"], "--crf has no effect: no input is a video"),
        (["--quality", "80"], "--quality has no effect: no result is JPEG, WebP, AVIF or HEIC"),
        (
            ["--start-time", "1", "--end-time", "2", "-q"],
            "--start-time and --end-time have no effect: no input is a video",
        ),
    ],
)
def test_options_that_change_nothing_are_named(model_dir, photos, tmp_path, capsys, flags, warning) -> None:
    assert upscale(model_dir, photos / "a.png", "-o", tmp_path / "x", *flags) == 0
    expected = [] if warning is None else [f"sam-diffsr: warning: {warning}"]
    assert capsys.readouterr().err.splitlines() == expected


def test_a_bad_file_is_reported_and_the_rest_go_on(model_dir, photos, tmp_path, capsys) -> None:
    (photos / "empty.png").touch()
    (photos / "0cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    assert upscale(model_dir, "-i", photos, "-o", tmp_path / "x") == 1
    assert tree(tmp_path / "x") == ["a_out.png"]
    out, errors = capsys.readouterr()
    assert f"{photos / 'empty.png'}: '{photos / 'empty.png'}' is empty" in errors
    assert f"{photos / '0cut.png'}: the pixels of " in errors
    assert re.search(r"^1 done, 0 skipped, 2 failed in [0-9.]+ s$", out, re.MULTILINE)
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
        (["-i", "photos", "-o", "x", "-m", "no-such-model"], "no-such-model"),
        (["-i", "photos/trip/*.png", "-o", "x"], "no file matches"),
        (["-i", "photos/a.png", "-o", "x.png", "--max-pixels", "10"], "pixels"),
    ],
)
def test_errors_are_one_line(model_dir, photos, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert upscale(model_dir, *arguments) == 1
    captured = capsys.readouterr()
    *notes, line = captured.err.splitlines()
    assert all(note.startswith("left out of") for note in notes)
    assert message in line
    assert tree(tmp_path) == ["photos/Thumbs.db", "photos/a.png", "photos/trip/b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "11"], "error: --steps must be a whole number from 0"),
        (["--steps", "100000", "--start", "noise"], "error: --steps must be a whole number from 0"),
        (["--start", "100000"], "error: --start must be 'noise' or a timestep"),
        (["--fidelity", "nan"], "error: --fidelity must be a number from 0"),
        (["--tile", "-3"], "error: --tile must be 'auto', 0"),
        (["--quality", "0"], "error: --quality must be in 1..100"),
        (["--device", "cuda:77"], "error: --device 'cuda:77' was asked for"),
        (["--ray-cpus", "2"], "error: --ray-workers, --ray-cpus and --ray-gpus belong to --ray"),
        (["--output", "a.pdf"], "error: results cannot be written as .pdf"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_value_out_of_range_is_2_in_a_dry_run_too(
    model_dir, photos, monkeypatch, capsys, arguments, message, dry
) -> None:
    monkeypatch.chdir(photos)
    assert upscale(model_dir, "a.png", *arguments, *dry) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sam-diffsr: {message}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-o", "a.png"],
        ["a.png", "--scale", "2", "--width", "5"],
        ["a.png", "--width", "0"],
        ["a.png", "--outscale", "-1"],
        ["a.png", "--height", "many"],
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
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not (tmp_path / "x").exists()


def test_flags_have_the_types_of_the_library() -> None:
    """Parse one value for each flag and compare with the annotation of the argument that it becomes."""
    flags = (
        "--steps 1 --sampler ddim --start 1 --fidelity 0.5 --tile 1 --halo 1 --batch-size 1 "
        "--outscale 2 --seed 1 --max-memory 1 --ensemble --wrap"
    )
    given = build_parser().parse_args(["upscale", "-i", "a", "-o", "b", "--max-pixels", "1", *flags.split()])
    aliases = {"SamplerName": "str", "Start": "int", "Seeds": "int"}
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


def test_a_photo_needs_no_command_and_no_output(model_dir, photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(photos)
    model = ["-m", str(model_dir), "--device", "cpu"]
    assert main(["a.png", *model]) == 0
    assert Image.open("a_x4.png").size == (36, 28)
    assert main(["trip/b.jpg", "a.png", *model, "--scale", "2", "--ext", "jpg"]) == 0
    assert Image.open("trip/b_x2.jpg").size == (12, 16)
    assert "[2/2] a.png -> a_x2.jpg (18x14, " in capsys.readouterr().out
    assert main(["../photos", *model, "--recursive", "--skip-existing"]) == 0
    assert tree(photos.parent / "photos_x4") == [
        "a.png",
        "a_x2.png",
        "a_x4.png",
        "trip/b.png",
        "trip/b_x2.png",
    ]


def test_inputs_may_stand_anywhere(model_dir, photos, tmp_path) -> None:
    arguments = [photos / "a.png", "-o", tmp_path / "x", photos / "trip", "--steps", 1, "-i", photos / "trip"]
    assert upscale(model_dir, *arguments) == 0
    assert tree(tmp_path / "x") == ["a_out.png", "b_out.png"]


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        (["--width", 20], [(20, 16), (20, 27)]),
        (["--height", 20], [(26, 20), (15, 20)]),
        (["--width", 20, "--height", 20], [(20, 16), (15, 20)]),
        (["--megapixels", 0.0001], [(11, 9), (9, 12)]),
        (["--scale", 3], [(27, 21), (18, 24)]),
    ],
)
def test_final_sizes(model_dir, photos, tmp_path, flags, sizes) -> None:
    assert upscale(model_dir, photos, "-r", "-o", tmp_path / "x", *flags) == 0
    assert [Image.open(tmp_path / "x" / name).size for name in tree(tmp_path / "x")] == sizes


def test_standard_input_and_output(model_dir, photos, tmp_path) -> None:
    command = [sys.executable, "-m", "sam_diffsr", "-", "-m", str(model_dir), "--device", "cpu"]
    done = subprocess.run(
        command,
        input=(photos / "a.png").read_bytes(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(io.BytesIO(done.stdout)).size == (36, 28)
    assert b"<standard input> -> <standard output> (36x28, " in done.stderr


def test_closed_standard_streams_are_named(model_dir, photos, monkeypatch, capsys) -> None:
    for stream, output, source in (("stdout", "-", photos / "a.png"), ("stdin", photos / "x.png", "-")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, stream, None)
            with pytest.raises(SystemExit, match="2"):
                upscale(model_dir, source, "-o", output)
        assert "is closed; " in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_full_standard_output(model_dir, photos, monkeypatch, capsys) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full, isatty=bool, errors=None, flush=bool))
        assert upscale(model_dir, photos / "a.png", "-o", "-") == 1
    assert "cannot write the image: No space left on device" in capsys.readouterr().err


def test_standard_output_in_another_format(model_dir, photos, monkeypatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    assert upscale(model_dir, photos / "a.png", "-o", "-", "--ext", "jpg") == 0
    assert Image.open(io.BytesIO(stdout.buffer.getvalue())).format == "JPEG"


def test_a_dry_run_writes_nothing(model_dir, photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(SuperResolver, "upscale", lambda *_, **__: pytest.fail("computed"))
    (tmp_path / "x" / "trip").mkdir(parents=True)
    (tmp_path / "x" / "trip" / "b_out.jpg").touch()
    (photos / "wide.png").touch()
    flags = ["-r", "--ext", "jpg", "--dry-run", "--skip-existing"]
    assert upscale(model_dir, photos, "-o", tmp_path / "x", *flags) == 1
    out, errors = capsys.readouterr()
    assert f"{photos / 'a.png'} -> {tmp_path / 'x' / 'a_out.jpg'} (36x28, would be made)" in out
    assert "already exists, skipped" in out
    assert "is empty (0 bytes)" in errors
    assert re.search(r"^1 would be done, 1 skipped, 1 failed in ", out, re.MULTILINE)
    assert tree(tmp_path / "x") == ["trip/b_out.jpg"]


def test_the_time_and_the_quality(model_dir, photos, tmp_path) -> None:
    os.utime(photos / "a.png", (10**9, 10**9))
    flags = ["--keep-time", "--quality", "lossless"]
    assert upscale(model_dir, photos / "a.png", "-o", tmp_path / "x.webp", *flags) == 0
    assert (tmp_path / "x.webp").stat().st_mtime == 10**9


def test_quiet_prints_only_problems(model_dir, photos, tmp_path, capsys) -> None:
    (photos / "empty.png").touch()
    assert upscale(model_dir, photos, "-o", tmp_path / "x", "--quiet") == 1
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)


def test_warnings_are_one_line_without_python(model_dir, photos, tmp_path, capsys) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    arguments = (photos / "moving.gif", photos / "a.png", "-o", tmp_path / "x", "--ext", "jpg")
    assert upscale(model_dir, *arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == f"sam-diffsr: warning: '{photos / 'moving.gif'}' has 2 frames; only its first frame is used"
    )


def test_an_animation_is_upscaled_with_one_seed(model_dir, photos, tmp_path) -> None:
    noise = Image.effect_noise((6, 4), 60).convert("RGB")
    frames = [noise, noise.rotate(180), noise]
    frames[0].save(photos / "moving.png", save_all=True, append_images=frames[1:], duration=70, loop=2)
    assert upscale(model_dir, photos / "moving.png", "-o", tmp_path / "x.webp", "--quality", "lossless") == 0
    assert upscale(model_dir, photos / "moving.png", "-o", tmp_path / "x.gif") == 0
    with Image.open(tmp_path / "x.webp") as large, Image.open(tmp_path / "x.gif") as gif:
        assert (large.size, large.info["loop"]) == ((24, 16), 2)
        assert (gif.info["duration"], gif.info["loop"]) == (70, 2)
        shown, small = (
            [np.asarray(f.copy()) for f in ImageSequence.Iterator(image)] for image in (large, gif)
        )
    assert len(shown) == len(small) == 3
    assert (shown[0] == shown[2]).all()  # a still scene gives still frames
    assert (shown[0] != shown[1]).any()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_the_console_cannot_show(model_dir, photos, tmp_path, encoding) -> None:
    names = ["写真.png".encode(), *([b"caf\xe9.png"] if sys.platform == "linux" else [])]
    for name in names:
        Image.open(photos / "a.png").save(photos / "copy.png")
        os.rename(photos / "copy.png", os.path.join(os.fsencode(photos), name))
    command = ["upscale", str(photos), "-m", str(model_dir), "--device", "cpu", "-o", str(tmp_path / "x")]
    done = subprocess.run(
        [sys.executable, "-m", "sam_diffsr", *command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert f"{len(names) + 1} done, 0 skipped".encode() in done.stdout
    assert len(tree(tmp_path / "x")) == len(names) + 1


def test_a_bar_shows_files_and_never_mixes_with_lines(
    model_dir, photos, tmp_path, monkeypatch, capsys
) -> None:
    (photos / "empty.png").touch()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert upscale(model_dir, photos, "-r", "-o", tmp_path / "x", "--batch-size", 1) == 1
    errors = capsys.readouterr().err
    assert "0/3 files   0%|" in errors
    assert "is empty (0 bytes)\n" in errors
    for line in re.split(r"[\r\n]", errors):
        kinds = (re.search(r"\d/3 files ", line), "left out of" in line, "is empty" in line, not line.strip())
        assert sum(map(bool, kinds)) == 1, line
