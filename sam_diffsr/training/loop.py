"""The training loop of both stages."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.config import check_choice
from sam_diffsr.data import TrainingSource, batches
from sam_diffsr.errors import ArgumentError, NumericalError
from sam_diffsr.files import atomic_path, writing
from sam_diffsr.models import DiffSR
from sam_diffsr.training.compose import config_to_yaml
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.launch import launched, stop_flag, worker_count
from sam_diffsr.training.log import CROPS, Meter, RunLog
from sam_diffsr.training.stages import Distance, StageName
from sam_diffsr.training.state import (
    check_same_run,
    checkpoint_path,
    find_checkpoint,
    latest_checkpoint,
    remove_leftovers,
)
from sam_diffsr.training.trainer import Trainer

logger = logging.getLogger(__name__)


Validate = Callable[[DiffSR], tuple[Mapping[str, float], NDArray[np.uint8] | None]]
"""Scores a model with the averaged weights, which is in evaluation mode, under ``no_grad``: gives numbers and
a picture ``(H, W, 3)``, or None, to log."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of :func:`train` ended."""

    step: int
    """Finished steps of the whole run."""
    finished: bool
    """False if a signal or ``max_seconds`` stopped the run; resume it to continue."""
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
    and return; a killed process loses at most ``run.checkpoint_every`` steps. Several processes that make
    this call train together, and the first one writes.

    Args:
        stage: ``encoder`` first, then ``denoiser``, whose ``diffusion.encoder`` names the first run.
        config: configuration of the run.
        out_dir: the run's folder.
        resume: True or ``"latest"`` continues from the newest checkpoint in ``out_dir``, or starts if there
            is none; a path continues from that checkpoint.
        validate: scores the averaged weights every ``run.validate_every`` steps and at the end, in the first
            process; :class:`sam_diffsr.evaluation.validation.FolderValidator` does so on ``validation.hr``.
        distance: perceptual distance for ``diffusion.perceptual``;
            :func:`sam_diffsr.evaluation.perceptual.lpips_loss` makes it.
        progress: show a progress bar on standard error; None shows it on a terminal.

    Raises:
        ArgumentError: unknown stage, or ``validation.hr`` is set and ``validate`` is None.
        ConfigError: the folder holds a run and ``resume`` is False, the run has another configuration, the
            device is not available, the tracker is unknown, the batch cannot be divided among the processes,
            the denoiser has no trained encoder, or ``diffusion.perceptual`` is above 0 and ``distance`` is
            None.
        DataError: the training data are damaged or too small.
        MissingDependencyError: the extra ``train``, or the tracker's package, is not installed.
        ModelLoadError: a checkpoint or initial weights cannot be read or do not fit.
        NumericalError: the loss became NaN or infinite; the last good checkpoint is kept.
        OutputError: the folder cannot be written, or the tracker does not start.
    """
    check_choice(stage, StageName, what="stage", error=ArgumentError)
    if config.validation.hr is not None and validate is None:
        raise ArgumentError(
            "config.validation.hr names a folder, but validate is None; pass validate="
            "sam_diffsr.evaluation.validation.FolderValidator(...), or leave validation.hr out"
        )
    if stage == "encoder" and config.diffusion.encoder is not None:
        logger.warning(
            "diffusion.encoder belongs to the denoiser's stage and is not used: the encoder is trained"
        )
    folder = Path(out_dir)
    checkpoint = find_checkpoint(folder, resume)
    if checkpoint is not None:
        check_same_run(checkpoint, stage, config)
    with launched(config, folder=folder) as accelerator:
        with accelerator.main_process_first():  # the first process cuts data.photos into crops for all
            source = TrainingSource(
                config.data,
                scale=config.model.scale,
                seed=config.run.seed,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                cache=folder / CROPS,
            )
        trainer = Trainer(stage, config, accelerator=accelerator, checkpoint=checkpoint, distance=distance)
        run = _Run(trainer, folder, validate=validate, progress=progress)
        if checkpoint is not None and accelerator.is_main_process:
            logger.info("resuming %s at step %d", checkpoint.path, trainer.step)
        with stop_flag(config.run.max_seconds) as stopping:  # also while the last checkpoint is saved
            return run.train(source, stopping)


class _Run:
    """A trainer with its log, checkpoints, validation and progress bar."""

    def __init__(
        self, trainer: Trainer, folder: Path, *, validate: Validate | None, progress: bool | None
    ) -> None:
        self.trainer, self.config, self.folder, self.validate = trainer, trainer.config, folder, validate
        self.accelerator: Any = trainer.accelerator
        self.saved = latest_checkpoint(folder)
        self.log: RunLog | None = None  # of the first process, which alone writes
        self.shows_bar = False
        if self.accelerator.is_main_process:
            self.shows_bar = sys.stderr.isatty() if progress is None else progress
            with writing("the run folder", folder):
                folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(folder)
                with atomic_path(folder / "config.yaml") as temporary:
                    temporary.write_text(config_to_yaml(self.config), encoding="utf-8")
            self.log = RunLog(folder, self.config, step=trainer.step, accelerator=self.accelerator)
        self.meter = Meter(self.accelerator, skips=self.config.run.precision == "fp16")

    def train(self, source: TrainingSource, stopping: Callable[[], bool]) -> TrainResult:
        """Train until the last step, a signal or the time limit."""
        from tqdm.auto import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        trainer, run = self.trainer, self.config.run
        start, hidden = trainer.step, not self.shows_bar
        with contextlib.ExitStack() as stack:
            if self.log is not None:
                stack.callback(self.log.close)
            if not hidden:  # messages stand above the bar
                stack.enter_context(logging_redirect_tqdm([logging.getLogger("sam_diffsr")]))
            bar = tqdm(desc=trainer.name, initial=start, total=run.steps, unit="step", disable=hidden)
            self.bar: Any = stack.enter_context(bar)
            coming = stack.enter_context(
                batches(
                    source,
                    start=trainer.step,
                    stop=run.steps,
                    device=trainer.device,
                    workers=worker_count(run.workers, trainer.device),
                )
            )
            while trainer.step < run.steps:
                with self.meter.timed("waiting"):
                    batch = next(coming)
                loss, norm = trainer.train_step(batch)
                self.meter.add(loss, norm, images=self.config.data.batch)
                self.bar.update()

                # log, save, validate and stop when it is time
                step, last = trainer.step, trainer.step == run.steps
                if last or step % run.checkpoint_every == 0:
                    self._save()
                elif step % run.log_every == 0:
                    self._report()
                if last or (step % run.validate_every == 0 and not stopping()):
                    self._validate()
                if self._any_process(stopping()):
                    break
            newest = checkpoint_path(self.folder, trainer.step)
            if self.saved != newest:
                self._save()
        return TrainResult(trainer.step, trainer.step >= run.steps, newest)

    def _any_process(self, stop: bool) -> bool:
        """Whether any process wants to stop, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return stop
        if stop:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _report(self) -> None:
        """Log the means since the last report; a loss that is not finite must not reach a checkpoint."""
        record = self.meter.summary()
        if not record:
            return
        step = self.trainer.step
        if not math.isfinite(record["loss"] + record["grad_norm"]):
            raise NumericalError(
                f"the loss is not finite at step {step} ({record}); the last good checkpoint is "
                f"{latest_checkpoint(self.folder)}: start a new run with run.init set to it and a lower "
                "optimizer.lr, or with run.precision fp32"
            )
        self.bar.set_postfix(loss=f"{record['loss']:.4g}", refresh=False)
        if self.log is not None:
            self.log.numbers(step, {**record, "lr": self.trainer.rate(step - 1)}, group="train")

    def _save(self) -> None:
        self._report()
        if self.log is not None:
            with self.meter.timed("paused"):
                self.trainer.save(self.folder)
        self.saved = checkpoint_path(self.folder, self.trainer.step)

    def _validate(self) -> None:
        if self.log is None or self.validate is None:
            return
        with self.meter.timed("paused"), torch.no_grad():
            scores, picture = self.validate(self.trainer.averaged_model())
            self.log.numbers(self.trainer.step, scores, group="validation")
            if picture is not None:
                self.log.picture(self.trainer.step, picture)
