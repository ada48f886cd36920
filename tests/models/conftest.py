"""An independent RRDBNet, written with functions only, for the encoder and for the importer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

RRDBNet = Callable[..., Tensor]


def rrdbnet(
    weights: Mapping[str, Tensor], image: Tensor, *, blocks: int, padding: str = "constant"
) -> Tensor:
    """The published 4x network on an RGB image in [0, 1], with the names of its newer releases."""

    def conv(name: str, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode=padding)
        return functional.conv2d(padded, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def dense(name: str, x: Tensor) -> Tensor:
        x1 = leaky(conv(f"{name}.conv1", x))
        x2 = leaky(conv(f"{name}.conv2", torch.cat((x, x1), 1)))
        x3 = leaky(conv(f"{name}.conv3", torch.cat((x, x1, x2), 1)))
        x4 = leaky(conv(f"{name}.conv4", torch.cat((x, x1, x2, x3), 1)))
        return x + 0.2 * conv(f"{name}.conv5", torch.cat((x, x1, x2, x3, x4), 1))

    first = conv("conv_first", image)
    x = first
    for block in range(blocks):
        inner = x
        for index in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{index}", inner)
        x = x + 0.2 * inner
    x = first + conv("conv_body", x)
    for level in (1, 2):
        doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = leaky(conv(f"conv_up{level}", doubled))
    return conv("conv_last", leaky(conv("conv_hr", x)))


def rrdbnet_weights(*, blocks: int, channels: int, growth: int, inputs: int = 3) -> dict[str, Tensor]:
    """Random weights of that network under the names of its newer releases."""
    shapes = {"conv_first": (channels, inputs), "conv_body": (channels, channels)}
    for block in range(blocks):
        for index in (1, 2, 3):
            for number in range(1, 6):
                outputs = growth if number < 5 else channels
                seen = channels + (number - 1) * growth
                shapes[f"body.{block}.rdb{index}.conv{number}"] = (outputs, seen)
    shapes |= dict.fromkeys(("conv_up1", "conv_up2", "conv_hr"), (channels, channels))
    shapes["conv_last"] = (3, channels)
    weights: dict[str, Tensor] = {}
    for name, (outputs, seen) in shapes.items():
        weights[f"{name}.weight"] = torch.randn(outputs, seen, 3, 3) * (2 / (9 * seen)) ** 0.5
        weights[f"{name}.bias"] = torch.randn(outputs) * 0.1
    return weights


@pytest.fixture
def published_rrdbnet() -> RRDBNet:
    return rrdbnet


@pytest.fixture
def published_rrdbnet_weights() -> Callable[..., dict[str, Tensor]]:
    return rrdbnet_weights
