"""Chooses the checkpoint that a run resumes from and checks that it belongs to the same experiment."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sam_diffsr.config import flatten, from_dict
from sam_diffsr.errors import ConfigError
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.stages import StageName
from sam_diffsr.training.state import Checkpoint, latest_checkpoint, list_checkpoints, read_checkpoint

__all__ = ["LATEST", "check_same_run", "find_checkpoint"]

logger = logging.getLogger(__name__)

LATEST = "latest"

_FIXED_RUN_KEYS = frozenset(f"run.{key}" for key in ("seed", "start", "ema_decay", "precision"))
"""The only keys of table ``run`` that must not change on resume."""

_DATA_FOLDERS = frozenset({"data.crops", "data.photos", "data.masks"})
"""Folders that may have moved since. A changed path is only logged; the contents are not compared."""


def find_checkpoint(folder: Path, resume: bool | str | os.PathLike[str]) -> Checkpoint | None:
    """Find the checkpoint to resume from; None starts a new run.

    Args:
        folder: the run's folder.
        resume: False starts, True or ``latest`` takes the newest checkpoint of the folder, a path takes that
            checkpoint or that run's newest one.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is False, or it holds newer checkpoints than the
            requested one.
        ModelLoadError: the checkpoint cannot be read.
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
            "another folder to resume into"
        )
    return checkpoint


def check_same_run(checkpoint: Checkpoint, stage: StageName, config: TrainConfig) -> None:
    """Check that a resumed run is the same experiment; it may be longer or run elsewhere.

    A folder may have moved, which is a warning. A folder where there was none, or none where there was one,
    is another experiment.

    Raises:
        ConfigError: it is another experiment; the message names every value that differs.
    """
    if checkpoint.stage != stage:
        raise ConfigError(f"{checkpoint.path} holds a run of stage {checkpoint.stage!r}, not {stage!r}")

    # reading the old config fills in the defaults of keys that its version did not have
    old = flatten(from_dict(TrainConfig, checkpoint.config, where=f"config in {checkpoint.path}"))
    new = flatten(config)
    changed: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        free = key.startswith("validation.") or (key.startswith("run.") and key not in _FIXED_RUN_KEYS)
        if before == after or free:
            continue
        difference = f"{key} was {before!r}, is now {after!r}"
        if key == "diffusion.encoder":
            logger.warning(
                "resuming %s: %s; the encoder in the checkpoint is used", checkpoint.path, difference
            )
        elif key in _DATA_FOLDERS and None not in (before, after):
            logger.warning(
                "resuming %s: %s; make sure that the data are the same", checkpoint.path, difference
            )
        else:
            changed.append(difference)
    if changed:
        raise ConfigError(f"{checkpoint.path} holds a run of another configuration: {'; '.join(changed)}")
