"""Loads the trained weights that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models.esrgan import is_rrdbnet_file, load_rrdbnet_checkpoint
from sam_diffsr.pipeline.checkpoint import load_pretrained
from sam_diffsr.training.state import is_checkpoint, latest_checkpoint, read_checkpoint

__all__ = ["load_part"]


def load_part(origin: str, part: Literal["encoder", "denoiser"]) -> tuple[dict[str, Tensor], Path]:
    """The weights of one of the two networks; averaged ones where a run has them.

    Args:
        origin: a run folder (its newest checkpoint), a checkpoint, a model folder, a bundled name or a Hub
            id; for the encoder also an RRDBNet of the ESRGAN family (``.pth`` or ``.safetensors``).
        part: which network.

    Returns:
        Its tensors on the CPU, in float32, and where they come from.

    Raises:
        CheckpointMismatchError: there is no such network in it.
        ModelLoadError: nothing is there, or it cannot be read.
    """
    path = Path(origin).expanduser()
    if part == "encoder" and is_rrdbnet_file(path):
        return load_rrdbnet_checkpoint(path)[2], path
    if not is_checkpoint(path) and latest_checkpoint(path) is None:
        _, state_dict = load_pretrained(origin)
        prefix = f"{part}."
        weights = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        return {key: value.float() for key, value in weights.items()}, path
    checkpoint = read_checkpoint(path)
    if checkpoint.stage == part:
        return checkpoint.ema, checkpoint.path
    if part == "encoder":
        return checkpoint.frozen, checkpoint.path
    raise CheckpointMismatchError(
        f"{checkpoint.path} is of stage {checkpoint.stage!r} and has no denoiser; name a run of the denoiser "
        "or a model, or leave run.init out and set diffusion.encoder"
    )
