"""Checkpoints of a run: one safetensors file each, written atomically, nothing pickled.

Data order, windows, noise and learning rate are functions of the seed and the step, so the step is the
whole random state: weights, averaged weights, Adam's moments and the step resume a run exactly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.models.weights import check_module_weights

__all__ = [
    "Checkpoint",
    "checkpoint_path",
    "is_checkpoint",
    "latest_checkpoint",
    "list_checkpoints",
    "read_checkpoint",
    "remove_leftovers",
    "restore",
    "save_checkpoint",
]

FORMAT_VERSION = "1"
FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, on the CPU."""

    path: Path
    """Where it was read from."""
    step: int
    """Steps done."""
    stage: str
    """``encoder`` or ``denoiser``."""
    config: dict[str, Any]
    """The run's configuration, as written by ``to_dict``."""
    network: dict[str, Tensor]
    """Weights of the trained part."""
    ema: dict[str, Tensor]
    """Averaged weights of the trained part."""
    frozen: dict[str, Tensor]
    """Weights that the stage needs and does not train."""
    moments: dict[str, Tensor]
    """Adam's state, keys ``<parameter>/<entry>``."""
    scaler: dict[str, Any] | None = None
    """State of fp16's loss scaling."""


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    stage: str,
    config: Mapping[str, Any],
    network: nn.Module,
    ema: AveragedModel,
    frozen: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    keep: int,
    scaler: torch.amp.GradScaler | None = None,
) -> Path:
    """Write ``checkpoints/step-XXXXXXXX.safetensors`` and delete the oldest beyond ``keep``.

    ``scaler`` is the loss scaling of fp16, whose few numbers go into the header.

    Raises:
        OutputError: it cannot be written (disk full, no permission); older checkpoints stay as they are.
    """
    groups: dict[str, Mapping[str, Tensor]] = {
        "network": network.state_dict(),
        "ema": ema.module.state_dict(),
        "frozen": {} if frozen is None else frozen.state_dict(),
        "moments": _moments(network, optimizer),
    }
    tensors = {
        f"{group}:{name}": tensor.detach().to("cpu").contiguous().clone()
        for group, entries in groups.items()
        for name, tensor in entries.items()
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "step": str(step),
        "stage": stage,
        "config": json.dumps(config),
    }
    if scaler is not None:
        metadata["scaler"] = json.dumps(scaler.state_dict())
    path = checkpoint_path(folder, step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write checkpoint {path}: {error}; earlier checkpoints are kept, free space and resume"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / FOLDER / f"step-{step:08d}.safetensors"


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files of processes that were killed while they saved."""
    for path in (folder / FOLDER).glob(".*"):
        path.unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    return sorted((folder / FOLDER).glob("step-*.safetensors"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest finished checkpoint of a run, or None."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a file whose header says that this trainer wrote it."""
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            metadata = cast("dict[str, str]", file.metadata() or {})
    except (OSError, SafetensorError):
        return False
    return {"format_version", "step", "stage"} <= set(metadata)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, or the newest one of a run folder, onto the CPU.

    Raises:
        ModelLoadError: there is none, it is damaged, or it was not written by this trainer.
    """
    source = Path(path)
    if source.is_dir():
        newest = latest_checkpoint(source)
        if newest is None:
            raise ModelLoadError(
                f"{source} has no finished checkpoint: expected {FOLDER}/step-*.safetensors in it"
            )
        source = newest
    groups: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "frozen": {}, "moments": {}}
    try:
        with safe_open(source, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            metadata = cast("dict[str, str]", file.metadata() or {})
            for key in cast("list[str]", file.keys()):
                group, _, name = key.partition(":")
                if group in groups:
                    groups[group][name] = cast("Tensor", file.get_tensor(key))
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"cannot read checkpoint {source}: {error}") from error
    if metadata.get("format_version") != FORMAT_VERSION or not {"step", "stage", "config"} <= set(metadata):
        raise ModelLoadError(f"{source} is not a training checkpoint of format {FORMAT_VERSION}")
    try:
        step = int(metadata["step"])
        config = _table(metadata["config"])
        scaler = _table(metadata["scaler"]) if "scaler" in metadata else None
    except ValueError as error:
        raise ModelLoadError(
            f"the header of checkpoint {source} is damaged: {error}; resume from another one"
        ) from error
    return Checkpoint(
        path=source,
        step=step,
        stage=metadata["stage"],
        config=config,
        network=groups["network"],
        ema=groups["ema"],
        frozen=groups["frozen"],
        moments=groups["moments"],
        scaler=scaler,
    )


def _table(text: str) -> dict[str, Any]:
    """A JSON object; ``ValueError`` if it is anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text[:40]!r}")
    return cast("dict[str, Any]", value)


def restore(
    checkpoint: Checkpoint,
    *,
    network: nn.Module,
    ema: AveragedModel,
    frozen: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Put everything back, exactly.

    Raises:
        CheckpointMismatchError: keys or shapes are not those of the configured networks.
    """
    load_strict(network, checkpoint.network, checkpoint.path)
    load_strict(ema.module, checkpoint.ema, checkpoint.path)
    ema.n_averaged.fill_(checkpoint.step)
    if frozen is not None:
        load_strict(frozen, checkpoint.frozen, checkpoint.path)
    if scaler is not None and checkpoint.scaler is not None:
        scaler.load_state_dict(checkpoint.scaler)
    parameters = dict(network.named_parameters())
    for key, tensor in checkpoint.moments.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters:
            raise CheckpointMismatchError(f"{checkpoint.path} has Adam moments of an unknown weight {name!r}")
        parameter = parameters[name]
        value = tensor if tensor.ndim == 0 else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][entry] = value


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a network.

    Raises:
        CheckpointMismatchError: a key, shape or type differs.
    """
    check_module_weights(weights, module, source=str(path))
    module.load_state_dict(dict(weights))


def _moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{entry}": value
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
        for entry, value in cast("dict[str, Tensor]", optimizer.state[parameter]).items()
    }
