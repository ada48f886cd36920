"""The reader of published checkpoints: layouts it takes, files it refuses."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models import (
    DenoiserConfig,
    EncoderConfig,
    ModelConfig,
    build_model,
    load_reference_checkpoint,
    read_reference_checkpoint,
)

CONFIG = ModelConfig(
    scale=2,
    encoder=EncoderConfig(blocks=3, channels=8, growth=4),
    denoiser=DenoiserConfig(dim=8, multipliers=(1, 3)),
)


def published_layout(prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Our own tensors, and the same under the published names."""
    ours = build_model(CONFIG).state_dict()
    return ours, {prefix + published_name(key): value for key, value in ours.items()}


def published_name(key: str) -> str:
    """The published name of one of our keys, spelt out independently of the reader's own table."""
    part = key.split(".")
    if part[0] == "encoder":
        if part[1] == "trunk":
            block, dense, conv = int(part[2]), int(part[4]) + 1, int(part[6]) + 1
            return f"rrdb.RRDB_trunk.{block}.RDB{dense}.conv{conv}.{part[-1]}"
        if part[1] == "upsample":
            return f"rrdb.upconv{int(part[2]) + 1}.{part[-1]}"
        return "rrdb." + {"conv_hr": "HRconv"}.get(part[1], part[1]) + f".{part[-1]}"
    if part[1] == "time_embedding":
        return f"denoise_fn.mlp.{ {'expand': 0, 'project': 2}[part[2]] }.{part[-1]}".replace(" ", "")
    if part[1] == "condition_projection":
        return f"denoise_fn.cond_proj.{part[-1]}"
    if part[1] == "final_block":
        return f"denoise_fn.final_conv.0.block.1.{part[-1]}"
    if part[1] == "final_conv":
        return f"denoise_fn.final_conv.1.{part[-1]}"
    if part[2] == "time" or part[1].startswith("mid"):
        return f"denoise_fn.mid_block{part[1][-1]}." + residual_name(part[2:])
    if part[3] == "downsample":
        return f"denoise_fn.downs.{part[2]}.2.conv.1.{part[-1]}"
    if part[3] == "upsample":
        return f"denoise_fn.ups.{part[2]}.2.conv.0.{part[-1]}"
    return f"denoise_fn.{part[1]}.{part[2]}.{int(part[3][-1]) - 1}." + residual_name(part[4:])


def residual_name(part: list[str]) -> str:
    if part[0] == "time":
        return f"mlp.1.{part[-1]}"
    if part[0] == "shortcut":
        return f"res_conv.{part[-1]}"
    return f"{part[0]}.block.1.{part[-1]}"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_layouts(tmp_path: Path, prefix: str, zipped: bool) -> None:
    ours, published = published_layout(prefix)
    published["betas"] = torch.rand(100)
    path = tmp_path / "model_ckpt_steps_1.ckpt"
    content = {"state_dict": {"model": published}, "global_step": 1, "optimizer_states": [{"state": {}}]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    config, state = load_reference_checkpoint(path)
    assert config == CONFIG
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], value) for key, value in ours.items())
    build_model(config).load_state_dict(state)


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no checkpoint at"):
        load_reference_checkpoint(tmp_path / "absent.ckpt")


class Payload:
    """Unpickling this would run a command."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("must-not-exist",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_not_run(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"model": Payload()}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelLoadError, match="was refused, because loading such a file can run code"):
        load_reference_checkpoint(path)
    assert not (tmp_path / "must-not-exist").exists()


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelLoadError, match=r"evil\.pkl"):
        load_reference_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 50, 2000])
def test_truncated_file(tmp_path: Path, keep: int, zipped: bool) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"model": published_layout()[1]}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelLoadError, match=r"cut\.ckpt"):
        load_reference_checkpoint(path)


def test_missing_unexpected_and_misshapen_keys_are_named(tmp_path: Path) -> None:
    _, published = published_layout()
    del published["rrdb.conv_last.bias"]
    published["rrdb.surprise"] = torch.zeros(1)
    published["rrdb.HRconv.bias"] = torch.zeros(3)
    path = save(tmp_path / "odd.ckpt", published)
    with pytest.raises(CheckpointMismatchError, match=r"1 missing: encoder\.conv_last\.bias;") as caught:
        load_reference_checkpoint(path)
    assert "encoder.surprise" in str(caught.value)
    assert "encoder.conv_hr.bias (3,) instead of (8,)" in str(caught.value)


def test_another_model(tmp_path: Path) -> None:
    path = save(tmp_path / "other.ckpt", {"state_dict": {"conv.weight": torch.zeros(1)}})
    with pytest.raises(CheckpointMismatchError, match="is not a SAM-DiffSR checkpoint"):
        load_reference_checkpoint(path)


def test_sizes_that_cannot_be_inferred(tmp_path: Path) -> None:
    _, published = published_layout()
    published["denoise_fn.cond_proj.weight"] = torch.zeros(8, 8, 6, 6)
    with pytest.raises(CheckpointMismatchError, match="condition kernel of 6"):
        load_reference_checkpoint(save(tmp_path / "scale.ckpt", published))


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}])
def test_no_state_dict(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointMismatchError, match="expected"):
        load_reference_checkpoint(save(tmp_path / "empty.ckpt", content))


def test_values_that_are_not_tensors(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointMismatchError, match=r"expected only tensors in its state dict, but \['step'\]"
    ):
        load_reference_checkpoint(save(tmp_path / "mixed.ckpt", {"weight": torch.zeros(1), "step": 3}))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_betas_are_read_if_the_file_has_them(prefix: str, tmp_path: Path) -> None:
    betas = torch.linspace(1e-4, 0.02, 7)
    _, published = published_layout(prefix)
    without = read_reference_checkpoint(save(tmp_path / "without.ckpt", published))
    assert without[2] is None
    published[f"{prefix}betas"] = betas
    config, _, read = read_reference_checkpoint(
        save(tmp_path / "with.ckpt", {"state_dict": {"model": published}})
    )
    assert config == CONFIG
    assert read is not None
    assert read.dtype == torch.float64
    assert torch.equal(read.float(), betas)
