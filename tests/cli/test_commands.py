"""The other subcommands: each parses, calls the library, prints, and returns an honest exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from PIL import Image

import sam_diffsr
from sam_diffsr.cli import main
from sam_diffsr.cli.app import build_parser, manual
from sam_diffsr.cli.options import CHOICES
from sam_diffsr.cli.parser import as_flags
from sam_diffsr.data.config import MissingMasks
from sam_diffsr.device import Precision
from sam_diffsr.diffusion.samplers import SamplerName, Spacing
from sam_diffsr.errors import ConfigError
from sam_diffsr.evaluation import evaluate as evaluation
from sam_diffsr.evaluation.evaluate import Protocol
from sam_diffsr.evaluation.measures import MEASURES
from sam_diffsr.image.jobs import Extension
from sam_diffsr.masks.sam import SamPrecision
from sam_diffsr.masks.spe import Encoding, Reduction
from sam_diffsr.pipeline import load_pretrained

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("encoding", Encoding),
        ("ext", Extension),
        ("missing_masks", MissingMasks),
        ("precision", Precision),
        ("protocol", Protocol),
        ("reduction", Reduction),
        ("sampler", SamplerName),
        ("spacing", Spacing),
        ("stored_precision", SamPrecision),
    ],
)
def test_choices_are_those_of_the_library(name, literal) -> None:
    assert CHOICES[name] == get_args(literal)


def test_measures_are_those_of_the_library() -> None:
    assert tuple(MEASURES) == CHOICES["measures"]


def test_the_manual_has_a_heading_for_each_command() -> None:
    text = manual()
    for command in ("sam-diffsr", "sam-diffsr upscale", "sam-diffsr masks generate", "sam-diffsr train"):
        assert f"## {command}\n\n```text\nusage: sam-diffsr" in text


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from sam_diffsr.cli.app import manual; manual(); "
        "print([name for name in ('torch', 'numpy', 'PIL', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_version(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sam-diffsr {sam_diffsr.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["data"], ["train", "other", "c", "--out", "d"]])
def test_wrong_usage_is_2(arguments) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--hr", "x", "--steps", "1,two"], "expected whole numbers like '1,2,4', got '1,two'"),
        (["evaluate", "--hr", "x", "--start", "noise,soon"], "expected noise or a timestep, got 'soon'"),
        (["upscale", "-i", "x", "-o", "y", "--tile", "big"], "expected auto, 0 or a number of pixels"),
        (["data", "prepare", "x", "y", "--reductions", "1;2"], "expected numbers like '1,2.5', got '1;2'"),
        (["upscale", "x", "--steps", "few"], "--steps: expected a whole number, got 'few'"),
        (["upscale", "x", "--fidelity", "high"], "--fidelity: expected a number, got 'high'"),
        (
            ["upscale", "x", "--seed", "-1"],
            f"--seed: expected a whole number from 0 to {2**63 - 1}, got '-1'",
        ),
        (["upscale", "x", "--max-memory", "0"], "--max-memory: expected a whole number >= 1, got '0'"),
        (["upscale", "x", "--output", ""], "--output: expected a name, got ''"),
        (["upscale", "x", "--model", ""], "expected a name, got ''"),
        (["train"], "the following arguments are required: STAGE, CONFIG"),
        (["bench", "--threads", "0"], "--threads: expected a whole number >= 1, got '0'"),
        (["app", "--port", "99999"], "--port: expected a whole number from 1 to 65535, got '99999'"),
    ],
)
def test_values_that_cannot_be_parsed_are_explained(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_file_whose_name_begins_with_a_dash(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.png").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["-dash.png"])
    assert "write ./-dash.png for the file of this name" in capsys.readouterr().err


def test_no_arguments_show_the_help(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "sam-diffsr PHOTO is short for" in capsys.readouterr().err


def test_interrupted_while_libraries_are_imported(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "sam_diffsr.cli.app", SimpleNamespace(run_command=_interrupt))
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "sam-diffsr: interrupted\n"


def _interrupt(argv: object) -> None:
    raise KeyboardInterrupt


def test_lists_are_parsed() -> None:
    args = build_parser().parse_args(
        ["evaluate", "--hr", "x", "--steps", "1,4", "--sampler", "ddpm, ddim", "--start", "noise,7"]
    )
    assert (args.steps, args.sampler, args.start) == ([1, 4], ["ddpm", "ddim"], ["noise", 7])
    args = build_parser().parse_args(["upscale", "-i", "x", "-o", "y", "--start", "noise", "--tile", "auto"])
    assert (args.start, args.tile) == ("noise", "auto")
    args = build_parser().parse_args(["data", "prepare", "x", "y", "--reductions", "1,2.5"])
    assert args.reductions == [1.0, 2.5]


def test_info(capsys) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"sam-diffsr: {sam_diffsr.__version__}" in text
    assert "offline:" in text
    assert main(["info", "--json"]) == 0
    assert {"versions", "machine", "hub", "models"} <= json.loads(capsys.readouterr().out).keys()


def test_convert_then_upscale(golden_dir, tmp_path, photos, capsys) -> None:
    folder = tmp_path / "converted"
    assert main(["convert", str(golden_dir / "reference_tiny.ckpt"), str(folder), "--dtype", "fp16"]) == 0
    assert "x4, 20 timesteps" in capsys.readouterr().out
    assert load_pretrained(folder)[0].normalization.lr_up_levels == 256
    arguments = ["-i", str(photos / "a.png"), "-o", str(tmp_path / "x.png"), "--steps", "1"]
    assert main(["upscale", "-m", str(folder), *arguments]) == 0
    assert Image.open(tmp_path / "x.png").size == (36, 28)


def test_convert_refuses_what_is_no_checkpoint(tmp_path, photos, capsys) -> None:
    assert main(["convert", str(photos / "a.png"), str(tmp_path / "m")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sam-diffsr: error: ")
    assert not (tmp_path / "m").exists()


@pytest.fixture
def hr_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "hr"
    folder.mkdir()
    Image.effect_noise((40, 38), 60).convert("RGB").save(folder / "a.png")
    return folder


def test_evaluate(model_dir, hr_dir, tmp_path, capsys) -> None:
    target = tmp_path / "result.json"
    arguments = ["--hr", str(hr_dir), "-m", str(model_dir), "--steps", "1,2", "--sampler", "ddim,dpmpp_2m"]
    assert main(["evaluate", *arguments, "--start", "noise,5", "--seed", "4", "--json", str(target)]) == 0
    captured = capsys.readouterr()
    assert "x4, 1 image, protocol matlab (border 4), seed 4, 1 cropped to a multiple of 4" in captured.out
    assert sum(line.startswith("|") for line in captured.out.splitlines()) == 2 + 2 + 8
    assert "in one piece" not in captured.err
    assert "[1/1] a.png: bicubic" in captured.err
    result = json.loads(target.read_text())
    assert len(result["rows"]) == 10
    assert (result["seed"], result["dataset"]) == (4, str(hr_dir))


def test_evaluate_does_not_write_over_its_images(model_dir, hr_dir, capsys) -> None:
    image = sorted(hr_dir.glob("*.png"))[0]
    before = image.read_bytes()
    assert main(["evaluate", "--hr", str(hr_dir), "-m", str(model_dir), "--csv", str(image)]) == 2
    assert "is an image to evaluate; give the output another name" in capsys.readouterr().err
    both = str(hr_dir / "scores")
    assert main(["evaluate", "--hr", str(hr_dir), "--csv", both, "--json", both]) == 2
    assert "two outputs have one name" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_evaluate_compares_models_and_results_and_writes_every_kind_of_file(
    model_dir, hr_dir, tmp_path, capsys
) -> None:
    out = tmp_path / "out"
    files = [f"--{kind}={out / f'x.{kind}'}" for kind in ("json", "csv", "html")]
    models = ["-m", str(model_dir), "-m", f"twin={model_dir}"]
    arguments = ["evaluate", "--hr", str(hr_dir), "--protocol", "paper"]
    assert main([*arguments, *models, "--save", str(out / "sr"), *files]) == 0
    rows = json.loads((out / "x.json").read_text())["rows"]
    assert [row["label"] for row in rows] == [
        "bicubic",
        "tiny, encoder",
        "tiny, ddim 2 steps",
        "twin, encoder",
        "twin, ddim 2 steps",
    ]
    assert rows[1]["psnr_y"] == rows[3]["psnr_y"]
    assert len((out / "x.csv").read_text().splitlines()) == 1 + 5
    assert "twin, ddim 2 steps" in (out / "x.html").read_text()
    capsys.readouterr()
    saved = [f"--sr=again={out / 'sr' / 'tiny_ddim_2_steps'}", f"--sr={out / 'sr' / 'bicubic'}"]
    assert main([*arguments, *saved, f"--json={out / 'y.json'}"]) == 0
    assert "tiny" not in capsys.readouterr().out  # no model was loaded
    again = json.loads((out / "y.json").read_text())["rows"]
    assert [row["label"] for row in again] == ["bicubic", "again", "bicubic"]
    assert again[1]["psnr_y"] == rows[2]["psnr_y"]
    assert again[0]["psnr_y"] == again[2]["psnr_y"]


def test_evaluate_takes_further_measures_and_says_what_they_are(hr_dir, model_dir, tmp_path, capsys) -> None:
    arguments = ["evaluate", "--hr", str(hr_dir), "-m", str(model_dir), "--sr", f"truth={hr_dir}"]
    files = [f"--{kind}={tmp_path / f'x.{kind}'}" for kind in ("json", "csv", "html")]
    assert main([*arguments, *files, "--measures", "colour,ringing"]) == 0
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.split("|")[-4:-1]] == ["colour", "ringing", "s/image"]
    notes = ("colour: largest shift of", "ringing: mean overshoot", "s/image: seconds from the input")
    assert all(f"\n{note}" in out for note in notes)
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    bicubic, truth = rows[0]["measures"], rows[-1]["measures"]
    assert bicubic["colour"] == truth["ringing"] == 0 < truth["colour"]
    assert max(row["measures"]["ringing"] for row in rows) > 0
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0].endswith(",seconds,colour,ringing")
    assert lines[1].endswith(f",0.0,{bicubic['ringing']}")
    page = (tmp_path / "x.html").read_text()
    assert all(f">{note}" in page for note in notes)
    assert main([*arguments, "--measures", "ringing,sharpness"]) == 2
    assert "unknown measures sharpness; expected some of ringing, grain, colour" in capsys.readouterr().err


def test_evaluate_saves_no_results_over_each_other(hr_dir, tmp_path, capsys) -> None:
    folder = tmp_path / "double"
    folder.mkdir()
    for ending in ("png", "jpg"):
        Image.open(hr_dir / "a.png").convert("RGB").save(folder / f"a.{ending}")
    assert main(["evaluate", "--hr", str(folder), "--save", str(tmp_path / "sr")]) == 1
    captured = capsys.readouterr()
    assert re.search(r"a\.jpg and .*a\.png differ only in their endings", captured.err)
    assert (captured.out, (tmp_path / "sr").exists()) == ("", False)


def test_evaluate_damages_inputs(model_dir, hr_dir, tmp_path, capsys) -> None:
    arguments = ["evaluate", "--hr", str(hr_dir), "-m", str(model_dir), "--degrade", "bicubic,jpeg20"]
    assert main([*arguments, "--save", str(tmp_path / "sr")]) == 0
    out = capsys.readouterr().out
    assert "inputs from the truths, damaged by bicubic, jpeg20" in out
    assert [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")][2:] == [
        *["bicubic"] * 3,
        *["jpeg20"] * 3,
    ]
    assert sorted(path.name for path in (tmp_path / "sr" / "jpeg20").iterdir()) == [
        "bicubic",
        "lr",
        "tiny_ddim_2_steps",
        "tiny_encoder",
    ]
    assert main([*arguments, "--lr", str(hr_dir)]) == 2
    assert "damages make inputs from the truths" in capsys.readouterr().err
    assert main(["evaluate", "--hr", str(hr_dir), "--degrade", "rust7"]) == 2
    assert "got 'rust7'" in capsys.readouterr().err


def test_evaluate_resumes(model_dir, hr_dir, tmp_path, monkeypatch, capsys) -> None:
    Image.effect_noise((40, 38), 60).convert("RGB").save(hr_dir / "b.png")
    target = tmp_path / "x.json"
    arguments = ["evaluate", "--hr", str(hr_dir), "-m", str(model_dir), "--json", str(target)]
    real = evaluation.read_pair

    def stopped(file, **options):
        if file.name == "b.png":
            raise KeyboardInterrupt
        return real(file, **options)

    monkeypatch.setattr(evaluation, "read_pair", stopped)
    assert main(arguments) == 130
    log = tmp_path / "x.json.partial.jsonl"
    assert f"scores so far are in {log}" in capsys.readouterr().err
    assert len(log.read_text().splitlines()) == 2
    monkeypatch.setattr(evaluation, "read_pair", real)
    assert main([*arguments, "--resume"]) == 0
    captured = capsys.readouterr()
    assert f"1 scores were reused from {log}" in captured.out
    assert "a.png" not in captured.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["x.json"]
    # a file that was named stays
    named = tmp_path / "kept.jsonl"
    for _ in range(2):
        assert main([*arguments, "--resume", str(named)]) == 0
    assert "2 scores were reused" in capsys.readouterr().out
    assert len(named.read_text().splitlines()) == 3
    assert main([*arguments[:-2], "--resume"]) == 2
    assert "--resume needs a FILE here" in capsys.readouterr().err


def test_evaluate_prints_and_writes_any_name(model_dir, hr_dir, tmp_path) -> None:
    """Names that are not UTF-8, or not in the code page of the console, end nothing."""
    folder = hr_dir.rename(tmp_path / "写真")
    (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    files = [f"--{kind}={tmp_path / f'x.{kind}'}" for kind in ("json", "csv", "html")]
    command = [sys.executable, "-m", "sam_diffsr", "evaluate", "--hr", str(folder), "-m", str(model_dir)]
    done = subprocess.run(
        [*command, *files, "--save", str(tmp_path / "sr")],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u5199\\u771f, x4, 1 image" in done.stdout
    for kind in ("json", "csv", "html"):
        assert "caf\\udce9.png" in (tmp_path / f"x.{kind}").read_text(encoding="utf-8")


def test_evaluate_looks_for_no_inputs_when_results_are_scored(hr_dir, tmp_path, capsys) -> None:
    root = tmp_path / "Set1"
    root.mkdir()
    hr_dir.rename(root / "HR")
    (root / "LR_bicubic" / "X4").mkdir(parents=True)
    Image.new("RGB", (3, 3)).save(root / "LR_bicubic" / "X4" / "ax4.png")  # of a wrong size
    assert main(["evaluate", "--hr", str(root), "--sr", f"truth={root / 'HR'}"]) == 0
    assert "inputs from" not in capsys.readouterr().out


def test_evaluate_takes_inputs_from_files(model_dir, hr_dir, tmp_path, capsys) -> None:
    lr = tmp_path / "lr"
    lr.mkdir()
    arguments = ["evaluate", "--hr", str(hr_dir), "--lr", str(lr), "-m", str(model_dir)]
    assert main(arguments) == 1
    assert f"1 of 1 images do not have an input in {lr}: a.png" in capsys.readouterr().err
    Image.new("RGB", (10, 9), "gray").save(lr / "ax4.png")
    assert main(arguments) == 0
    assert f"inputs from {lr}" in capsys.readouterr().out
    Image.new("RGB", (10, 10), "gray").save(lr / "ax4.png")
    assert main(arguments) == 1
    assert "ax4.png has 10x10 pixels; expected 10x9" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "package"), [("--lpips", "LPIPS"), ("--fid", "FID")])
def test_evaluate_says_what_perceptual_measures_need(
    flag, package, model_dir, hr_dir, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    assert main(["evaluate", "--hr", str(hr_dir), "-m", str(model_dir), flag]) == 1
    assert f"{package} needs " in capsys.readouterr().err


def test_evaluate_finds_out_first_that_a_file_cannot_be_written(model_dir, hr_dir, tmp_path, capsys) -> None:
    arguments = ["evaluate", "--hr", str(hr_dir), "-m", str(model_dir), "--html", str(tmp_path)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "there is a folder of this name" in captured.err
    assert "a.png" not in captured.err


def test_evaluate_refuses_an_empty_folder(model_dir, tmp_path, capsys) -> None:
    assert main(["evaluate", "--hr", str(tmp_path), "-m", str(model_dir)]) == 1
    assert "no images" in capsys.readouterr().err


def test_data_prepare_passes_only_what_is_given(tmp_path, monkeypatch, capsys) -> None:
    import sam_diffsr.data.prepare as prepare

    seen: dict[str, object] = {}

    class Crops(list):
        skipped = ()

    def fake(photos, out, *, progress, **given):
        seen.update(given, photos=photos, out=out)
        progress(1, 1, "a.png")
        return Crops([0, 1])

    monkeypatch.setattr(prepare, "prepare_crops", fake)
    assert main(["data", "prepare", "in", "out", "--reductions", "1,2", "--segmenter", "none"]) == 0
    assert seen == {"photos": "in", "out": "out", "reductions": [1.0, 2.0], "segmenter": "none"}
    assert capsys.readouterr().out.splitlines() == ["[1/1] a.png", "out: 2 crops"]


def test_train_and_export(tmp_path, monkeypatch, capsys) -> None:
    """The smallest real run of both stages, from crops on disk to an upscaled picture."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.effect_noise((64, 64), 90).convert("RGB").save(photos / "a.png")
    crops = tmp_path / "crops"
    prepare = ["--crop-size", "32", "--reductions", "1", "--min-gradient", "0", "--segmenter", "none"]
    assert main(["data", "prepare", str(photos), str(crops), *prepare]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{crops: {crops}, patch: 16, batch: 2}}\n"
        "model: {encoder: {blocks: 2, channels: 8, growth: 4}, denoiser: {dim: 8, multipliers: [1, 2]}}\n"
        "diffusion: {schedule: {timesteps: 10}}\n"
        "run: {steps: 400, device: cpu}\n"
    )
    common = ["--set", "run.steps=2"]
    assert main(["train", "rrdb", str(config), "--out", str(tmp_path / "one"), *common]) == 0
    assert "finished at step 2 of 2" in capsys.readouterr().out
    encoder = f"diffusion.encoder={tmp_path / 'one'}"
    stage = ["train", "diffusion", str(config), "--out", str(tmp_path / "two"), "--set", encoder]
    assert main([*stage, *common]) == 0
    assert main([*stage, *common]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert main([*stage, "--set", "run.steps=4", "--resume"]) == 0
    export = ["export", str(tmp_path / "two"), str(tmp_path / "model"), "--sampler", "ddim", "--steps", "2"]
    assert main([*export, "--start", "5", "--spacing", "trailing", "--dtype", "fp16"]) == 0
    sampling = load_pretrained(tmp_path / "model")[0].sampling
    assert (sampling.sampler, sampling.steps, sampling.start, sampling.spacing) == ("ddim", 2, 5, "trailing")
    small = str(tmp_path / "small.png")
    Image.new("RGB", (5, 4)).save(small)
    assert main(["upscale", "-m", str(tmp_path / "model"), "-i", small, "-o", str(tmp_path / "x.png")]) == 0


def test_a_run_that_was_stopped_is_not_a_success(tmp_path, monkeypatch, capsys) -> None:
    import sam_diffsr.training as training

    monkeypatch.setattr(
        training,
        "load_config",
        lambda path, *, overrides: training.TrainConfig(data=training.DataConfig(crops="x")),
    )
    result = training.TrainResult(step=7, finished=False, checkpoint=tmp_path / "step-7")
    monkeypatch.setattr(training, "train", lambda stage, config, out, **options: result)
    assert main(["train", "rrdb", "c.yaml", "--out", str(tmp_path)]) == 130
    assert "stopped (continue with --resume) at step 7" in capsys.readouterr().out


def test_an_error_of_ours_is_one_line_and_a_traceback_only_for_debug(tmp_path, capsys) -> None:
    arguments = ["train", "rrdb", str(tmp_path / "gone.yaml"), "--out", str(tmp_path)]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sam-diffsr: error: cannot read the config")
    with pytest.raises(ConfigError, match="cannot read the config"):
        main([*arguments, "--debug"])


def test_a_reader_that_goes_away_is_no_traceback(monkeypatch, capsys) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["info"]) == 1
    assert capsys.readouterr().err == ""


