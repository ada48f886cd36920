"""Appends blocks to a model's encoder that change nothing at first; training goes on from there.

    python examples/lab/deepen.py photo deeper 11
    sam-diffsr train rrdb photo/rrdb --out run --set model.encoder.blocks=11 --set run.init=deeper

The last convolution of every new dense block is zero, so that a new block multiplies by 1.2 and does nothing
else; the convolution behind the trunk divides by that again. The denoiser gives no weight to new features.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from sam_diffsr import SuperResolver
from sam_diffsr.models import build_model


def deepen(resolver: SuperResolver, blocks: int) -> SuperResolver:
    """A model of the same function whose encoder has more blocks."""
    before = resolver.config.model.encoder
    if blocks < before.blocks or (blocks - before.blocks) % 3:  # the denoiser sees every third
        raise SystemExit(f"expected {before.blocks} blocks and a multiple of 3 more, got {blocks}")
    encoder = replace(before, blocks=blocks)
    config = replace(resolver.config, model=replace(resolver.config.model, encoder=encoder))
    torch.manual_seed(7)
    model = build_model(config.model)
    old, weights = resolver.model.state_dict(), model.state_dict()
    for name in weights.keys() - old.keys():
        weights[name] *= 0.0 if "convs.4" in name or name.endswith("bias") else 0.5
    old["encoder.trunk_conv.weight"] /= 1.2 ** (blocks - before.blocks)

    # Where the denoiser sees the fused trunk, it is the last feature.
    features = old["denoiser.condition_projection.weight"].split(encoder.channels)
    kept = len(features) - (encoder.condition_indices[-1] == blocks)
    new = [torch.zeros_like(features[0])] * (len(encoder.condition_indices) - len(features))
    old["denoiser.condition_projection.weight"] = torch.cat([*features[:kept], *new, *features[kept:]])
    model.load_state_dict(weights | old)
    return SuperResolver(model, config, device="cpu", dtype="fp32")


if __name__ == "__main__":
    source, target, count = sys.argv[1:]
    deepen(SuperResolver.from_pretrained(source, device="cpu"), int(count)).save_pretrained(target)
