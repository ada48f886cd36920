"""The training loop of both stages."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.data import TrainingSource, open_source, prefetch
from sam_diffsr.errors import ArgumentError, NumericalError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.models import DiffSR
from sam_diffsr.training.compose import config_to_yaml
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.control import limit_threads, stop_flag
from sam_diffsr.training.launch import launched
from sam_diffsr.training.meter import Meter
from sam_diffsr.training.resume import find_checkpoint
from sam_diffsr.training.stages import Distance, StageName
from sam_diffsr.training.state import Checkpoint, checkpoint_path, latest_checkpoint, remove_leftovers
from sam_diffsr.training.tracker import TrackedLog, tracker_names
from sam_diffsr.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["CONFIG_NAME", "TrainResult", "Validate", "Validated", "train"]

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
"""File of a run folder with every value of its configuration."""
CROPS = "crops"
"""Folder of a run that ``data.photos`` are cut into."""


class Validated(Protocol):
    """What a validation gives back."""

    @property
    def scores(self) -> Mapping[str, float]:
        """Numbers to log."""
        ...

    @property
    def picture(self) -> NDArray[np.uint8] | None:
        """Picture ``(H, W, 3)`` to log, or None."""
        ...


Validate = Callable[[DiffSR], Validated]
"""Scores a model that has the averaged weights, in evaluation mode, under ``no_grad``."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of ``train`` ended."""

    step: int
    """Steps done in the whole run."""
    finished: bool
    """False when a signal or ``max_seconds`` stopped it; resume to go on."""
    checkpoint: Path
    """The newest checkpoint."""


def train(
    stage: StageName,
    config: TrainConfig,
    out_dir: str | os.PathLike[str],
    *,
    resume: bool | str | os.PathLike[str] = False,
    validate: Validate | None = None,
    distance: Distance | None = None,
    progress: bool | None = None,
) -> TrainResult:
    """Train one stage; checkpoints, ``log.jsonl`` and pictures go to ``out_dir``.

    On the CPU a run that was stopped and resumed ends with bit-identical weights. SIGTERM and SIGINT save
    and return; a killed process loses at most ``run.checkpoint_every`` steps. In several processes, each of
    which makes this call, all train together and the first one writes.

    Args:
        stage: ``encoder`` first, then ``denoiser``, whose ``diffusion.encoder`` names the first one's run.
        config: everything that the result depends on.
        out_dir: the run's folder.
        resume: True or ``"latest"`` goes on from the newest checkpoint in ``out_dir``, or starts if there is
            none; a path goes on from that checkpoint.
        validate: scores the averaged weights every ``run.validate_every`` steps and at the end, in the first
            process; :class:`sam_diffsr.evaluation.validation.FolderValidator` does it on ``validation.hr``.
        distance: perceptual distance for ``diffusion.perceptual``;
            :func:`sam_diffsr.evaluation.perceptual.lpips_network` makes it.
        progress: draw a bar on standard error; None draws it if that is a terminal.

    Raises:
        ArgumentError: unknown stage, or the config names a folder to validate on and ``validate`` is None.
        ConfigError: the folder holds a run and ``resume`` is False, the run is of another configuration, the
            device is not there, the batch cannot be shared, the denoiser has no encoder to stand on, or
            ``diffusion.perceptual`` is above 0 and ``distance`` is None.
        DataError: the training data are damaged or too small.
        MissingDependencyError: the extra ``train`` is not installed.
        ModelLoadError: a checkpoint, or weights to begin with, cannot be read or do not fit.
        NumericalError: the loss became NaN or infinite; the last good checkpoint is kept.
        OutputError: the folder cannot be written.
    """
    if stage not in get_args(StageName):
        raise ArgumentError(f"stage must be one of {', '.join(get_args(StageName))}; got {stage!r}")
    if config.validation.hr is not None and validate is None:
        raise ArgumentError(
            "config.validation.hr names a folder, but nothing validates on it; pass validate="
            "sam_diffsr.evaluation.validation.FolderValidator(...), or leave validation.hr out"
        )
    folder = Path(out_dir)
    checkpoint = find_checkpoint(folder, resume)
    trackers = tracker_names(config.run.tracker)
    with limit_threads(config.run.threads), launched(config, folder=folder, trackers=trackers) as accelerator:
        with accelerator.main_process_first():  # which cuts data.photos into crops for all
            source = open_source(
                config.data,
                scale=config.model.scale,
                seed=config.run.seed,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                cache=folder / CROPS,
            )
        run = _Run(stage, config, folder, accelerator=accelerator, checkpoint=checkpoint, distance=distance)
        with stop_flag(config.run.max_seconds) as stopping:
            return run(source, stopping=stopping, validate=validate, progress=progress)


