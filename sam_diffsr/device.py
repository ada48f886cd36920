"""Which device a name stands for, for upscaling, training and mask generation alike."""

from __future__ import annotations

from typing import cast

import torch

from sam_diffsr.errors import ArgumentError

__all__ = ["resolve_device"]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for.

    Args:
        device: ``"auto"`` (CUDA, else MPS, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a
            ``torch.device``.

    Raises:
        ArgumentError: not a device, or one that this machine or this build of torch does not have.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N', 'mps' or a torch.device, got {device!r}"
        ) from error
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = cast("int | None", resolved.index)
        if (index or 0) >= count:
            raise ArgumentError(
                f"device {device!r} was asked for, but torch sees {count} CUDA devices; use device='auto', "
                "or install a CUDA build of torch and its driver"
            )
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ArgumentError("device 'mps' was asked for, but this machine has none; use device='auto'")
    return resolved
