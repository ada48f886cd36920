"""Tables, JSON and CSV of an evaluation."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sam_diffsr.evaluation import environment
from sam_diffsr.evaluation.evaluate import evaluate_images, evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, results_method
from sam_diffsr.evaluation.result import Evaluation, ImageScore, Row
from sam_diffsr.pipeline import SamplingConfig


def test_table_and_json(resolver, photos) -> None:
    settings = [SamplingConfig(sampler="ddim", steps=2, start=4)]
    result = evaluate_images(resolver, photos, model_name="tiny", settings=settings)
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
    }
    assert data["rows"][2]["label"] == "tiny, ddim 2 steps from t=4"
    for key in ("psnr_y", "ssim_y", "artifacts", "seconds"):
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
    assert result.columns()[0] == ["method", "PSNR-Y", "gain", "SSIM-Y", "artifacts 1e-4", "s/image"]


def test_csv_has_a_line_for_each_image_and_method(resolver, photos) -> None:
    settings = [SamplingConfig(sampler="ddim", steps=2, start=4)]
    result = evaluate_images(resolver, photos, model_name='odd, "name"', settings=settings)
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


def measured(*settings: tuple[str, int, int | None, tuple[float, float, float]]) -> Evaluation:
    rows = [
        Row(
            method="model",
            name="m",
            sampling=SamplingConfig(sampler=sampler, steps=steps, start=start),  # pyright: ignore[reportArgumentType]
            images=(ImageScore(name="a", psnr_y=scores[0], ssim_y=scores[1], artifacts=scores[2]),),
        )
        for sampler, steps, start, scores in settings
    ]
    return Evaluation(
        dataset="",
        protocol="matlab",
        scale=4,
        border=4,
        seed=0,
        lr="",
        cropped=(),
        rows=tuple(rows),
        machine={},
        versions={},
        commit=None,
    )


def timed(*seconds: float | None) -> Evaluation:
    one = measured(("ddim", 1, None, (28.0, 0.8, 2.0)))
    image = one.rows[0].images[0]
    rows = tuple(replace(one.rows[0], images=(replace(image, seconds=value),)) for value in seconds)
    return replace(one, rows=rows)


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


def test_the_cheapest_setting_loses_nothing_on_any_measure() -> None:
    rows = (
        ("ddpm", 100, None, (28.0, 0.80, 2.0)),
        ("ddpm", 20, None, (28.1, 0.81, 1.9)),
        ("ddim", 4, None, (29.0, 0.79, 1.0)),
        ("ddim", 3, None, (29.0, 0.81, 2.1)),
        ("ddim", 2, None, (27.9, 0.81, 1.0)),
        ("ddim", 5, 9, (28.0, 0.80, 2.0)),
        ("dpmpp_2m", 5, 9, (28.5, 0.80, 2.0)),
    )
    ((reference, row),) = measured(*rows).cheapest()
    assert reference.label == "m, ddpm 100 steps"
    assert row.label == "m, dpmpp_2m 5 steps from t=9"
    assert measured(rows[0], *rows[2:5]).cheapest() == []
    assert measured(*rows[2:]).cheapest() == []
