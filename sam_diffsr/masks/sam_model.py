"""SAM's weights, the model built from them, its mask generator; the only importer of segment_anything.

The weights are read without unpickling code. Two publications exist: native ``.pth`` files, and
``facebook/sam-vit-*`` on the Hub under other tensor names.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from sam_diffsr.errors import CheckpointMismatchError, MissingDependencyError, ModelLoadError
from sam_diffsr.hub import HubOptions, download_model, refuse_misspelt_path

HUB_NAMES = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
}
"""Official repositories of the three published models."""

_WEIGHTS_NAME = "model.safetensors"
_NATIVE_NAME = re.compile(r"sam_vit_[bhl]_([0-9a-f]{6})\.pth")
_HUB_DUPLICATE = "prompt_encoder.shared_embedding."
_MLP = r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))"
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_RENAMES = (
    (r"^shared_image_embedding\.positional_embedding$", _POSITIONS),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.", "prompt_encoder.mask_downscaling."),
    (r"^mask_decoder\.upscale_", "mask_decoder.output_upscaling."),
    (r"(neck|mask_downscaling|output_upscaling)\.conv1\.", r"\1.0."),
    (r"(neck|mask_downscaling)\.layer_norm1\.|(output_upscaling)\.layer_norm\.", r"\1\2.1."),
    (r"(neck)\.conv2\.", r"\1.2."),
    (r"(neck)\.layer_norm2\.|(mask_downscaling|output_upscaling)\.conv2\.", r"\1\2.3."),
    (r"(mask_downscaling)\.layer_norm2\.", r"\1.4."),
    (r"(mask_downscaling)\.conv3\.", r"\1.6."),
    (_MLP + r"\.layers\.0\.", r"\1.layers.1."),
    (_MLP + r"\.proj_in\.", r"\1.layers.0."),
    (_MLP + r"\.proj_out\.", r"\1.layers.2."),
    (r"\.layer_norm", ".norm"),
)
"""Hub name to native name, applied in this order."""

# Statistics of ImageNet on the 0..255 scale; not part of the weights.
_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STD = (58.395, 57.12, 57.375)
_DECODER_HEADS = 8
"""Attention heads of the mask decoder; no tensor's shape tells them."""


def find_weights(name_or_path: str | os.PathLike[str], hub: HubOptions) -> Path:
    """Find or download the weights, see ``SamMaskGenerator.from_pretrained``; raises ``ModelLoadError``."""
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        file = path / (hub.subfolder or "") / _WEIGHTS_NAME
        if not file.is_file():
            raise ModelLoadError(
                f"{path} has no {file.relative_to(path)}; pass the .pth or .safetensors file itself"
            )
        return file
    if name not in HUB_NAMES:
        refuse_misspelt_path(name)
    repo_id = HUB_NAMES.get(name, name)
    if path.suffix in (".pth", ".safetensors") or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ModelLoadError(
            f"{name!r} is no file, folder, Hub id 'owner/name' or one of {', '.join(HUB_NAMES)}; "
            "check the path, or use graph, which needs no weights"
        )
    (file,) = download_model(repo_id, (_WEIGHTS_NAME,), options=hub)
    return file


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights as float32 tensors on the CPU, by native name.

    A published name (``sam_vit_b_01ec64.pth``) states the start of the file's MD5 sum, which is checked.
    Raises ``ModelLoadError``, or ``CheckpointMismatchError`` for the weights of something else.
    """
    if published := _NATIVE_NAME.fullmatch(path.name):
        md5 = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            for block in iter(partial(file.read, 1 << 20), b""):
                md5.update(block)
        if not (digest := md5.hexdigest()).startswith(published[1]):
            raise ModelLoadError(
                f"{path} is damaged or not what its name says: its MD5 sum starts with {digest[:6]}, "
                f"expected {published[1]}; download it again"
            )
    try:
        safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{path} holds more than tensors, or is damaged; nothing in it was run. Use the published weights"
        ) from error
    except Exception as error:  # a damaged stream can make the unpickler raise anything
        raise ModelLoadError(
            f"{path} is truncated or not a file of weights ({error}); download it again"
        ) from error
    items: dict[Any, Any] = cast("dict[Any, Any]", state) if isinstance(state, Mapping) else {}
    if not items or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in items.items()):
        raise CheckpointMismatchError(f"{path} is not a plain dictionary of tensors, as SAM's weights are")
    tensors = cast("dict[str, Tensor]", items)
    if any(key.startswith("vision_encoder.") for key in tensors):
        tensors = rename_keys(tensors)
    if not {"image_encoder.pos_embed", "mask_decoder.iou_token.weight"} <= tensors.keys():
        raise CheckpointMismatchError(
            f"{path} holds no weights of Segment Anything (vit_b, vit_l or vit_h): its names start with "
            f"{sorted(tensors)[:5]}"
        )
    return {key: value.to(torch.float32) for key, value in tensors.items()}


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the names of the official Hub weights into native ones."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return {key: value for key, value in renamed.items() if not key.startswith(_HUB_DUPLICATE)}


def import_segment_anything() -> Any:
    """Import segment_anything, and with it torchvision; raises ``MissingDependencyError``."""
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

    Raises ``CheckpointMismatchError`` for tensors that are missing, unexpected or of another shape.
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

    Its ``output_mode`` is always ``"uncompressed_rle"``; ``autocast`` is the type of the image encoder.
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
    from segment_anything import modeling  # pyright: ignore

    parts = cast("Any", modeling)
    width, _, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, r"image_encoder\.blocks\.(\d+)\.")
    # A block has 2 * side - 1 relative positions; blocks whose side is the grid's attend globally.
    tables = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    sides = [(len(table) + 1) // 2 for table in tables]
    windows = [side for side in sides if side != grid]
    prompt_width, embedding = state["image_encoder.neck.0.weight"].shape[0], (grid, grid)
    return parts.Sam(
        image_encoder=parts.ImageEncoderViT(
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
        prompt_encoder=parts.PromptEncoder(
            embed_dim=prompt_width,
            image_embedding_size=embedding,
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        ),
        mask_decoder=parts.MaskDecoder(
            num_multimask_outputs=len(state["mask_decoder.mask_tokens.weight"]) - 1,
            transformer=parts.TwoWayTransformer(
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
