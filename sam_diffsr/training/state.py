"""Checkpoints of a run: their files (safetensors, written atomically, nothing pickled) and how to resume.

Data order, crops, noise and learning rate are functions of the seed and the step. Therefore weights, averaged
weights, Adam's moments and the step are all that a run needs to resume exactly.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr.config import flatten, from_dict
from sam_diffsr.errors import ConfigError, ModelLoadError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.models.published import read_header
from sam_diffsr.training.config import TrainConfig

logger = logging.getLogger(__name__)

FORMAT_VERSION = "1"
FOLDER = "checkpoints"
_GROUPS = ("network", "ema", "frozen", "moments")
_FIXED_RUN_KEYS = ("run.seed", "run.start", "run.ema_decay", "run.precision")
"""The only keys of table ``run`` that must not change on resume."""
_DATA_FOLDERS = ("data.crops", "data.photos", "data.masks", "data.synthetic.photos")
"""Folders that may have moved since. A changed path is only logged; the contents are not compared."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint file; tensors that were read are on the CPU."""

    path: Path
    step: int
    """Number of finished steps."""
    stage: str
    """``encoder`` or ``denoiser``."""
    config: dict[str, Any]
    """The run's configuration, as written by ``to_dict``."""
    network: dict[str, Tensor]
    """Weights of the trained network."""
    ema: dict[str, Tensor]
    """Averaged weights of the same."""
    frozen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Weights of the encoder in stage 2; empty in stage 1."""
    moments: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Adam's state; keys are ``<parameter>/<entry>``."""
    scaler: dict[str, Any] | None = None
    """State of fp16's loss scaling."""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.path.absolute().parents[1]

    def train_config(self) -> TrainConfig:
        """The run's configuration, with the defaults of keys that its version did not have."""
        return from_dict(TrainConfig, self.config, where=f"config in {self.path}")


def write_checkpoint(checkpoint: Checkpoint, *, keep: int) -> None:
    """Write a checkpoint to its path, then delete the oldest ones of its folder beyond ``keep``."""
    tensors = {
        f"{group}:{name}": tensor.detach().to("cpu").contiguous().clone()
        for group in _GROUPS
        for name, tensor in cast("dict[str, Tensor]", getattr(checkpoint, group)).items()
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "step": str(checkpoint.step),
        "stage": checkpoint.stage,
        "config": json.dumps(checkpoint.config),
    }
    if checkpoint.scaler is not None:
        metadata["scaler"] = json.dumps(checkpoint.scaler)
    path = checkpoint.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write checkpoint {path}: {error}; earlier checkpoints are kept, free space and resume"
        ) from error
    for old in list_checkpoints(checkpoint.run)[:-keep]:
        old.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished checkpoints of processes that were killed while they saved."""
    for path in (folder / FOLDER).glob(".*.part.safetensors"):
        path.unlink(missing_ok=True)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of a step's checkpoint in a run folder."""
    return folder / FOLDER / f"step-{step:08d}.safetensors"


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    return sorted((folder / FOLDER).glob("step-*.safetensors"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest finished checkpoint of a run, or None."""
    return max(list_checkpoints(folder), default=None)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint file of this trainer, judged by its header."""
    return {"format_version", "step", "stage"} <= read_header(path)[1].keys()


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, or the newest one of a run folder.

    Raises:
        ModelLoadError: there is no checkpoint, it is damaged, or it was not written by this trainer.
    """
    source = Path(path)
    if source.is_dir():
        if (newest := latest_checkpoint(source)) is None:
            raise ModelLoadError(
                f"{source} has no finished checkpoint: expected {FOLDER}/step-*.safetensors in it"
            )
        source = newest
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    try:
        with safe_open(source, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            metadata = cast("dict[str, str]", file.metadata() or {})
            for key in cast("list[str]", file.keys()):
                group, _, name = key.partition(":")
                groups.get(group, {})[name] = cast("Tensor", file.get_tensor(key))
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(
            f"cannot read checkpoint {source}: {error}; delete it to resume from the one before"
        ) from error
    if metadata.get("format_version") != FORMAT_VERSION or not {"step", "stage", "config"} <= metadata.keys():
        raise ModelLoadError(f"{source} is not a training checkpoint of format {FORMAT_VERSION}")
    try:
        return Checkpoint(
            path=source,
            step=int(metadata["step"]),
            stage=metadata["stage"],
            config=_table(metadata["config"]),
            scaler=_table(metadata["scaler"]) if "scaler" in metadata else None,
            **groups,
        )
    except ValueError as error:
        raise ModelLoadError(
            f"the header of checkpoint {source} is damaged: {error}; resume from another one"
        ) from error


def find_checkpoint(folder: Path, resume: bool | str | os.PathLike[str]) -> Checkpoint | None:
    """Find the checkpoint to resume from; None starts a new run. ``resume`` is as in ``train``."""
    newest = latest_checkpoint(folder)
    if resume is False and newest is not None:
        raise ConfigError(f"{folder} already holds a run; resume it or choose another folder")
    if isinstance(resume, bool) or resume == "latest":
        return None if newest is None else read_checkpoint(newest)
    checkpoint = read_checkpoint(resume)
    is_same = checkpoint.run.resolve() == folder.resolve()
    if newest is not None and not (is_same and newest <= checkpoint_path(folder, checkpoint.step)):
        held = f"checkpoints that are newer than {checkpoint.path}" if is_same else "another run"
        raise ConfigError(f"{folder} holds {held} ({newest.name}); choose another folder to resume into")
    return checkpoint


def check_same_run(checkpoint: Checkpoint, stage: str, config: TrainConfig) -> None:
    """Check that a resumed run is the same experiment; it may be longer or run elsewhere.

    A folder may have moved, which is a warning. A folder where there was none, or none where there was one,
    is another experiment, which is an error that names every value that differs.
    """
    if checkpoint.stage != stage:
        raise ConfigError(f"{checkpoint.path} holds a run of stage {checkpoint.stage!r}, not {stage!r}")
    if checkpoint.step > config.run.steps:
        raise ConfigError(
            f"{checkpoint.path} has finished {checkpoint.step} steps, more than run.steps {config.run.steps}"
        )
    old, new = flatten(checkpoint.train_config()), flatten(config)
    changed: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after or (key.startswith(("validation.", "run.")) and key not in _FIXED_RUN_KEYS):
            continue
        difference, advice = f"{key} was {before!r}, is now {after!r}", ""
        if key == "diffusion.encoder":
            advice = "the encoder in the checkpoint is used"
        elif key in _DATA_FOLDERS and None not in (before, after):
            advice = "make sure that the data are the same"
        if advice:
            logger.warning("resuming %s: %s; %s", checkpoint.path, difference, advice)
        else:
            changed.append(difference)
    if changed:
        raise ConfigError(f"{checkpoint.path} holds a run of another configuration: {'; '.join(changed)}")


def _table(text: str) -> dict[str, Any]:
    """Parse a JSON object; raise ``ValueError`` for anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text[:40]!r}")
    return cast("dict[str, Any]", value)
