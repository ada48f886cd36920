"""Tables, JSON and CSV of an evaluation."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from sam_diffsr.evaluation import environment
from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import Setting, bicubic_method, results_method, sampling_grid
from sam_diffsr.evaluation.result import Evaluation, ImageScore, Row, means
from sam_diffsr.pipeline import SamplingConfig


def test_table_and_json(evaluate_model, photos) -> None:
    settings = [Setting(sampling=SamplingConfig(sampler="ddim", steps=2, start=4))]
    result = evaluate_model(photos, settings=settings)
    assert result.heading() == (
        "x4, 2 images, protocol matlab (border 4), seed 0, 2 cropped to a multiple of 4"
    )
    header, _, bicubic, _, model = result.table().splitlines()
    assert [cell.strip() for cell in header.split("|")[1:6]] == [
        "model",
        "method",
        "steps",
        "start",
        "spacing",
    ]
    assert "+0.000" in bicubic
    assert [cell.strip() for cell in model.split("|")[1:6]] == ["tiny", "ddim", "2", "4", "linspace"]
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["rows"][2]["sampling"] == {
        "sampler": "ddim",
        "steps": 2,
        "start": 4,
        "spacing": "linspace",
        "encoder_share": 0.0,
    }
    assert data["rows"][2]["label"] == "tiny, ddim 2 steps from t=4"
    for key in ("psnr_y", "ssim_y", "psnr_rgb", "artifacts", "seconds"):
        assert data["rows"][0][key] == pytest.approx(getattr(result.rows[0], key))
    assert data["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (data["protocol"], data["seed"], data["cropped"]) == ("matlab", 0, ["0.png", "1.png"])


def test_equal_images_are_infinitely_good_and_json_has_no_infinity(photos) -> None:
    methods = [bicubic_method(4), results_method(photos, photos, name="truth")]
    result = evaluate_methods(photos, methods, scale=4, dataset="twins")
    assert result.heading().startswith("twins, x4")
    assert "inf" in result.table().splitlines()[3]
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["rows"][1]["psnr_y"] is None
    assert data["rows"][1]["images"][0]["psnr_y"] is None
    assert data["rows"][1]["seconds"] is None
    assert data["rows"][1]["ssim_y"] == 1


def test_columns_that_are_empty_are_left_out(photos) -> None:
    result = evaluate_methods(photos, [bicubic_method(4)], scale=4)
    assert result.columns()[0] == [
        "method",
        "PSNR-Y",
        "gain",
        "SSIM-Y",
        "PSNR-RGB",
        "artifacts 1e-4",
        "s/image",
    ]


def test_a_measure_that_no_image_has_keeps_its_column(photos) -> None:
    result = evaluate_methods(photos, [bicubic_method(4)], scale=4, measures=["grain"])
    assert result.rows[0].measures == {"grain": None}
    header, lines = result.columns()
    assert lines[0][header.index("grain")] == ""


def test_rows_of_a_fidelity_say_so(resolver, evaluate_model, photos) -> None:
    result = evaluate_model(photos, settings=sampling_grid(resolver.config, fidelities=[1.0, 0.25]))
    header, lines = result.columns()
    assert [line[header.index("fidelity")] for line in lines] == ["", "", "1", "0.25"]
    assert [row["fidelity"] for row in result.to_json()["rows"]] == [None, None, 1.0, 0.25]
    assert [line["fidelity"] for line in csv.DictReader(io.StringIO(result.to_csv()))][-1] == "0.25"
    assert result.rows[3].label.startswith("tiny, fidelity 0.25, ")


def test_a_row_says_how_much_of_the_encoders_image_it_has(evaluate_model, photos) -> None:
    sampling = SamplingConfig(sampler="ddim", steps=1, start=4, encoder_share=0.25)
    result = evaluate_model(photos, settings=[Setting(sampling=sampling)])
    assert result.rows[2].label == "tiny, ddim 1 step from t=4, 25% encoder"
    assert "| ddim, 25% encoder |" in result.table().splitlines()[-1]
    assert [line["encoder_share"] for line in csv.DictReader(io.StringIO(result.to_csv()))][-1] == "0.25"


def test_csv_has_a_line_for_each_image_and_method(evaluate_model, photos) -> None:
    settings = [Setting(sampling=SamplingConfig(sampler="ddim", steps=2, start=4))]
    result = evaluate_model(photos, name='odd, "name"', settings=settings)
    lines = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [(line["image"], line["method"]) for line in lines] == [
        (name, method) for method in ("bicubic", "encoder", "model") for name in ("0.png", "1.png")
    ]
    last = lines[-1]
    assert (last["model"], last["sampler"], last["steps"], last["start"]) == ('odd, "name"', "ddim", "2", "4")
    assert float(last["psnr_y"]) == result.rows[2].images[1].psnr_y
    assert last["lpips"] == ""


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "sam_diffsr" / "evaluation" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(environment, "__file__", str(module))
    assert environment.describe_commit() is None
    try:
        git("init", "-q")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert environment.describe_commit() is None  # nothing is committed yet
    git("add", ".")
    git("commit", "-qm", "x", "--no-gpg-sign")
    assert environment.describe_commit() == git("rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    module.write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{40}-dirty", environment.describe_commit() or "")


def test_without_git_there_is_no_commit(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    commit = environment.describe_commit()
    assert commit is None
    assert Path(environment.__file__).is_file()


def timed(*seconds: float | None) -> Evaluation:
    def row(value: float | None) -> Row:
        score = ImageScore(name="a", psnr_y=28.0, ssim_y=0.8, psnr_rgb=26.0, artifacts=2.0, seconds=value)
        return Row(label="m", method="model", name="m", sampling=None, images=(score,), **means([score]))

    return Evaluation(
        dataset="",
        protocol="matlab",
        scale=4,
        border=4,
        seed=0,
        lr="",
        cropped=(),
        rows=tuple(map(row, seconds)),
        machine={},
        versions={},
        commit=None,
    )


def test_times_are_a_column_and_said_to_be_of_what() -> None:
    result = timed(0.0123, 0.9996, 12.3456, None)
    header, lines = result.columns()
    assert [line[header.index("s/image")] for line in lines] == ["0.012", "1.000", "12.35", ""]
    assert result.timing.startswith("seconds from the input in memory to the 8-bit result in memory, without")
    assert result.timing.endswith("and saving")  # nothing is known of the machine here
    assert result.notes() == [f"s/image: {result.timing}"]
    assert timed(None).notes() == []
    data = result.to_json()
    assert data["timing"] == result.timing
    assert [row["seconds"] for row in data["rows"]] == [0.0123, 0.9996, 12.3456, None]
    assert [line.rpartition(",")[2] for line in result.to_csv().splitlines()] == [
        "seconds",
        "0.0123",
        "0.9996",
        "12.3456",
        "",
    ]
