"""Published checkpoint to a folder that loads, with the settings of its training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sam_diffsr.diffusion import NoiseSchedule, ScheduleConfig
from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError, OutputError
from sam_diffsr.models import EncoderConfig, RRDBEncoder, load_reference_checkpoint, pad_to_fit
from sam_diffsr.pipeline import SuperResolver, load_pretrained
from sam_diffsr.pipeline.checkpoint import convert_checkpoint


def with_betas(golden_dir: Path, target: Path, betas: torch.Tensor | None) -> Path:
    content = torch.load(golden_dir / "reference_tiny.ckpt", map_location="cpu", weights_only=True)
    tensors = content["state_dict"]["model"]
    if betas is None:
        del tensors["betas"]
    else:
        tensors["betas"] = betas
    torch.save(content, target)
    return target


def esrgan_names(encoder: RRDBEncoder) -> dict[str, torch.Tensor]:
    """The weights under the names of ESRGAN's own code."""
    names = (("trunk.", "RRDB_trunk."), (".dense.", ".RDB"), (".convs.", ".conv"), ("upsample.", "upconv"))
    tensors: dict[str, torch.Tensor] = {}
    for key, value in encoder.state_dict().items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        key = re.sub(r"(RDB|conv|upconv)(\d)\.", lambda found: f"{found[1]}{int(found[2]) + 1}.", key)
        tensors[key.replace("conv_hr", "HRconv")] = value
    return tensors


def test_the_folder_holds_the_weights_and_their_settings(golden_dir: Path, tmp_path: Path) -> None:
    written = convert_checkpoint(golden_dir / "reference_tiny.ckpt", tmp_path / "model")
    config, state_dict = load_pretrained(tmp_path / "model")
    assert config == written
    assert config.normalization.lr_up_levels == 256
    assert config.modulation == "released"
    assert config.schedule == ScheduleConfig(timesteps=20, name="cosine")
    assert (config.sampling.sampler, config.sampling.steps, config.sampling.start) == ("ddpm", 20, None)
    _, tensors = load_reference_checkpoint(golden_dir / "reference_tiny.ckpt")
    assert all(torch.equal(state_dict[name], tensors[name]) for name in tensors)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Converted from the published checkpoint `reference_tiny.ckpt`" in card


def test_half_precision(golden_dir: Path, tmp_path: Path) -> None:
    convert_checkpoint(golden_dir / "reference_tiny.ckpt", tmp_path, dtype="fp16")
    assert {value.dtype for value in load_pretrained(tmp_path)[1].values()} == {torch.float16}


def test_a_checkpoint_is_not_replaced_by_its_own_conversion(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    encoder = RRDBEncoder(EncoderConfig(blocks=2, channels=8, growth=4), scale=4)
    save_file(esrgan_names(encoder), source)
    before = source.read_bytes()
    with pytest.raises(OutputError, match=r"would replace .*model\.safetensors itself; choose another"):
        convert_checkpoint(source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert source.read_bytes() == before


def test_another_schedule_is_recognised(golden_dir: Path, tmp_path: Path) -> None:
    linear = NoiseSchedule.from_config(ScheduleConfig(timesteps=30, name="linear")).betas
    source = with_betas(golden_dir, tmp_path / "x.ckpt", linear)
    assert convert_checkpoint(source, tmp_path / "m").schedule.name == "linear"


def test_without_betas_the_published_schedule_is_taken(golden_dir: Path, tmp_path: Path) -> None:
    source = with_betas(golden_dir, tmp_path / "x.ckpt", None)
    assert convert_checkpoint(source, tmp_path / "m").schedule == ScheduleConfig()


def test_unknown_betas_are_refused(golden_dir: Path, tmp_path: Path) -> None:
    source = with_betas(golden_dir, tmp_path / "x.ckpt", torch.linspace(0.1, 0.2, 20))
    with pytest.raises(
        CheckpointMismatchError, match=r"20 betas of .*x\.ckpt .* none of the schedules cosine"
    ):
        convert_checkpoint(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_model_of_this_library_is_refused(tmp_path: Path) -> None:
    SuperResolver.from_pretrained("small", device="cpu").save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointMismatchError, match="is a model of this library"):
        convert_checkpoint(tmp_path / "own" / "model.safetensors", tmp_path / "out")
    metadata = {"format_version": "1", "step": "3", "stage": "encoder", "config": "{}"}
    save_file({"network:x": torch.zeros(1)}, tmp_path / "step.safetensors", metadata=metadata)
    with pytest.raises(CheckpointMismatchError, match="is a checkpoint of a training run; make a"):
        convert_checkpoint(tmp_path / "step.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.ckpt").touch()
    for source, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "empty.ckpt", "damaged, empty or no checkpoint"),
    ):
        with pytest.raises(ModelLoadError, match=message):
            convert_checkpoint(source, tmp_path / "x")
    with pytest.raises(ModelLoadError, match="no checkpoint at"):
        convert_checkpoint(tmp_path / "gone.ckpt", tmp_path / "m")


def test_an_rrdbnet_gives_the_encoders_image_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = RRDBEncoder(EncoderConfig(blocks=2, channels=8, growth=4), scale=4)
    tensors = esrgan_names(encoder)
    torch.save({"params_ema": tensors}, tmp_path / "net.pth")
    config = convert_checkpoint(tmp_path / "net.pth", tmp_path / "model")
    assert config.sampling.steps == 0
    assert "The denoiser is not trained" in (tmp_path / "model" / "README.md").read_text()
    lr = torch.rand(1, 3, 9, 8)
    result = SuperResolver.from_pretrained(tmp_path / "model", device="cpu").upscale_tensor(lr, seeds=[0])
    with torch.no_grad():
        expected = encoder(pad_to_fit(lr, config.model))[..., :36, :32].clamp(0, 1)
    torch.testing.assert_close(result, expected)
