"""The training loop of both stages."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sam_diffsr.config import to_dict
from sam_diffsr.data.source import HostBatch, TrainingSource, open_source
from sam_diffsr.errors import ArgumentError, CheckpointMismatchError, ConfigError, NumericalError, OutputError
from sam_diffsr.models import DiffSR, build_model
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.control import limit_threads, mix_seed, pick_device, stop_flag
from sam_diffsr.training.log import RunLog
from sam_diffsr.training.meter import Meter
from sam_diffsr.training.stages import DenoiserStage, EncoderStage, Stage, StageName
from sam_diffsr.training.state import (
    latest_checkpoint,
    list_checkpoints,
    load_strict,
    read_checkpoint,
    restore,
    save_checkpoint,
)

__all__ = ["TrainResult", "Validate", "train"]

logger = logging.getLogger(__name__)

Validate = Callable[[DiffSR], dict[str, float]]
"""Scores a model that has the averaged weights, in evaluation mode, under ``no_grad``."""

FREE_RUN_KEYS = frozenset(
    {
        "steps",
        "device",
        "threads",
        "log_every",
        "checkpoint_every",
        "keep",
        "validate_every",
        "max_seconds",
        "channels_last",
    }
)
"""Keys of ``run`` that may differ between a run and its continuation."""


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
    resume: bool = False,
    validate: Validate | None = None,
) -> TrainResult:
    """Train one stage; checkpoints and ``log.jsonl`` go to ``out_dir``.

    On the CPU a run that was stopped and resumed ends with bit-identical weights. SIGTERM and SIGINT save
    and return; a killed process loses at most ``run.checkpoint_every`` steps.

    Args:
        stage: ``encoder`` first, then ``denoiser``, whose ``diffusion.encoder`` names the first one's run.
        config: everything that the result depends on.
        out_dir: the run's folder.
        resume: go on from the newest checkpoint in ``out_dir``, or start if there is none.
        validate: scores the averaged weights every ``run.validate_every`` steps and at the end.

    Raises:
        ArgumentError: unknown stage.
        ConfigError: the folder holds a run and ``resume`` is False, it holds a run of another
            configuration, or the denoiser has no encoder to stand on.
        DataError: the crops are damaged or too small.
        ModelLoadError: a checkpoint cannot be read.
        NumericalError: the loss became NaN or infinite; the last good checkpoint is kept.
        OutputError: the folder cannot be written.
    """
    if stage not in get_args(StageName):
        raise ArgumentError(f"stage must be one of {', '.join(get_args(StageName))}; got {stage!r}")
    folder = Path(out_dir)
    if list_checkpoints(folder) and not resume:
        raise ConfigError(f"{folder} already holds a run; resume it or choose another folder")
    source = open_source(config.data, scale=config.model.scale, seed=config.run.seed, cache=folder / "crops")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the run folder {folder}: {error}") from error
    with limit_threads(config.run.threads), stop_flag(config.run.max_seconds) as stopping:
        trainer = _Trainer(stage, config, folder, source)
        if resume:
            trainer.resume()
        return trainer.run(stopping, validate)


class _Trainer:
    """One stage's networks, optimizer and average, and the step that changes them."""

    def __init__(self, stage: StageName, config: TrainConfig, folder: Path, source: TrainingSource) -> None:
        self.name, self.config, self.folder, self.source = stage, config, folder, source
        self.device = pick_device(config.run.device)
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            model = build_model(config.model)
        if config.run.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model = model.to(self.device)
        self.stage = self._make_stage(model)
        optimizer = config.optimizer
        parameters = list(self.stage.network.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=optimizer.lr, betas=optimizer.betas)
        average = cast("Callable[..., None]", get_ema_multi_avg_fn(config.run.ema_decay))
        self.ema = AveragedModel(self.stage.network, multi_avg_fn=average, use_buffers=False)

    def _make_stage(self, model: DiffSR) -> Stage:
        if self.name == "encoder":
            if self.config.run.start == "passthrough":
                model.encoder.start_from_interpolation()
            return EncoderStage(model)
        origin = self.config.diffusion.encoder
        if origin is None:
            raise ConfigError(
                "the denoiser stands on a trained encoder: set diffusion.encoder to a stage-1 run folder"
            )
        trained = read_checkpoint(origin)
        if trained.stage != "encoder":
            raise CheckpointMismatchError(
                f"diffusion.encoder must name an encoder run, but {trained.path} is of "
                f"stage {trained.stage!r}"
            )
        load_strict(model.encoder, trained.ema, trained.path)
        if self.config.run.start == "passthrough":
            model.denoiser.start_from_identity()
        return DenoiserStage(model, self.config.diffusion, device=self.device)

    def resume(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        newest = latest_checkpoint(self.folder)
        if newest is None:
            return
        checkpoint = read_checkpoint(newest)
        if checkpoint.stage != self.name:
            raise ConfigError(f"{self.folder} holds a run of stage {checkpoint.stage!r}, not {self.name!r}")
        _check_same_run(checkpoint.config, to_dict(self.config), self.folder)
        restore(
            checkpoint,
            network=self.stage.network,
            ema=self.ema,
            frozen=self.stage.frozen,
            optimizer=self.optimizer,
        )
        self.step = checkpoint.step
        logger.info("resuming %s at step %d", self.folder, self.step)

    def run(self, stopping: Callable[[], bool], validate: Validate | None) -> TrainResult:
        """Steps until the end, a signal or the time limit."""
        run = self.config.run
        log = RunLog(self.folder, step=self.step)
        meter = Meter(self.device)
        saved = latest_checkpoint(self.folder) if self.step else None
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            upcoming = pool.submit(self.source.host_batch, self.step)
            while self.step < run.steps and not stopping():
                with meter.waiting():
                    host = upcoming.result()
                    upcoming = pool.submit(self.source.host_batch, self.step + 1)
                loss, norm = self._train_step(host)
                self.step += 1
                meter.add(loss, norm, images=self.config.data.batch)
                ending = self.step == run.steps or stopping()
                due = ending or self.step % run.checkpoint_every == 0
                if due or self.step % run.log_every == 0:
                    self._report(log, meter.summary())
                if due:
                    saved = self._save()
                if validate is not None and (self.step == run.steps or self.step % run.validate_every == 0):
                    scores = self._validate(validate)
                    log.write(self.step, {"validation": scores})
                    logger.info("step %d: validation %s", self.step, scores)
                    meter.restart_clock()
                if ending:
                    break
        return TrainResult(
            step=self.step,
            finished=self.step >= run.steps,
            checkpoint=self._save() if saved is None else saved,
        )

    def _report(self, log: RunLog, record: dict[str, float]) -> None:
        """Log the means, or stop before numbers that are not finite reach a checkpoint."""
        if not all(math.isfinite(record[key]) for key in ("loss", "grad_norm")):
            raise NumericalError(
                f"the loss is not finite any more at step {self.step} ({record}); the last good checkpoint "
                f"is {latest_checkpoint(self.folder)}: resume from it with a lower optimizer.lr or with "
                "run.precision fp32"
            )
        log.write(self.step, {**record, "lr": self._rate(self.step - 1)})
        logger.info("step %d: %s", self.step, record)

    def _rate(self, step: int) -> float:
        return self.config.optimizer.rate(step, steps=self.config.run.steps)

    def _train_step(self, host: HostBatch) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        batch = self.source.device_batch(host, self.device)
        generator = torch.Generator(device=self.device)
        generator.manual_seed(mix_seed(config.run.seed, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.run.precision == "bf16"):
            loss = self.stage.loss(batch, generator=generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.stage.network.parameters(), config.optimizer.clip)
        self.optimizer.step()
        self.ema.update_parameters(self.stage.network)
        return loss.detach(), norm.detach()

    def _save(self) -> Path:
        return save_checkpoint(
            self.folder,
            step=self.step,
            stage=self.name,
            config=to_dict(self.config),
            network=self.stage.network,
            ema=self.ema,
            frozen=self.stage.frozen,
            optimizer=self.optimizer,
            keep=self.config.run.keep,
        )

    def _validate(self, validate: Validate) -> dict[str, float]:
        model = copy.deepcopy(self.stage.model)
        part = model.encoder if self.name == "encoder" else model.denoiser
        part.load_state_dict(self.ema.module.state_dict())
        model.eval()
        with torch.no_grad():
            return validate(model)


def _check_same_run(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """A continuation may run longer or elsewhere, but not be another experiment."""
    changed: list[str] = []
    for section in sorted(old.keys() | new.keys()):
        before, after = dict(old.get(section, {})), dict(new.get(section, {}))
        for key in sorted(before.keys() | after.keys()):
            free = (section == "run" and key in FREE_RUN_KEYS) or (section, key) in {
                ("data", "crops"),
                ("diffusion", "encoder"),
            }
            if not free and before.get(key) != after.get(key):
                changed.append(f"{section}.{key} was {before.get(key)!r}, is now {after.get(key)!r}")
    if changed:
        raise ConfigError(f"{folder} holds a run of another configuration: {'; '.join(changed)}")
