"""RRDBNet files of the ESRGAN family: names, wrappers, the same image as the published network, bad files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models import RRDBEncoder, load_rrdbnet_checkpoint
from sam_diffsr.models.published import is_rrdbnet_file

SIZES = {"blocks": 3, "channels": 8, "growth": 4}


def old_name(key: str) -> str:
    """The name of the first releases for one of the newer ones."""
    key = re.sub(r"^body\.(\d+)\.rdb(\d)\.", r"RRDB_trunk.\1.RDB\2.", key)
    for new, old in (("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv")):
        key = key.replace(new, old)
    return key


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("names", ["new", "old"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_encoder_gives_the_published_image(
    suffix, names, dtype, tmp_path, published_rrdbnet, published_rrdbnet_weights
) -> None:
    weights = {key: value.to(dtype) for key, value in published_rrdbnet_weights(**SIZES).items()}
    named = {old_name(key) if names == "old" else key: value for key, value in weights.items()}
    path = tmp_path / f"net{suffix}"
    save_file(named, path) if suffix == ".safetensors" else torch.save(named, path)
    assert is_rrdbnet_file(path)
    config, scale, state_dict = load_rrdbnet_checkpoint(path)
    assert (config.blocks, config.channels, config.growth, config.padding, scale) == (3, 8, 4, "zeros", 4)
    encoder = RRDBEncoder(config, scale=scale)
    encoder.load_state_dict(state_dict)
    lr = torch.rand(2, 3, 7, 5)
    expected = published_rrdbnet({key: value.float() for key, value in weights.items()}, lr, blocks=3)
    with torch.no_grad():
        torch.testing.assert_close(encoder(lr), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", ["params", "params_ema"])
def test_wrappers_and_prefixes(prefix: str, wrapper: str, tmp_path: Path, published_rrdbnet_weights) -> None:
    weights = {prefix + key: value for key, value in published_rrdbnet_weights(**SIZES).items()}
    content: dict[str, Any] = {wrapper: weights}
    if wrapper == "params_ema":
        content["params"] = {key: torch.zeros_like(value) for key, value in weights.items()}
    torch.save(content, tmp_path / "net.pth")
    state_dict = load_rrdbnet_checkpoint(tmp_path / "net.pth")[2]
    assert torch.equal(state_dict["conv_first.weight"], weights[f"{prefix}conv_first.weight"])


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(weights, path)
    return path


def test_other_networks_are_refused(tmp_path: Path, published_rrdbnet_weights) -> None:
    path = tmp_path / "net.pth"
    with pytest.raises(CheckpointMismatchError, match="is not an RRDBNet of the ESRGAN family"):
        load_rrdbnet_checkpoint(saved(path, {"features.0.weight": torch.zeros(1)}))
    folded = published_rrdbnet_weights(**SIZES, inputs=12)
    with pytest.raises(CheckpointMismatchError, match=r"takes 12 input channels, expected 3 \(RGB\)"):
        load_rrdbnet_checkpoint(saved(path, folded))
    same_size = {key: value for key, value in published_rrdbnet_weights(**SIZES).items() if "_up" not in key}
    with pytest.raises(CheckpointMismatchError, match="enlarges 1x, expected 2x, 4x or 8x"):
        load_rrdbnet_checkpoint(saved(path, same_size))
    odd = published_rrdbnet_weights(**SIZES)
    del odd["conv_hr.bias"]
    odd["body.0.rdb1.conv1x1.weight"] = torch.zeros(1)
    with pytest.raises(
        CheckpointMismatchError, match=r"1 missing: conv_hr\.bias; 1 unexpected: body\.0\.rdb1"
    ):
        load_rrdbnet_checkpoint(saved(path, odd))
    shallow = {key: value for key, value in published_rrdbnet_weights(**SIZES).items() if "body.1" not in key}
    with pytest.raises(CheckpointMismatchError, match=r"30 missing: trunk\.1\."):
        load_rrdbnet_checkpoint(saved(path, shallow))


class Payload:
    """Unpickling this would make a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("must-not-exist",)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match="no checkpoint at"):
        load_rrdbnet_checkpoint("absent.pth")
    torch.save({"params": Payload()}, "evil.pth")
    with pytest.raises(ModelLoadError, match="was refused, because loading such a file can run code"):
        load_rrdbnet_checkpoint("evil.pth")
    assert not Path("must-not-exist").exists()
    Path("cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ModelLoadError, match=r"cut\.safetensors cannot be read: .*; download it again"):
        load_rrdbnet_checkpoint("cut.safetensors")


def test_files_that_are_not_taken_for_an_rrdbnet(tmp_path: Path) -> None:
    save_file({"encoder.conv_first.weight": torch.zeros(1)}, tmp_path / "ours.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"{")
    for name in ("ours.safetensors", "cut.safetensors", "absent.safetensors", "absent.pth", "folder"):
        assert not is_rrdbnet_file(tmp_path / name)
