"""Give a trained model three more blocks of its encoder, so that training goes on from where it is.

Usage: python examples/deepen.py MODEL OUT [--blocks 3]

MODEL is what ``SuperResolver.from_pretrained`` takes; OUT is a model folder, for ``run.init`` of a training.
The new blocks come last in the trunk. Each starts as a multiplication by 1.2, which is what a block does
whose convolutions add nothing, and the next convolution takes that back: the encoder's image is as before.
With three blocks more the denoiser sees one output more, with weights of zero, and predicts what it did.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from sam_diffsr.models import build_model
from sam_diffsr.models.rrdb import RRDB
from sam_diffsr.pipeline.checkpoint import load_pretrained, save_pretrained_folder

STEP = 3
"""The denoiser sees the output of every third block."""


def main() -> None:
    """Read the options, then the model; write the deeper one."""
    parser = argparse.ArgumentParser(description="Give a trained model more blocks of its encoder.")
    parser.add_argument("model", help="bundled name, folder, file or Hub id")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--blocks", type=int, default=STEP, help=f"how many more, a multiple of {STEP}")
    options = parser.parse_args()
    if options.blocks < 1 or options.blocks % STEP:
        parser.error(f"--blocks must be a positive multiple of {STEP}, got {options.blocks}")

    config, weights = load_pretrained(options.model)
    old = config.model.encoder
    new = replace(old, blocks=old.blocks + options.blocks)
    if old.blocks not in old.condition_indices:
        parser.error(f"the denoiser of {options.model} does not see the fused trunk; its depth cannot grow")
    config = replace(config, model=replace(config.model, encoder=new))
    deeper = build_model(config.model)
    with torch.no_grad():
        for block in list(deeper.encoder.trunk)[old.blocks :]:
            assert isinstance(block, RRDB)
            for dense in block.dense:
                dense.get_parameter("convs.4.weight").zero_()
                dense.get_parameter("convs.4.bias").zero_()
    state = deeper.state_dict()
    state.update({key: value.float() for key, value in weights.items()})

    state["encoder.trunk_conv.weight"] /= 1.2**options.blocks
    seen = state["denoiser.condition_projection.weight"]  # (inputs, outputs, k, k); inputs end with the trunk
    channels = new.channels
    added = seen.new_zeros(channels * options.blocks // STEP, *seen.shape[1:])
    state["denoiser.condition_projection.weight"] = torch.cat((seen[:-channels], added, seen[-channels:]))
    save_pretrained_folder(options.out, config, state, card=None)


if __name__ == "__main__":
    main()
