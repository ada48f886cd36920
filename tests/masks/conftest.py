"""A Segment Anything small enough for tests, with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn


def small_sam(*, seed: int = 1, spread: float = 0.5) -> Any:
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = Sam(
            image_encoder=ImageEncoderViT(
                img_size=64,
                patch_size=16,
                embed_dim=32,
                depth=2,
                num_heads=4,
                mlp_ratio=2,
                out_chans=32,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
                use_rel_pos=True,
                window_size=2,
                global_attn_indexes=(1,),
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=8
            ),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=3,
                transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=64),
                transformer_dim=32,
                iou_head_depth=3,
                iou_head_hidden_dim=32,
            ),
            pixel_mean=[123.675, 116.28, 103.53],
            pixel_std=[58.395, 57.12, 57.375],
        )
        for parameter in sam.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=spread)
    return sam.eval()


@pytest.fixture
def sam() -> Any:
    return small_sam()


@pytest.fixture
def unsure_sam() -> Any:
    """One whose masks are never stable, so that none is left."""
    return small_sam(spread=0.25)


@pytest.fixture
def photo() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)
