"""Makes a model larger and keeps its function: more blocks, or more channels; training goes on from there.

    python examples/lab/grow.py small larger --blocks 14 --channels 48 --growth 24
    sam-diffsr train rrdb photo/rrdb --out run --set run.init=larger --set model.encoder.blocks=14 ...

New channels of the encoder start as fresh ones, but what was there before gives them no weight (as Net2Net,
arXiv 1511.05641, by zeros). The last convolution of every dense block in a new block is zero, so that a new
block multiplies by 1.2 and does nothing else; the convolution behind the trunk divides by that again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from sam_diffsr import SuperResolver
from sam_diffsr.models import build_model
from sam_diffsr.models.config import EncoderConfig


def grow(resolver: SuperResolver, blocks: int, channels: int, growth: int) -> SuperResolver:
    """A model of the same function with a larger encoder; the denoiser keeps its size."""
    before = resolver.config.model.encoder
    if blocks < before.blocks or (blocks - before.blocks) % 3:  # the denoiser sees every third
        raise SystemExit(f"expected {before.blocks} blocks and a multiple of 3 more, got {blocks}")
    if channels < before.channels or growth < before.growth:
        raise SystemExit(f"expected at least {before.channels} channels and a growth of {before.growth}")
    after = replace(before, blocks=blocks, channels=channels, growth=growth)
    config = replace(resolver.config, model=replace(resolver.config.model, encoder=after))
    torch.manual_seed(7)
    model = build_model(config.model)
    old, new = resolver.model.state_dict(), model.state_dict()
    old["encoder.trunk_conv.weight"] = old["encoder.trunk_conv.weight"] / 1.2 ** (blocks - before.blocks)

    for name, weight in new.items():
        if name == "denoiser.condition_projection.weight":
            _grow_projection(weight, old[name], before, after)
        elif name in old and weight.shape == old[name].shape:
            weight.copy_(old[name])
        elif name in old:
            _grow_weight(weight, old[name], before, after)
        else:  # a new block
            weight *= 0.0 if "convs.4" in name or name.endswith("bias") else 0.5
    model.load_state_dict(new)
    return SuperResolver(model, config, device="cpu", dtype="fp32")


def _places(count: int, before: EncoderConfig, after: EncoderConfig) -> Tensor:
    """Where ``count`` old input channels stand: the block's input, then what each layer added."""
    index = torch.arange(count)
    added = (index - before.channels).clamp(min=0)
    layer, place = added // before.growth, added % before.growth
    return torch.where(index < before.channels, index, after.channels + layer * after.growth + place)


def _grow_weight(weight: Tensor, old: Tensor, before: EncoderConfig, after: EncoderConfig) -> None:
    """Put an old weight or bias into a new one, where old outputs get nothing from new inputs."""
    rows = len(old)
    weight[:rows] = 0
    if old.ndim == 1:
        weight[:rows] = old
    else:
        weight[:rows, _places(old.shape[1], before, after)] = old


def _grow_projection(weight: Tensor, old: Tensor, before: EncoderConfig, after: EncoderConfig) -> None:
    """The same for the denoiser's view of the features; a fused trunk stays the last of them."""
    features = torch.split(old, before.channels)
    fresh = torch.split(weight, after.channels)
    kept = len(features) - (before.condition_indices[-1] == before.blocks)
    weight.zero_()
    for feature, target in zip(features[:kept], fresh, strict=False):
        target[: before.channels] = feature
    for feature in features[kept:]:
        fresh[-1][: before.channels] = feature


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    for name in ("--blocks", "--channels", "--growth"):
        parser.add_argument(name, type=int, help="default: as they are")
    args = parser.parse_args()
    model = SuperResolver.from_pretrained(args.source, device="cpu", dtype="fp32")
    sizes = model.config.model.encoder
    wanted = [getattr(args, name) or getattr(sizes, name) for name in ("blocks", "channels", "growth")]
    grow(model, *wanted).save_pretrained(args.target)
