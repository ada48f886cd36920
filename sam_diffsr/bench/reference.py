"""The networks as they were published, written out plainly: the yardstick of the benchmark.

float32, NCHW, the whole image at once, Mish from elementary operations, the condition projected at every
step. They share nothing with the fast path but the names of the weights, so the tests use them as a second
implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.models.config import ModelConfig


@dataclass(frozen=True)
class ReferenceProcedure:
    """The published networks as functions over the weights of a :class:`~sam_diffsr.models.DiffSR`."""

    config: ModelConfig
    """Sizes of the networks."""
    weights: Mapping[str, Tensor]
    """``DiffSR.state_dict()``, float32."""

    def features(self, lr: Tensor) -> list[Tensor]:
        """Block outputs and fused trunk of the encoder for ``lr`` ``(B, 3, h, w)`` in [0, 1]."""
        first = self._conv("encoder.conv_first", lr)
        outputs: list[Tensor] = []
        x = first
        for block in range(self.config.encoder.blocks):
            x = x + 0.2 * self._dense_blocks(f"encoder.trunk.{block}", x)
            outputs.append(x)
        return [*outputs, first + self._conv("encoder.trunk_conv", x)]

    def encoder_image(self, features: list[Tensor]) -> Tensor:
        """The encoder's image ``(B, 3, s*h, s*w)`` in [0, 1] for what :meth:`features` returned."""
        x = features[-1]
        for level in range(round(math.log2(self.config.scale))):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = functional.leaky_relu(self._conv(f"encoder.upsample.{level}", x), 0.2)
        x = functional.leaky_relu(self._conv("encoder.conv_hr", x), 0.2)
        return self._conv("encoder.conv_last", x).clamp(0.0, 1.0)

    def step(self, xt: Tensor, t: Tensor, features: list[Tensor]) -> Tensor:
        """Predict the noise ``(B, 3, H, W)`` of one step; projects the condition.

        Args:
            xt: ``(B, 3, H, W)`` noisy residual.
            t: ``(B,)`` int64 timesteps.
            features: from :meth:`features`.
        """
        scale = self.config.scale
        chosen = torch.cat(features[2::3], dim=1)
        projected = functional.conv_transpose2d(
            chosen, *self._pair("denoiser.condition_projection"), stride=scale, padding=scale // 2
        )
        time = self._time(t)
        levels = len(self.config.denoiser.multipliers)
        skips: list[Tensor] = []
        x = xt
        for level in range(levels):
            x = self._residuals(f"denoiser.downs.{level}.block", x, time)
            if level == 0:
                x = x + projected
            skips.append(x)
            if level < levels - 1:
                x = self._reflect_conv(f"denoiser.downs.{level}.downsample.conv", x, stride=2)
        x = self._residuals("denoiser.mid", x, time)
        for level in range(levels - 1):
            x = self._residuals(f"denoiser.ups.{level}.block", torch.cat((x, skips.pop()), dim=1), time)
            x = functional.conv_transpose2d(
                x, *self._pair(f"denoiser.ups.{level}.upsample"), stride=2, padding=1
            )
        x = _mish(self._reflect_conv("denoiser.final_block.conv", x))
        return self._conv("denoiser.final_conv", x)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def _conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._pair(name)
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def _reflect_conv(self, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, *self._pair(name), stride=stride)

    def _dense_blocks(self, name: str, x: Tensor) -> Tensor:
        for dense in range(3):
            seen = [x]
            for conv in range(4):
                growth = self._conv(f"{name}.dense.{dense}.convs.{conv}", torch.cat(seen, dim=1))
                seen.append(functional.leaky_relu(growth, 0.2))
            x = x + 0.2 * self._conv(f"{name}.dense.{dense}.convs.4", torch.cat(seen, dim=1))
        return x

    def _time(self, t: Tensor) -> Tensor:
        half = self.config.denoiser.dim // 2
        rate = math.log(10000) / (half - 1)
        frequencies = torch.exp(torch.arange(half, device=t.device) * -rate)
        angles = t[:, None] * frequencies[None, :]
        embedding = torch.cat((angles.sin(), angles.cos()), dim=-1)
        hidden = _mish(functional.linear(embedding, *self._pair("denoiser.time_embedding.expand")))
        return functional.linear(hidden, *self._pair("denoiser.time_embedding.project"))

    def _residuals(self, prefix: str, x: Tensor, time: Tensor) -> Tensor:
        for name in (f"{prefix}1", f"{prefix}2"):
            hidden = _mish(self._reflect_conv(f"{name}.block1.conv", x))
            hidden = hidden + functional.linear(_mish(time), *self._pair(f"{name}.time"))[:, :, None, None]
            hidden = _mish(self._reflect_conv(f"{name}.block2.conv", hidden))
            has_shortcut = f"{name}.shortcut.weight" in self.weights
            x = hidden + (self._conv(f"{name}.shortcut", x) if has_shortcut else x)
        return x


def _mish(x: Tensor) -> Tensor:
    return x * torch.tanh(functional.softplus(x))
