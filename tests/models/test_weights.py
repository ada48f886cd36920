"""The one checker of state dicts: it names what differs, and no more than ten of each kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
from sam_diffsr.models.weights import check_module_weights, check_state_dict

CONFIG = ModelConfig(
    encoder=EncoderConfig(blocks=2, channels=8, growth=4), denoiser=DenoiserConfig(dim=8, multipliers=(1, 2))
)


def weights() -> dict[str, Tensor]:
    return dict(build_model(CONFIG).state_dict())


def message(state_dict: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointMismatchError, match="the weights of here do not fit") as caught:
        check_state_dict(state_dict, CONFIG, source="here")
    return str(caught.value)


def test_weights_that_fit_in_any_floating_type() -> None:
    check_state_dict(weights(), CONFIG, source="here")
    check_state_dict({key: value.half() for key, value in weights().items()}, CONFIG, source="here")
    padded = ModelConfig(
        encoder=EncoderConfig(blocks=2, channels=8, growth=4, padding="reflect"), denoiser=CONFIG.denoiser
    )
    check_state_dict(weights(), padded, source="here")


def test_every_kind_of_difference_is_named() -> None:
    odd = weights()
    del odd["encoder.conv_last.bias"]
    odd["surprise"] = torch.zeros(1)
    odd["encoder.conv_hr.bias"] = torch.zeros(3)
    odd["encoder.conv_hr.weight"] = torch.zeros(8, 8, 3, 3, dtype=torch.int64)
    text = message(odd)
    assert "1 missing: encoder.conv_last.bias;" in text
    assert "1 unexpected: surprise;" in text
    assert "1 of the wrong shape: encoder.conv_hr.bias (3,) instead of (8,);" in text
    assert "1 not floating point: encoder.conv_hr.weight torch.int64;" in text


def test_no_more_than_ten_are_listed() -> None:
    text = message({})
    assert f"{len(weights())} missing: " in text
    listed = text.partition("missing: ")[2].partition(" ...")[0].split(", ")
    assert listed == sorted(weights())[:10]


def test_one_network_alone() -> None:
    encoder = build_model(CONFIG).encoder
    check_module_weights(encoder.state_dict(), encoder, source="a run")
    with pytest.raises(CheckpointMismatchError, match="the weights of a run do not fit"):
        check_module_weights(weights(), encoder, source="a run")
