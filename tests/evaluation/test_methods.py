"""What is compared: labels, the encoder alone, models at settings, files; and grids of settings."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, ConfigError, ImageError
from sam_diffsr.evaluation.methods import (
    Setting,
    bicubic_method,
    common_scale,
    folder_methods,
    model_methods,
    results_method,
    sampling_grid,
    split_labels,
)
from sam_diffsr.evaluation.pairs import read_pair
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline import SamplingConfig
from sam_diffsr.pipeline.settings import resolve_settings
from sam_diffsr.resize import imresize


def test_methods_of_a_model(resolver, photos) -> None:
    settings = [
        Setting(sampling=SamplingConfig(sampler="ddim", steps=1)),
        Setting(sampling=SamplingConfig(sampler="dpmpp_2m", steps=2, start=4, spacing="trailing")),
        *sampling_grid(resolver.config, fidelities=[0.5]),
    ]
    methods = [bicubic_method(4), *model_methods(resolver, name="a/b", settings=settings)]
    assert [method.label for method in methods] == [
        "bicubic",
        "a/b, encoder",
        "a/b, ddim 1 step",
        "a/b, dpmpp_2m 2 steps from t=4, trailing",
        methods[4].label,
    ]
    assert methods[4].label.startswith("a/b, fidelity 0.5, ")
    assert methods[3].folder_name == "a_b_dpmpp_2m_2_steps_from_t_4_trailing"
    pair = read_pair(photos[0], scale=4)
    lr = pair.lr.float() / 255
    assert torch.equal(methods[0].enlarge(pair, 0), imresize(lr, 4))
    assert torch.equal(methods[1].enlarge(pair, 0), resolver.upscale_tensor(lr, seeds=[3], steps=0))
    assert torch.equal(methods[2].enlarge(pair, 3), resolver.upscale_tensor(lr, seeds=[3], steps=1))
    assert torch.equal(methods[4].enlarge(pair, 3), resolver.upscale_tensor(lr, seeds=[3], fidelity=0.5))


def test_the_identity_of_a_model_is_that_of_its_weights(resolver) -> None:
    encoder, model = model_methods(resolver, name="a")
    assert encoder.identity == model.identity == model_methods(resolver, name="b")[0].identity
    assert resolver.fingerprint in model.identity


def test_a_model_without_settings_is_at_its_default(resolver) -> None:
    methods = model_methods(resolver, name="tiny")
    assert [method.setting for method in methods] == [None, Setting(sampling=resolver.config.sampling)]


def test_spacings_are_part_of_the_grid_and_reach_the_sampler(resolver, photos, monkeypatch) -> None:
    grid = sampling_grid(resolver.config, steps=[3], spacings=["linspace", "trailing"])
    assert [one.sampling.spacing for one in grid] == ["linspace", "trailing"]
    used: list[str] = []

    def fake(self, lr, **options):
        used.append(self.config.sampling.spacing)
        return imresize(lr, 4)

    monkeypatch.setattr(type(resolver), "upscale_tensor", fake)
    pair = read_pair(photos[0], scale=4)
    for method in model_methods(resolver, name="tiny", settings=grid)[1:]:
        method.enlarge(pair, 0)
    assert used == ["linspace", "trailing"]
    assert resolver.config.sampling.spacing == "linspace"
    with pytest.raises(ConfigError, match=r"sampling\.spacing must be one of"):
        sampling_grid(resolver.config, spacings=["odd"])  # type: ignore[list-item]


def test_a_grid_of_fidelities_is_what_they_stand_for(resolver) -> None:
    grid = sampling_grid(resolver.config, fidelities=[1.0, 0.5, 0.0])
    assert grid == [
        Setting(sampling=resolve_settings(resolver.config, fidelity=value).sampling, fidelity=value)
        for value in (1.0, 0.5, 0.0)
    ]
    assert [one.sampling.steps for one in sampling_grid(resolver.config, fidelities=[0.5], steps=[1, 2])] == [
        1,
        2,
    ]
    with pytest.raises(ArgumentError, match="give one"):
        sampling_grid(resolver.config, fidelities=[0.5], starts=[3])


def test_files_are_cropped_as_the_truth_is(photos, tmp_path) -> None:
    whole = Image.effect_noise((47, 38), 50).convert("RGB")
    whole.save(tmp_path / "0.png")
    whole.crop((0, 0, 44, 36)).save(tmp_path / "cropped.png")
    pair = read_pair(photos[0], scale=4)
    of_whole = results_method(photos[:1], [tmp_path / "0.png"], name="sr").enlarge(pair, 0)
    of_part = results_method(photos[:1], [tmp_path / "cropped.png"], name="sr").enlarge(pair, 0)
    assert of_whole.shape == pair.hr.shape
    assert torch.equal(of_whole, of_part)


def test_files_of_another_size_are_refused(photos, tmp_path) -> None:
    Image.new("RGB", (40, 36)).save(tmp_path / "0.png")
    method = results_method(photos[:1], [tmp_path / "0.png"], name="sr")
    with pytest.raises(ImageError, match=r"0\.png has 40x36 pixels; expected 47x38 or 44x36, because 0\.png"):
        method.enlarge(read_pair(photos[0], scale=4), 0)


def test_a_grid_defaults_to_the_model(resolver) -> None:
    assert sampling_grid(resolver.config) == [Setting(sampling=resolver.config.sampling)]


def test_a_grid_is_all_combinations_that_are_possible(resolver, caplog) -> None:
    with caplog.at_level(logging.INFO):
        grid = sampling_grid(
            resolver.config, samplers=["ddpm", "ddim"], steps=[1, 2, 10], starts=["noise", 4]
        )
    assert [(one.sampling.start, one.sampling.sampler, one.sampling.steps) for one in grid] == [
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samplers": ["euler"]}, "sampler must be one of"),
        ({"steps": [11]}, "steps must be a whole number from 0 .* to 10"),
        ({"starts": [10]}, "start must be 'noise' or a timestep"),
        ({"starts": [2], "steps": [5]}, "no combination of steps and start is possible"),
    ],
)
def test_a_grid_refuses(resolver, options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        sampling_grid(resolver.config, **options)


def test_labels(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x4").mkdir(parents=True)
    (tmp_path / "a=b").mkdir()
    assert split_labels(["runs/x4", "mine=runs/x4", "a=b", "owner/name", "Q=owner/name", "=x"]) == [
        ("x4", "runs/x4"),
        ("mine", "runs/x4"),
        ("a=b", "a=b"),
        ("owner/name", "owner/name"),
        ("Q", "owner/name"),
        ("=x", "=x"),
    ]
    with pytest.raises(
        ArgumentError, match=r"runs/x4 and \./runs/x4 are both called x4; .* second=\./runs/x4"
    ):
        split_labels(["runs/x4", "./runs/x4"])


def test_one_scale() -> None:
    assert common_scale([2, 2]) == 2
    assert common_scale([2], asked=2) == 2
    assert common_scale([], asked=3) == 3
    assert common_scale([]) == ModelConfig().scale
    with pytest.raises(ArgumentError, match="a comparison is at one scale, got 2 and 4"):
        common_scale([4, 2])
    with pytest.raises(ArgumentError, match="at one scale, got 3 and 4"):
        common_scale([4], asked=3)
    with pytest.raises(ArgumentError, match="scale must be at least 2, got 1"):
        common_scale([], asked=1)


def test_results_of_a_wrong_size_are_found_before_anything_runs(photos, tmp_path) -> None:
    folder = tmp_path / "sr"
    folder.mkdir()
    for photo in photos:
        Image.new("RGB", (20, 20)).save(folder / photo.name)
    with pytest.raises(ImageError, match=r"sr.0\.png has 20x20 pixels; expected .*photos.0\.png has 47x38"):
        folder_methods([("x", folder)], photos, scale=4)