class _Run:
    """A trainer with everything around it."""

    def __init__(
        self,
        stage: StageName,
        config: TrainConfig,
        folder: Path,
        *,
        accelerator: Accelerator,
        checkpoint: Checkpoint | None,
        distance: Distance | None,
    ) -> None:
        self.config, self.folder = config, folder
        self.accelerator: Any = accelerator
        self.writes = bool(accelerator.is_main_process)
        self.trainer = Trainer(
            stage, config, accelerator=accelerator, checkpoint=checkpoint, distance=distance
        )
        self.saved = latest_checkpoint(folder)
        if self.writes:
            _prepare_folder(folder, config)
            if checkpoint is not None:
                logger.info("resuming %s at step %d", checkpoint.path, checkpoint.step)
        self.log = TrackedLog(accelerator, folder, step=self.trainer.step, tracker=config.run.tracker)
        self.meter = Meter(self.trainer.device, skips=config.run.precision == "fp16")

    def __call__(
        self,
        source: TrainingSource,
        *,
        stopping: Callable[[], bool],
        validate: Validate | None,
        progress: bool | None,
    ) -> TrainResult:
        """Steps until the end, a signal or the time limit."""
        trainer, run = self.trainer, self.config.run
        try:
            ahead = prefetch(source.host_batch, start=trainer.step, stop=run.steps)
            with ahead as batches, self._bar(progress):
                while trainer.step < run.steps:
                    with self.meter.waiting():
                        batch = source.device_batch(next(batches), trainer.device)
                    loss, norm = trainer.train_step(batch)
                    self.meter.add(loss, norm, images=self.config.data.batch)
                    self.bar.update()
                    step, last = trainer.step, trainer.step == run.steps
                    if last or step % run.checkpoint_every == 0:
                        self._save()
                    elif step % run.log_every == 0:
                        self._report()
                    due = last or step % run.validate_every == 0
                    if validate is not None and due and self.writes and (last or not stopping()):
                        self._validate(validate)
                    if self._agreed(stopping()):
                        break
            saved = checkpoint_path(self.folder, trainer.step)
            if self.saved != saved:
                self._save()
        finally:
            self.log.close()
        return TrainResult(step=trainer.step, finished=trainer.step >= run.steps, checkpoint=saved)

    def _agreed(self, stop: bool) -> bool:
        """Whether any process is to stop: all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return stop
        if stop:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _report(self) -> None:
        """Log the means, or stop before numbers that are not finite reach a checkpoint."""
        record = self.meter.summary(reduce=lambda means: self.accelerator.reduce(means, reduction="mean"))
        if not record:
            return
        step = self.trainer.step
        if not all(math.isfinite(record[key]) for key in ("loss", "grad_norm")):
            raise NumericalError(
                f"the loss is not finite any more at step {step} ({record}); the last good checkpoint is "
                f"{latest_checkpoint(self.folder)}: begin a new run with run.init set to it and a lower "
                "optimizer.lr, or with run.precision fp32"
            )
        self.log.numbers(step, {**record, "lr": self.trainer.rate(step - 1)}, group="train")
        self.bar.set_postfix(loss=f"{record['loss']:.4g}", refresh=False)
        if self.writes:
            logger.info("step %d: %s", step, _readable(record))

    def _save(self) -> None:
        self._report()
        if self.writes:
            with self.meter.paused():
                self.trainer.save(self.folder)
        self.saved = checkpoint_path(self.folder, self.trainer.step)

    def _validate(self, validate: Validate) -> None:
        step = self.trainer.step
        with self.meter.paused(), torch.no_grad():
            outcome = validate(self.trainer.averaged_model())
            self.log.numbers(step, outcome.scores, group="validation")
            if outcome.picture is not None:
                self.log.picture(step, outcome.picture)
        logger.info("step %d: validation %s", step, _readable(outcome.scores))

    @contextlib.contextmanager
    def _bar(self, show: bool | None) -> Generator[None, None, None]:
        """A progress bar of the first process; messages are written above it."""
        from tqdm.auto import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        show = self.writes and (sys.stderr.isatty() if show is None else show)
        with contextlib.ExitStack() as stack:
            if show:
                stack.enter_context(logging_redirect_tqdm([logging.getLogger("sam_diffsr")]))
            run, step = self.config.run, self.trainer.step
            self.bar: Any = stack.enter_context(
                tqdm(total=run.steps, initial=step, desc=self.trainer.name, unit="step", disable=not show)
            )
            yield


def _readable(values: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.5g}" for key, value in values.items())


def _prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Make the run's folder, take away what a killed process left in it, and say what runs there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        with atomic_path(folder / CONFIG_NAME) as temporary:
            temporary.write_text(config_to_yaml(config), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot create the run folder {folder}: {error}") from error
