"""Which checkpoint a run goes on from, and whether it is of the same experiment."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, cast

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.errors import ConfigError
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.stages import StageName
from sam_diffsr.training.state import Checkpoint, latest_checkpoint, list_checkpoints, read_checkpoint

__all__ = ["LATEST", "check_same_run", "find_checkpoint"]

logger = logging.getLogger(__name__)

LATEST = "latest"

_FREE_KEYS = frozenset(
    f"run.{key}"
    for key in (
        "steps",
        "init",
        "accumulate",
        "channels_last",
        "device",
        "threads",
        "tracker",
        "log_every",
        "checkpoint_every",
        "keep",
        "validate_every",
        "max_seconds",
    )
)
"""Values that may differ between a run and its continuation: how long, where, how it is watched."""

_MOVED_KEYS = frozenset({"data.crops", "data.photos", "data.masks", "diffusion.encoder"})
"""Folders that may have moved in between; what is in them is not compared, so another path is said."""


def find_checkpoint(folder: Path, resume: bool | str | os.PathLike[str]) -> Checkpoint | None:
    """The checkpoint to go on from; None if there is nothing to go on from yet.

    Args:
        folder: the run's folder.
        resume: False begins, True or ``latest`` takes the newest one of the folder, a path takes that file or
            that run's newest one.

    Raises:
        ConfigError: the folder holds a run and nothing was said of resuming, or holds newer checkpoints than
            the one that was asked for.
        ModelLoadError: it cannot be read.
    """
    newest = latest_checkpoint(folder)
    if resume is False:
        if newest is not None:
            raise ConfigError(f"{folder} already holds a run; resume it or choose another folder")
        return None
    if resume is True or resume == LATEST:
        return None if newest is None else read_checkpoint(newest)
    checkpoint = read_checkpoint(resume)
    newer = [path.name for path in list_checkpoints(folder) if path.stem > f"step-{checkpoint.step:08d}"]
    if newer:
        raise ConfigError(
            f"{folder} holds checkpoints that are newer than {checkpoint.path} ({', '.join(newer)}); choose "
            "another folder for the run that goes on from there"
        )
    return checkpoint


def check_same_run(checkpoint: Checkpoint, stage: StageName, config: TrainConfig) -> None:
    """A continuation may run longer or elsewhere, but not be another experiment.

    Folders may have moved: another path is a warning. One where there was none, or none where there was one,
    is another experiment.

    Raises:
        ConfigError: it would be; every value that differs is named.
    """
    if checkpoint.stage != stage:
        raise ConfigError(f"{checkpoint.path} holds a run of stage {checkpoint.stage!r}, not {stage!r}")
    # values that the checkpoint's version did not have yet are the defaults
    before = to_dict(from_dict(TrainConfig, checkpoint.config, where=f"config in {checkpoint.path}"))
    old, new = _flat(before), _flat(to_dict(config))
    differences = {
        key: f"{key} was {old.get(key)!r}, is now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in _FREE_KEYS and not key.startswith("validation.")
    }
    moved = {
        key
        for key in differences.keys() & _MOVED_KEYS
        if key == "diffusion.encoder" or None not in (old.get(key), new.get(key))
    }
    changed = [text for key, text in differences.items() if key not in moved]
    if changed:
        raise ConfigError(f"{checkpoint.path} holds a run of another configuration: {'; '.join(changed)}")
    for key in sorted(moved):
        note = (
            "the encoder stays the one in the checkpoint"
            if key == "diffusion.encoder"
            else "the run goes on with what is there now, which must be the same data"
        )
        logger.warning("resuming %s: %s; %s", checkpoint.path, differences[key], note)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        table = cast("dict[str, Any]", value) if isinstance(value, dict) else None
        flat |= {name: value} if table is None else _flat(table, f"{name}.")
    return flat
