"""The file of an evaluation, as a model card reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.errors import DataError
from sam_diffsr.evaluation import evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, model_methods
from sam_diffsr.evaluation.report import write_json
from sam_diffsr.pipeline import SuperResolver
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.training.card import scores_for_card

CONFIG = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))
SAMPLING = {"sampler": "ddim", "steps": 1, "start": 6, "spacing": "linspace", "encoder_share": 0.0}
BICUBIC = {"label": "bicubic", "sampling": None, "psnr_y": 27.7386, "ssim_y": 0.79352, "artifacts": 0.0044}
MODEL = {**BICUBIC, "label": "x|y, ddim", "sampling": SAMPLING, "psnr_y": 28.8237, "ssim_y": 0.82081}
MODEL["artifacts"] = 0.0036


def write(folder: Path, *, each: Any = (), **changes: Any) -> Path:
    """A file of scores; ``each`` is added to both rows, unless ``rows`` are given."""
    data: dict[str, Any] = {
        "dataset": "data/Set5/HR",
        "protocol": "matlab",
        "scale": 4,
        "border": 4,
        "seed": 0,
        "versions": {"sam-diffsr": "1.2"},
        "commit": "abc",
        "rows": [{**row, "images": [{}, {}], **dict(each)} for row in (BICUBIC, MODEL)],
        "unknown": "is left alone",
        **changes,
    }
    path = folder / "scores.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "gone"}))
    return path


def card(path: Path, *, name: str = "m") -> str:
    front, section = scores_for_card(path, CONFIG, name=name)
    return model_card(CONFIG, name=name, front=front, details=section)


def test_scores_are_a_table_and_an_index_that_the_hub_reads(tmp_path: Path) -> None:
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    text = card(write(tmp_path), name='odd: "name"')
    assert "Means over the 2 images of Set5, x4, without a border of 4 pixels (protocol `matlab`)" in text
    assert "seed 0; sam-diffsr 1.2, commit abc." in text
    assert "| | PSNR-Y | SSIM-Y | artifacts 1e-4 |" in text
    assert r"| x\|y, ddim | 28.82 | 0.8208 | 36.00 |" in text
    assert "sam-diffsr evaluate --hr Set5 --model 'odd: \"name\"' --protocol matlab --seed 0" in text
    data = ModelCard(text).data
    assert data.metrics == ["psnr", "ssim"]
    assert data.model_name == 'odd: "name"'
    results = {result.metric_type: result for result in data.eval_results}
    assert (results["psnr"].metric_value, results["ssim"].metric_value) == (28.8237, 0.8208)
    assert {result.dataset_name for result in data.eval_results} == {"Set5"}
    assert results["psnr"].task_type == "image-to-image"


def test_times_are_in_the_table_where_it_is_known_what_they_are_of(tmp_path: Path) -> None:
    text = card(write(tmp_path, each={"seconds": 1.234}, timing="seconds of this; on cpu, 1 thread"))
    assert "| | PSNR-Y | SSIM-Y | artifacts 1e-4 | s/image |" in text
    assert r"| x\|y, ddim | 28.82 | 0.8208 | 36.00 | 1.23 |" in text
    assert "\n\ns/image: seconds of this; on cpu, 1 thread.\n" in text
    assert "s/image" not in card(write(tmp_path, each={"seconds": 1.234}))


def test_the_command_asks_for_what_the_table_shows(tmp_path: Path) -> None:
    assert "--seed 0\n" in card(write(tmp_path))
    assert "--seed 0 --lpips --fid\n" in card(write(tmp_path, each={"lpips": 0.25, "fid": 30.0}))


def test_the_row_is_of_this_model_without_damage(tmp_path: Path) -> None:
    def row(psnr_y: float, **values: str) -> dict[str, Any]:
        return {**MODEL, "label": "x", "images": [{}], "psnr_y": psnr_y, **values}

    rows = [row(20, damage="jpeg30", name="me/m"), row(28, damage="bicubic", name="other")]
    text = card(write(tmp_path, rows=[*rows, row(30, damage="bicubic", name="me/m")]))
    assert "      value: 30\n" in text
    assert "--seed 0 --degrade jpeg30,bicubic\n" in text
    assert "      value: 28\n" in card(write(tmp_path, rows=rows))  # one model, evaluated under another name
    with pytest.raises(
        DataError, match=r"default sampling .* on inputs without damage; evaluate the exported"
    ):
        card(write(tmp_path, rows=rows[:1]))
    with pytest.raises(
        DataError, match=r"several models .*\(b, other\), none of them called m; evaluate the"
    ):
        card(write(tmp_path, rows=[*rows, row(30, name="b")]))


def test_equal_images_whole_images_and_an_installed_library(tmp_path: Path) -> None:
    text = card(
        write(tmp_path, each={"psnr_y": None}, border=0, protocol="paper", commit=None, dataset="photos5")
    )
    assert "| bicubic | equal | 0.7935 |" in text
    assert "of photos5, x4, on whole images (protocol `paper`), seed 0; sam-diffsr 1.2.\n" in text
    assert "metrics:\n- ssim\nmodel-index:" in text


def test_what_an_evaluation_writes_is_read(tmp_path: Path) -> None:
    photo = Path(__file__).parents[2] / "examples" / "chelsea_lr.png"
    resolver = SuperResolver.from_pretrained()
    methods = [bicubic_method(4), *model_methods(resolver, name="x")]
    result = evaluate_methods([photo], methods, scale=4, dataset="one")
    write_json(tmp_path / "x.json", result.to_json())
    front, section = scores_for_card(tmp_path / "x.json", resolver.config, name="x")
    row = result.rows[2]
    assert f"      value: {round(row.psnr_y, 4)}" in front
    assert f"| {row.label} | {row.psnr_y:.2f} | {row.ssim_y:.4f} | {row.artifacts * 1e4:.2f} |" in section
    assert f"s/image: {result.timing}." in section
    assert "1 images of one, x4" in section


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the scores in .*gone"):
        card(tmp_path / "gone.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"is not JSON .*; expected the file of `sam-diffsr evaluate --json`"):
        card(tmp_path / "x.json")
    for key, value in {"rows": [{}], "versions": {}, "dataset": "gone"}.items():
        with pytest.raises(DataError, match="is not what `sam-diffsr evaluate --json` writes"):
            card(write(tmp_path, **{key: value}))
    (tmp_path / "z.json").write_text("[]")
    with pytest.raises(DataError, match="evaluate again with this version"):
        card(tmp_path / "z.json")
