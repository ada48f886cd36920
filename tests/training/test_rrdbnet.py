"""An RRDBNet of the ESRGAN family as the encoder of a denoiser run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models import EncoderConfig, RRDBEncoder
from sam_diffsr.training import TrainConfig, train
from sam_diffsr.training.state import read_checkpoint
from sam_diffsr.training.trainer import read_weights


def published_names(encoder: RRDBEncoder) -> dict[str, Tensor]:
    def name(key: str) -> str:
        pattern = r"^trunk\.(\d+)\.dense\.(\d)\.convs\.(\d)"
        key = re.sub(pattern, lambda m: f"body.{m[1]}.rdb{int(m[2]) + 1}.conv{int(m[3]) + 1}", key)
        key = re.sub(r"^upsample\.(\d)", lambda m: f"conv_up{int(m[1]) + 1}", key)
        return key.replace("trunk_conv", "conv_body")

    return {name(key): value for key, value in encoder.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_denoiser_with_an_rrdbnet_as_encoder(
    make_config: Callable[..., TrainConfig], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"net{suffix}"
    encoder = RRDBEncoder(EncoderConfig(blocks=2, channels=6, growth=4), scale=2)
    weights = published_names(encoder)
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"params_ema": weights}, path)
    config = make_config(diffusion={"encoder": str(path)}, run={"steps": 1})
    train("denoiser", config, tmp_path / "run")
    frozen = read_checkpoint(tmp_path / "run").frozen
    assert all(torch.equal(frozen[key], value) for key, value in encoder.state_dict().items())


def test_rrdbnet_of_other_sizes_is_refused(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(published_names(RRDBEncoder(EncoderConfig(blocks=3, channels=6, growth=4), scale=2)), path)
    config = make_config(diffusion={"encoder": str(path)})
    with pytest.raises(CheckpointMismatchError, match=r"net\.pth do not fit .* 30 unexpected: trunk\.2\."):
        train("denoiser", config, tmp_path / "run")


def test_an_rrdbnet_has_no_denoiser(tmp_path: Path) -> None:
    torch.save(
        published_names(RRDBEncoder(EncoderConfig(blocks=2, channels=6), scale=2)), tmp_path / "net.pth"
    )
    with pytest.raises(ModelLoadError, match=r"net\.pth"):
        read_weights(str(tmp_path / "net.pth"), "denoiser")
