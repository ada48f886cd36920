"""Builds SAM and its mask generator; the only importer of segment_anything (and so of torchvision)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sam_diffsr.errors import CheckpointMismatchError, MissingDependencyError

__all__ = ["build_sam", "import_segment_anything", "make_generator"]

# Statistics of ImageNet on the 0..255 scale; not part of the weights.
_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STD = (58.395, 57.12, 57.375)
_DECODER_HEADS = 8
"""Attention heads of the mask decoder; no tensor's shape tells them."""


def import_segment_anything() -> Any:
    """Import segment_anything, and with it torchvision.

    Raises:
        MissingDependencyError: one of them is missing, or torchvision does not fit torch.
    """
    try:
        import segment_anything  # pyright: ignore
    except ImportError as error:
        raise MissingDependencyError(
            f"SAM masks need segment-anything and torchvision ({error}); install them with: "
            "pip install segment-anything torchvision, or use GraphMaskGenerator"
        ) from error
    except Exception as error:  # a torchvision built for another torch fails in many ways
        raise MissingDependencyError(
            f"segment-anything or torchvision is installed but broken ({error}); install the "
            f"torchvision that belongs to torch {torch.__version__}: pip install --upgrade torch torchvision"
        ) from error
    return segment_anything  # pyright: ignore


def build_sam(state: Mapping[str, Tensor], *, source: str = "the file") -> nn.Module:
    """Build a ``Sam`` with weights by native name, whose shapes tell its sizes; errors name ``source``.

    Raises:
        CheckpointMismatchError: tensors are missing, unexpected or of another shape.
        MissingDependencyError: see ``import_segment_anything``.
    """
    import_segment_anything()
    try:
        # The meta device spends no memory and no random numbers on weights that are replaced at once.
        with torch.device("meta"):
            sam = _assemble(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointMismatchError(f"{source} lacks tensors of Segment Anything ({error})") from error
    try:
        sam.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:  # torch lists every key and shape, which may be hundreds
        problems = " ".join(str(error).split())
        shown = problems if len(problems) <= 600 else f"{problems[:600]} ..."
        raise CheckpointMismatchError(f"{source} does not fit Segment Anything: {shown}") from error
    sam.pixel_mean = torch.tensor(_PIXEL_MEAN).view(-1, 1, 1)
    sam.pixel_std = torch.tensor(_PIXEL_STD).view(-1, 1, 1)
    return sam.requires_grad_(False)


def make_generator(
    sam: nn.Module, options: Mapping[str, Any], device: torch.device, *, autocast: torch.dtype | None
) -> Any:
    """Make segment_anything's own generator, with the faults of the published wheel (1.0) mended.

    ``options`` are those of ``SamAutomaticMaskGenerator``; ``output_mode`` is always ``"uncompressed_rle"``.
    ``autocast`` is the type of the image encoder; ``None`` is float32.
    """
    package = import_segment_anything()
    from segment_anything.utils.amg import generate_crop_boxes  # pyright: ignore
    from segment_anything.utils.transforms import ResizeLongestSide  # pyright: ignore

    class Float32Coordinates(ResizeLongestSide):  # pyright: ignore
        """Coordinates in float32, since MPS has no float64."""

        def apply_coords(self, coords: Any, original_size: Any) -> Any:
            return super().apply_coords(coords, original_size).astype(np.float32)  # pyright: ignore

    class Predictor(package.SamPredictor):
        """Runs only the image encoder under autocast."""

        def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                super().set_torch_image(transformed_image, original_image_size)
            self.features = self.features.float()

    class Generator(package.SamAutomaticMaskGenerator):
        def _process_batch(self, *args: Any) -> Any:
            # The wheel's box suppression indexes CUDA boxes with CPU categories. Few numbers per mask are
            # left here, so all of them go to the CPU.
            data = cast(Any, super()._process_batch(*args))  # pyright: ignore
            for key, value in cast(list[tuple[str, Any]], list(data.items())):
                if isinstance(value, Tensor):
                    data[key] = value.cpu()
            return data

        def _process_crop(self, *args: Any) -> Any:
            # A crop without masks has crop_boxes of shape (0,), on which the wheel fails.
            data = cast(Any, super()._process_crop(*args))  # pyright: ignore
            data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
            return data

        def crop_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
            """``(width, height)`` of the image and of every crop that the model will see."""
            boxes: Any = generate_crop_boxes((height, width), self.crop_n_layers, self.crop_overlap_ratio)[0]
            return [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]

    generator: Any = Generator(sam, **{**options, "output_mode": "uncompressed_rle"})
    generator.predictor = Predictor(sam)
    if device.type == "mps":
        generator.predictor.transform = Float32Coordinates(cast(Any, sam).image_encoder.img_size)
    return generator


def _assemble(state: Mapping[str, Tensor]) -> Any:
    """Put a ``Sam`` together from segment_anything's modules."""
    from segment_anything.modeling import (  # pyright: ignore
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    width, _, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, r"image_encoder\.blocks\.(\d+)\.")
    # A block has 2 * side - 1 relative positions; blocks whose side is the grid's attend globally.
    tables = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    sides = [(len(table) + 1) // 2 for table in tables]
    windows = [side for side in sides if side != grid]
    prompt_width, embedding = state["image_encoder.neck.0.weight"].shape[0], (grid, grid)
    return cast(Any, Sam)(
        image_encoder=cast(Any, ImageEncoderViT)(
            img_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=width // tables[0].shape[1],
            mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
            out_chans=prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=windows[0] if windows else 0,
            global_attn_indexes=[index for index, side in enumerate(sides) if side == grid],
        ),
        prompt_encoder=cast(Any, PromptEncoder)(
            embed_dim=prompt_width,
            image_embedding_size=embedding,
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        ),
        mask_decoder=cast(Any, MaskDecoder)(
            num_multimask_outputs=len(state["mask_decoder.mask_tokens.weight"]) - 1,
            transformer=cast(Any, TwoWayTransformer)(
                depth=_count(state, r"mask_decoder\.transformer\.layers\.(\d+)\."),
                embedding_dim=prompt_width,
                num_heads=_DECODER_HEADS,
                mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            ),
            transformer_dim=prompt_width,
            iou_head_depth=_count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        ),
        pixel_mean=list(_PIXEL_MEAN),
        pixel_std=list(_PIXEL_STD),
    )


def _count(keys: Iterable[str], pattern: str) -> int:
    return max(int(match[1]) for key in keys if (match := re.match(pattern, key))) + 1
