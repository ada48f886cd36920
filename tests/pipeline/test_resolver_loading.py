"""A resolver before it sees an image: built, named, saved and loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sam_diffsr.errors import ArgumentError, ModelLoadError
from sam_diffsr.models import ModelConfig, build_model
from sam_diffsr.pipeline import SuperResolver
from sam_diffsr.pipeline import resolver as resolver_module


def test_repr_says_what_a_bug_report_needs(resolver):
    assert repr(resolver) == (
        f"SuperResolver(tiny, scale=4, device=cpu, dtype=float32, weights={resolver.fingerprint})"
    )
    assert len(resolver.fingerprint) == 12
    assert int(resolver.fingerprint, 16) >= 0


def test_the_fingerprint_is_that_of_the_weights(model, config, resolver):
    assert SuperResolver(model, config, device="cpu", dtype="bf16").fingerprint == resolver.fingerprint
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] += 1
    assert SuperResolver(model, config, device="cpu").fingerprint != resolver.fingerprint
    assert "unnamed" in repr(SuperResolver(model, config, device="cpu"))


def test_the_model_is_set_up_for_inference(model, config):
    resolver = SuperResolver(model.train(), config, device="cpu", dtype="bf16")
    assert resolver.model is model
    assert not model.training
    weight = model.encoder.conv_first.weight
    assert weight.dtype == resolver.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert resolver.schedule.timesteps == 100
    assert resolver.scale == 4


def test_a_config_of_another_model_is_refused(model, config):
    other = dataclasses.replace(config, model=ModelConfig(scale=2))
    with pytest.raises(
        ArgumentError, match=r"the model has ModelConfig\(.*, but config\.model is ModelConfig\("
    ):
        SuperResolver(model, other)


def test_saved_and_loaded_it_gives_the_identical_image(resolver, tmp_path: Path):
    lr = torch.rand(1, 3, 6, 9)
    before = resolver.upscale_tensor(lr, seeds=[3])
    resolver.save_pretrained(tmp_path / "kept")
    loaded = SuperResolver.from_pretrained(tmp_path / "kept", device="cpu")
    assert torch.equal(loaded.upscale_tensor(lr, seeds=[3]), before)
    assert loaded.fingerprint == resolver.fingerprint
    assert loaded.config == resolver.config
    assert str(tmp_path / "kept") in repr(loaded)


def test_loading_does_not_use_up_the_callers_random_numbers(resolver, tmp_path: Path):
    resolver.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    SuperResolver.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_subclass_loads_as_itself(resolver, tmp_path: Path):
    class Mine(SuperResolver):
        pass

    resolver.save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path, device="cpu")) is Mine


def test_a_card_is_written_once_and_a_given_one_always(resolver, tmp_path: Path):
    folder = tmp_path / "x4-mine"
    resolver.save_pretrained(folder, dtype=torch.float16)
    assert 'from_pretrained("x4-mine")' in (folder / "README.md").read_text()
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}
    (folder / "README.md").write_text("edited")
    resolver.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "edited"
    resolver.save_pretrained(folder, card="new")
    assert (folder / "README.md").read_text() == "new"


def test_a_device_that_is_not_there_is_found_out_before_a_download(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resolver_module, "load_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ArgumentError, match="device must be"):
        SuperResolver.from_pretrained("owner/name", device="gpu")
    with pytest.raises(ArgumentError, match="dtype must be"):
        SuperResolver.from_pretrained("owner/name", device="cpu", dtype="fp8")  # type: ignore[arg-type]


def test_random_weights_are_never_used_silently(tmp_path: Path, config):
    with pytest.raises(ModelLoadError, match=r"has no config\.json and no model\.safetensors"):
        SuperResolver.from_pretrained(tmp_path)
    assert build_model(config.model).training  # what is made for training is not what from_pretrained returns
