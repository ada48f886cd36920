"""Finds and reads the weights of Segment Anything, without unpickling code.

Two publications exist: native ``.pth`` files, and ``facebook/sam-vit-*`` on the Hub under other tensor names.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.hub import HubOptions, download_model

__all__ = ["HUB_NAMES", "find_weights", "read_weights", "rename_keys"]

HUB_NAMES = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
}
"""Official repositories of the three published models."""

_WEIGHTS_NAME = "model.safetensors"
_NATIVE_NAME = re.compile(r"sam_vit_[bhl]_([0-9a-f]{6})\.pth")
_SHOWN = 5

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


def find_weights(name_or_path: str | os.PathLike[str], hub: HubOptions) -> Path:
    """Find the file of weights, see ``SamMaskGenerator.from_pretrained``, or download it from the Hub.

    Raises:
        ModelLoadError: no such file, folder or repository, or the download failed.
    """
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
    repo_id = HUB_NAMES.get(name, name)
    if path.suffix in (".pth", ".safetensors") or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ModelLoadError(
            f"{name!r} is no file, folder, Hub id 'owner/name' or one of {', '.join(HUB_NAMES)}; "
            "check the path"
        )
    (file,) = download_model(repo_id, (_WEIGHTS_NAME,), options=hub)
    return file


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights as float32 tensors on the CPU, by native name.

    A published name (``sam_vit_b_01ec64.pth``) states the start of the file's MD5 sum, which is checked.

    Raises:
        ModelLoadError: the file is damaged, holds more than tensors, or is not the published one.
        CheckpointMismatchError: it holds other weights.
    """
    published = _NATIVE_NAME.fullmatch(path.name)
    if published:
        md5 = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                md5.update(block)
        digest = md5.hexdigest()
        if not digest.startswith(published[1]):
            raise ModelLoadError(
                f"{path} is damaged or not what its name says: its MD5 sum starts with {digest[:6]}, "
                f"expected {published[1]}; download it again"
            )
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{path} holds more than tensors, or is damaged; nothing in it was run. Use the published weights"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ModelLoadError(
            f"{path} is truncated or not a file of weights ({error}); download it again"
        ) from error
    items: dict[Any, Any] = cast("dict[Any, Any]", state) if isinstance(state, Mapping) else {}
    if not items or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in items.items()):
        raise CheckpointMismatchError(f"{path} is not a plain dictionary of tensors, as SAM's weights are")
    tensors = cast("dict[str, Tensor]", items)
    if any(key.startswith("vision_encoder.") for key in tensors):
        tensors = rename_keys(tensors)
    if "image_encoder.pos_embed" not in tensors or "mask_decoder.iou_token.weight" not in tensors:
        raise CheckpointMismatchError(
            f"{path} holds no weights of Segment Anything (vit_b, vit_l or vit_h): its names start with "
            f"{sorted(tensors)[:_SHOWN]}"
        )
    return {key: value.to(torch.float32) for key, value in tensors.items()}


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the names of the official Hub weights into native ones."""

    def native(key: str) -> str:
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        return key

    return {native(key): value for key, value in state.items() if not key.startswith(_HUB_DUPLICATE)}
