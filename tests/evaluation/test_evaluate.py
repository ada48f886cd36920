"""Tables from folders: the numbers are those of the parts, and what cannot be compared is refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, ConfigError, ImageError
from sam_diffsr.evaluation.evaluate import encoder_only, evaluate_images, make_pair, sampling_grid
from sam_diffsr.evaluation.metrics import psnr_y, ssim_y
from sam_diffsr.pipeline import SamplingConfig
from sam_diffsr.resize import imresize


def test_a_pair_is_cropped_and_rounded(photos) -> None:
    hr, lr = make_pair(photos[0], scale=4)
    assert hr.shape == (1, 3, 36, 44)
    assert lr.shape == (1, 3, 9, 11)
    eight_bit = (hr * 255).round().to(torch.uint8)
    assert torch.equal(eight_bit.float() / 255, hr)
    assert torch.equal(imresize(eight_bit, 0.25).float() / 255, lr)


def test_a_file_too_small_to_score_is_refused(tmp_path) -> None:
    Image.new("RGB", (40, 18)).save(tmp_path / "small.png")
    with pytest.raises(ImageError, match=r"small\.png has 18x40 pixels; at least 19"):
        make_pair(tmp_path / "small.png", scale=4, smallest=19)


@pytest.mark.parametrize("size", [(1, 1), (9, 11), (16, 16)])
def test_the_encoder_alone_takes_any_size(resolver, size) -> None:
    image = encoder_only(resolver, torch.rand(2, 3, *size))
    assert image.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert image.dtype == torch.float32


def test_rows_hold_what_their_parts_give(resolver, photos) -> None:
    settings = [SamplingConfig(sampler="ddim", steps=1), SamplingConfig(sampler="dpmpp_2m", steps=2, start=4)]
    result = evaluate_images(resolver, photos, model_name="tiny", settings=settings, seed=3)
    assert [row.method for row in result.rows] == ["bicubic", "encoder", "model", "model"]
    assert [row.sampling for row in result.rows[2:]] == settings
    assert (result.border, result.scale, result.seed) == (4, 4, 3)
    hr, lr = make_pair(photos[1], scale=4)
    expected = {
        0: imresize(lr, 4),
        1: encoder_only(resolver, lr),
        3: resolver.upscale_tensor(lr, seeds=[3], sampler="dpmpp_2m", steps=2, start=4),
    }
    for row, sr in expected.items():
        eight_bit = (sr.clamp(0, 1) * 255).round()
        score = result.rows[row].images[1]
        assert score.name == "1.png"
        assert score.psnr_y == pytest.approx(psnr_y(eight_bit, hr * 255, border=4, data_range=255).item())
        assert score.ssim_y == pytest.approx(ssim_y(eight_bit, hr * 255, border=4, data_range=255).item())


def test_a_mean_is_one_of_per_image_values(resolver, photos) -> None:
    row = evaluate_images(resolver, photos, model_name="tiny").rows[0]
    assert row.psnr_y == pytest.approx(sum(score.psnr_y for score in row.images) / 2)
    assert row.ssim_y == pytest.approx(sum(score.ssim_y for score in row.images) / 2)
    assert row.seconds >= 0


def test_the_papers_protocol_has_no_border(resolver, photos) -> None:
    result = evaluate_images(resolver, photos[:1], model_name="tiny", protocol="paper")
    hr, lr = make_pair(photos[0], scale=4)
    bicubic = (imresize(lr, 4).clamp(0, 1) * 255).round()
    assert result.border == 0
    assert result.rows[0].psnr_y == pytest.approx(psnr_y(bicubic, hr * 255, border=0, data_range=255).item())


def test_table_and_json(resolver, photos) -> None:
    settings = [SamplingConfig(sampler="ddim", steps=2, start=4)]
    result = evaluate_images(resolver, photos, model_name="tiny", settings=settings)
    header, _, bicubic, _, model = result.table().splitlines()
    assert [cell.strip() for cell in header.split("|")[1:5]] == ["method", "steps", "start", "spacing"]
    assert "+0.000" in bicubic
    assert [cell.strip() for cell in model.split("|")[1:5]] == ["ddim", "2", "4", "linspace"]
    data = json.loads(json.dumps(result.to_json()))
    assert data["rows"][2]["sampling"] == {
        "sampler": "ddim",
        "steps": 2,
        "start": 4,
        "spacing": "linspace",
    }
    assert data["rows"][0]["psnr_y"] == pytest.approx(result.rows[0].psnr_y)
    assert data["versions"]["torch"] == torch.__version__.split("+")[0]
    assert data["protocol"] == "matlab"


def test_a_grid_defaults_to_the_model(resolver) -> None:
    assert sampling_grid(resolver.config) == [resolver.config.sampling]


def test_a_grid_is_all_combinations_that_are_possible(resolver, caplog) -> None:
    with caplog.at_level(logging.INFO):
        grid = sampling_grid(
            resolver.config, samplers=["ddpm", "ddim"], steps=[1, 2, 10], starts=["noise", 4]
        )
    assert [(one.start, one.sampler, one.steps) for one in grid] == [
        (None, "ddpm", 1),
        (None, "ddpm", 2),
        (None, "ddpm", 10),
        (None, "ddim", 1),
        (None, "ddim", 2),
        (None, "ddim", 10),
        (4, "ddpm", 1),
        (4, "ddpm", 2),
        (4, "ddim", 1),
        (4, "ddim", 2),
    ]
    assert "left out: 10 steps from start 4" in caplog.text


def test_spacings_are_part_of_the_grid_and_reach_the_sampler(resolver, photos, monkeypatch) -> None:
    grid = sampling_grid(resolver.config, steps=[3], spacings=["linspace", "trailing"])
    assert [one.spacing for one in grid] == ["linspace", "trailing"]
    used: list[SamplingConfig] = []

    def fake(self, lr, *, seeds):
        used.append(self.config.sampling)
        return imresize(lr, 4)

    monkeypatch.setattr(type(resolver), "upscale_tensor", fake)
    evaluate_images(resolver, photos[:1], model_name="tiny", settings=grid)
    assert used == grid
    assert resolver.config.sampling.spacing == "linspace"
    with pytest.raises(ConfigError, match=r"sampling\.spacing must be one of"):
        sampling_grid(resolver.config, spacings=["odd"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samplers": ["euler"]}, "sampler must be one of"),
        ({"steps": [11]}, "steps must be a whole number from 1 to 10"),
        ({"starts": [10]}, "start must be 'noise' or a timestep"),
        ({"starts": [2], "steps": [5]}, "no combination of steps and start is possible"),
    ],
)
def test_a_grid_refuses(resolver, options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        sampling_grid(resolver.config, **options)


def test_refuses(resolver, photos) -> None:
    with pytest.raises(ArgumentError, match="no images to evaluate on"):
        evaluate_images(resolver, [], model_name="tiny")
    with pytest.raises(ArgumentError, match="protocol must be one of matlab, paper"):
        evaluate_images(resolver, photos, model_name="tiny", protocol="other")  # type: ignore[arg-type]
