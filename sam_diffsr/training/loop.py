"""The training loop of both stages."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sam_diffsr.config import to_dict
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import BatchSource, make_batch
from sam_diffsr.errors import ArgumentError, CheckpointMismatchError, ConfigError, NumericalError, OutputError
from sam_diffsr.models import DiffSR, build_model
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.log import RunLog
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
        raise ArgumentError(f"stage must be one of {', '.join(get_args(StageName))}, got {stage!r}")
    folder = Path(out_dir)
    if list_checkpoints(folder) and not resume:
        raise ConfigError(f"{folder} already holds a run; resume it or choose another folder")
    source = BatchSource(
        CropStore(config.data.crops),
        patch=config.data.patch,
        scale=config.model.scale,
        batch=config.data.batch,
        seed=config.run.seed,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the run folder {folder}: {error}") from error
    with _threads(config.run.threads), _stop_flag(config.run.max_seconds) as stopping:
        trainer = _Trainer(stage, config, folder, source)
        if resume:
            trainer.resume()
        return trainer.run(stopping, validate)


class _Trainer:
    """One stage's networks, optimizer and average, and the step that changes them."""

    def __init__(self, stage: StageName, config: TrainConfig, folder: Path, source: BatchSource) -> None:
        self.name, self.config, self.folder, self.source = stage, config, folder, source
        self.device = _pick_device(config.run.device)
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            model = build_model(config.model)
        if config.run.channels_last:
            model = cast("DiffSR", model.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
        model = model.to(self.device)
        self.stage = self._make_stage(model)
        optimizer = config.optimizer
        parameters = list(self.stage.network.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=optimizer.lr, betas=optimizer.betas)
        self.ema = AveragedModel(
            self.stage.network, multi_avg_fn=get_ema_multi_avg_fn(config.run.ema_decay), use_buffers=False
        )

    def _make_stage(self, model: DiffSR) -> Stage:
        if self.name == "encoder":
            if self.config.run.encoder_start == "interpolation":
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
                f"diffusion.encoder must name an encoder run, but {trained.path} is of stage {trained.stage!r}"
            )
        load_strict(model.encoder, trained.ema, trained.path)
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
        meter = _Meter(self.device)
        saved = latest_checkpoint(self.folder) if self.step else None
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            upcoming = pool.submit(self.source.host_batch, self.step)
            while self.step < run.steps and not stopping():
                with meter.waiting():
                    host = upcoming.result()
                    upcoming = pool.submit(self.source.host_batch, self.step + 1)
                rate = self.config.optimizer.rate(self.step, steps=run.steps)
                loss, norm = self._train_step(host, rate)
                self.step += 1
                meter.add(loss, norm, images=self.config.data.batch)
                last = self.step == run.steps
                due = self.step % run.checkpoint_every == 0 or last
                if self.step % run.log_every == 0 or due:
                    record = meter.summary()
                    self._check_finite(record)
                    log.write(self.step, {**record, "lr": rate})
                    logger.info("step %d: %s", self.step, record)
                if due:
                    saved = self._save()
                if validate is not None and (self.step % run.validate_every == 0 or last):
                    scores = self._validate(validate)
                    log.write(self.step, {"validation": scores})
                    logger.info("step %d: validation %s", self.step, scores)
                    meter = _Meter(self.device)
        newest = latest_checkpoint(self.folder)
        if saved is None or newest is None or newest.name != f"step-{self.step:08d}.safetensors":
            self._check_finite(meter.summary())
            saved = self._save()
        return TrainResult(step=self.step, finished=self.step >= run.steps, checkpoint=saved)

    def _train_step(self, host: Any, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        batch = make_batch(host, scale=config.model.scale, device=self.device)
        generator = torch.Generator(device=self.device)
        generator.manual_seed(_mix(config.run.seed, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=config.run.precision == "bf16"
        ):
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
        part.load_state_dict(cast("torch.nn.Module", self.ema.module).state_dict())
        model.eval()
        with torch.no_grad():
            return validate(model)

    def _check_finite(self, record: dict[str, float]) -> None:
        if not math.isfinite(record.get("loss", 0.0)) or not math.isfinite(record.get("grad_norm", 0.0)):
            raise NumericalError(
                f"the loss is no longer finite at step {self.step} ({record}); the last good checkpoint is "
                f"{latest_checkpoint(self.folder)}: resume from it with a lower optimizer.lr or run.precision fp32"
            )


class _Meter:
    """Means since the last summary; sums stay on the device, so nothing waits for it in between."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._reset()

    def _reset(self) -> None:
        self.loss = torch.zeros((), device=self.device)
        self.norm = torch.zeros((), device=self.device)
        self.steps, self.images, self.waited, self.since = 0, 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def add(self, loss: torch.Tensor, norm: torch.Tensor, *, images: int) -> None:
        self.loss += loss
        self.norm += norm
        self.steps += 1
        self.images += images

    def summary(self) -> dict[str, float]:
        if not self.steps:
            return {}
        values = {"loss": self.loss.item() / self.steps, "grad_norm": self.norm.item() / self.steps}
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        values["images_per_second"] = round(self.images / elapsed, 3)
        values["data_wait"] = round(self.waited / elapsed, 4)
        self._reset()
        return values


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers (the finalizer of splitmix64), so that neighbours do not resemble."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & mask
    return (value ^ (value >> 31)) >> 1


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"run.device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from error


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


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _stop_flag(max_seconds: float | None) -> Iterator[Callable[[], bool]]:
    """A function that says whether to stop: after SIGTERM or SIGINT (main thread only) or the time limit."""
    event = threading.Event()
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, lambda *_: event.set())
    try:
        yield lambda: event.is_set() or (deadline is not None and time.monotonic() > deadline)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