def test_a_shortened_flag_is_refused(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["upscale", "-i", "x", "-o", "y", "--samp", "ddim"])
    assert "unrecognized arguments: --samp; did you mean --sampler?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upscal", "a.png"], "there is no command and no file 'upscal'; did you mean upscale?"),
        (["upscale", "a.png", "--overwite"], "unrecognized arguments: --overwite; did you mean --overwrite?"),
        (["photo.png", "--scael=2"], "unrecognized arguments: --scael=2; did you mean --scale?"),
        (["upscale", "a.png", "--sampler", "dddim"], "did you mean ddim?"),
        (["data", "perpare"], "did you mean prepare?"),
        (["data", "prepare", "x", "y", "--crop-szie", "3"], "did you mean --crop-size?"),
        (["xyzzy"], "there is no command and no file 'xyzzy'\n"),
    ],
)
def test_misspellings_are_answered_with_the_nearest_name(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["upscale"]])
def test_help_fits_a_screen(command, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 40


def test_help_all_shows_the_rest(monkeypatch, capsys) -> None:
    for flag, expected in (("--help", False), ("--help-all", True)):
        with pytest.raises(SystemExit, match="0"):
            main(["upscale", flag])
        assert ("--max-memory" in capsys.readouterr().out) == expected


def test_completion_for_the_shell(tmp_path) -> None:
    pytest.importorskip("argcomplete")
    done = subprocess.run(
        [sys.executable, "-m", "sam_diffsr"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_ARGCOMPLETE": "1",
            "COMP_LINE": "sam-diffsr upscale --over",
            "COMP_POINT": "25",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"),
        },
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / "out").read_text().strip() == "--overwrite"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("max_pixels must be >= 1, or None for no limit, got 5", "--max-pixels must be >= 1, or 0, got 5"),
        ("raise max_pixels (None: no limit) if", "raise --max-pixels (0: no limit) if"),
        ("outscale must be None or a finite factor > 0", "--scale must be a finite factor > 0"),
        ("fidelity 0.5 and start 10 both choose", "--fidelity 0.5 and --start 10 both choose"),
        ("outscale 10000.0 would make", "--scale 10000.0 would make"),
        ("suffix and ext name the results", "--suffix and --ext name the results"),
        ("suffix is part of a file name", "--suffix is part of a file name"),
        ("device 'x' was asked for; use device='auto'", "--device 'x' was asked for; use --device auto"),
        ("device must be 'auto', 'mps' or a torch.device", "--device must be 'auto' or 'mps'"),
        ("use dtype='fp32' (or 'bf16')", "use --precision fp32 (or 'bf16')"),
        ("there is no model 'x': expected None, a", "there is no model 'x': expected a"),
        ("crf belongs to videos", "--crf belongs to videos"),
        ("the start of a_file.png is missing", "the start of a_file.png is missing"),
    ],
)
def test_messages_name_options_and_no_arguments(message, expected) -> None:
    assert as_flags(message, build_parser().commands["upscale"].flags) == expected
