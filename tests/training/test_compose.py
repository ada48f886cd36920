"""Configs from files and presets: what they build on, what is laid over them, and what is wrong with them."""

from __future__ import annotations

import builtins
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.data.degrade import PHOTO
from sam_diffsr.errors import ConfigError, MissingDependencyError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import TrainConfig, compose, config_to_yaml, list_presets, load_config

PRESETS = sorted(list_presets())


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_yaml_with_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {crops: c, patch: 64}\noptimizer: {lr: 1e-4}\nmodel: {scale: 2}\n")
    overrides = ["run.steps=7", "optimizer.lr=3e-4", "model.denoiser.multipliers=[1, 2]", "data.crops=1e"]
    config = load_config(path, overrides=overrides)
    assert (config.run.steps, config.optimizer.lr, config.data.crops) == (7, 3e-4, "1e")
    assert config.model.denoiser.multipliers == (1, 2)
    assert load_config(path).optimizer.lr == 1e-4


def test_a_table_that_is_given_in_part_keeps_the_rest_of_its_default() -> None:
    overrides = ["validation.sampling.steps=3", "data.degradation={noise: {high: 30}}"]
    config = load_config("small/rrdb", overrides=overrides)
    assert config.validation.sampling == SamplingConfig(sampler="ddim", steps=3)
    assert config.data.damage == replace(PHOTO, noise=replace(PHOTO.noise, high=30.0))
    with pytest.raises(ConfigError, match=r"validation\.sampling has unknown keys \['stepz'\]"):
        load_config("small/rrdb", overrides=["validation.sampling.stepz=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [", "is not valid YAML: .* in line 1$"),
        ("- 1", "expected a mapping of keys to values .*, got .1."),
        ("", "expected a mapping of keys to values .*, got nothing"),
        ("run: {steps: 3}", r"lacks the required keys \['data'\]"),
        ("data: {crops: x}\noptimiser: {lr: 1}", r"\(did you mean 'optimizer' instead of 'optimiser'\?\)"),
        ("base: 3", "base must be the name of a file or preset, got 3"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a text file in UTF-8; expected YAML"):
        load_config(tmp_path / "run.yaml")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "none.yaml")


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "data: {crops: c}")

    def refuse(self: Path, **options: Any) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        patch.setattr(compose, "list_presets", dict)
        with pytest.raises(ConfigError, match=r"cannot read the config .*run\.yaml: .*Permission denied"):
            load_config(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.steps", "an override must look like section.key=value, got 'run.steps'"),
        ("=3", "an override must look like"),
        ("run.steps=[", "is not valid YAML"),
        ("data.crops.deep=1", "expected a mapping of keys to values .*, got "),
        ("run.stpes=3", r"unknown keys \['stpes'\]"),
    ],
)
def test_bad_override(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, "data: {crops: x}"), overrides=[override])


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    path = write(tmp_path, "data: {crops: c}")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"sam-diffsr\[train\]"):
        load_config(path)


def test_base_is_laid_under_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "data: {crops: c, patch: 64}\noptimizer: {lr: 1e-4, betas: [0.5, 1e-1]}\n")
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../run.yaml\ndata: {batch: 4}\n")
    (tmp_path / "top.yaml").write_text("base: deep/middle.yaml\ndata: {crops: other}\nrun: {steps: 3}\n")
    config = load_config(tmp_path / "top.yaml", overrides=["data.patch=32"])
    assert (config.data.crops, config.data.patch, config.data.batch) == ("other", 32, 4)
    assert (config.optimizer.lr, config.optimizer.betas, config.run.steps) == (1e-4, (0.5, 0.1), 3)


def test_table_takes_the_place_of_a_value_and_the_other_way_round(tmp_path: Path) -> None:
    write(tmp_path, "data: {crops: c, synthetic: null}\n")
    (tmp_path / "top.yaml").write_text("base: run.yaml\ndata: {crops: null, synthetic: {size: 64}}\n")
    config = load_config(tmp_path / "top.yaml")
    assert config.data.synthetic is not None
    assert (config.data.synthetic.size, config.data.crops) == (64, None)


def test_preset_as_a_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: paper/diffusion\ndata: {crops: mine}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.data.crops, config.data.batch, config.run.steps) == ("mine", 64, 400_000)


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "c", "c": "b"}])
def test_bases_in_a_circle(tmp_path: Path, links: dict[str, str]) -> None:
    for name, base in links.items():
        (tmp_path / f"{name}.yaml").write_text(f"base: {base}.yaml\n")
    with pytest.raises(ConfigError, match=r"is its own base: .*\.yaml -> .*\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_base_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, "base: smal/rrdb\n")
    with pytest.raises(
        ConfigError, match=rf"smal/rrdb, the base of {re.escape(str(path))}: .* did you mean 'small/rrdb'\?"
    ):
        load_config(path)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_complete_and_survives_being_printed(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    printed = tmp_path / "printed.yaml"
    printed.write_text(config_to_yaml(config))
    assert load_config(printed) == config
    assert to_dict(config) == to_dict(from_dict(TrainConfig, to_dict(config)))
    assert len(list_presets()[name]) > 20


def test_presets_of_every_kind() -> None:
    stages = {
        f"{size}/{stage}"
        for size in ("paper", "small", "photo", "base", "tiny")
        for stage in ("rrdb", "diffusion")
    }
    ablations = ("none", "released", "paper", "zero-structure", "cosine", "sincos", "random", "region")
    stages.add("small/perceptual")
    assert set(PRESETS) == stages | {f"ablation/{name}" for name in ablations}


def test_paper_presets_are_the_papers_recipe() -> None:
    for name in ("paper/rrdb", "paper/diffusion"):
        config = load_config(name)
        assert config.model == ModelConfig()
        assert (config.data.patch, config.data.batch, config.run.steps) == (160, 64, 400_000)
        assert (config.optimizer.name, config.optimizer.lr) == ("adam", 2e-4)
        assert (config.optimizer.schedule, config.optimizer.halve_every) == ("halving", 200_000)
        assert (config.run.start, config.diffusion.modulation) == ("random", "released")
        assert (config.diffusion.schedule.timesteps, config.diffusion.residual_scale) == (100, 2.0)


def test_ablations_differ_in_one_value_from_what_they_are_compared_with() -> None:
    base = to_dict(load_config("small/diffusion"))
    for name in PRESETS:
        if name.startswith("ablation/"):
            other = to_dict(load_config(name))
            changed = [
                (section, key)
                for section, table in base.items()
                for key in table
                if table[key] != other[section][key]
            ]
            assert len(changed) == (name != "ablation/released"), name
