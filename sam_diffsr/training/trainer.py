"""One stage's networks, optimizer and average, and the step that changes them."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sam_diffsr.config import to_dict
from sam_diffsr.data import TrainingBatch
from sam_diffsr.errors import ConfigError
from sam_diffsr.models import DiffSR, build_model
from sam_diffsr.models.initial import start_from_identity, start_from_interpolation
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.control import mix_seed
from sam_diffsr.training.resume import check_same_run
from sam_diffsr.training.stages import DenoiserStage, Distance, EncoderStage, Stage, StageName
from sam_diffsr.training.start import load_part
from sam_diffsr.training.state import Checkpoint, load_strict, restore, save_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer:
    """Everything that a checkpoint holds, and how it changes.

    Args:
        stage: which networks are trained.
        config: of the run.
        accelerator: device, precision and processes.
        checkpoint: what to go on from; None begins.
        distance: perceptual distance for stage 2, see ``DenoiserStage``.

    Raises:
        ConfigError: the checkpoint is of another run, the denoiser has no encoder to stand on, or the config
            asks for a perceptual distance and there is none.
        ModelLoadError: weights to begin with cannot be read or do not fit.
    """

    def __init__(
        self,
        stage: StageName,
        config: TrainConfig,
        *,
        accelerator: Accelerator,
        checkpoint: Checkpoint | None = None,
        distance: Distance | None = None,
    ) -> None:
        self.name, self.config, self.accelerator = stage, config, accelerator
        self.device: torch.device = accelerator.device
        self.step = 0
        if checkpoint is not None:
            check_same_run(checkpoint, stage, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            model = build_model(config.model)
        if checkpoint is None:
            self._begin(model)
        if config.run.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model = model.to(self.device)
        self.stage: Stage = (
            EncoderStage(model, loss=config.optimizer.loss)
            if stage == "encoder"
            else DenoiserStage(model, config.diffusion, device=self.device, distance=distance)
        )
        average = cast("Callable[..., None]", get_ema_multi_avg_fn(config.run.ema_decay))
        self.ema = AveragedModel(self.stage.network, multi_avg_fn=average, use_buffers=False)
        self._optimizer = self._make_optimizer()
        prepared = cast("tuple[Any, Any]", accelerator.prepare(self.stage, self._optimizer))
        self._loss, self._stepper = prepared  # the stage as it shares gradients, the optimizer as it steps
        self._scaler = cast("torch.amp.GradScaler | None", accelerator.scaler)
        if checkpoint is not None:
            self._restore(checkpoint)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.config.optimizer
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        return kinds[optimizer.name](
            list(self.stage.network.parameters()),
            lr=optimizer.lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )

    def _begin(self, model: DiffSR) -> None:
        """Give a fresh model its first weights."""
        run, origin = self.config.run, self.config.diffusion.encoder
        if run.start == "passthrough":
            start_from_interpolation(model.encoder)
            start_from_identity(model.denoiser)
        if self.name == "encoder":
            if run.init is not None:
                load_strict(model.encoder, *load_part(run.init, "encoder"))
            return
        if run.init is not None:
            load_strict(model.denoiser, *load_part(run.init, "denoiser"))
        foundation = origin or run.init
        if foundation is None:
            raise ConfigError(
                "the denoiser stands on a trained encoder: set diffusion.encoder to a stage-1 run folder"
            )
        load_strict(model.encoder, *load_part(foundation, "encoder"))

    def _restore(self, checkpoint: Checkpoint) -> None:
        restore(
            checkpoint,
            network=self.stage.network,
            ema=self.ema,
            frozen=self.stage.frozen,
            optimizer=self._optimizer,
            scaler=self._scaler,
        )
        self.step = checkpoint.step

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0-based."""
        return self.config.optimizer.rate(step, steps=self.config.run.steps)

    def train_step(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """One optimizer step on this process's rows of a batch.

        Returns:
            Loss of these rows and norm of the whole gradient, scalars on the device.
        """
        accelerator, run = self.accelerator, self.config.run
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self._stepper.zero_grad(set_to_none=True)
        drawn = self._draw(batch)
        size = len(batch.hr) // run.accumulate
        total = torch.zeros((), device=self.device)
        for part in range(run.accumulate):
            rows = slice(part * size, (part + 1) * size)
            last = part == run.accumulate - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self._loss):
                loss = cast("Tensor", self._loss(_rows(batch, rows), *(tensor[rows] for tensor in drawn)))
                loss = loss / run.accumulate
                accelerator.backward(loss)
            total += loss.detach()
        parameters, clip = self.stage.network.parameters(), self.config.optimizer.clip
        norm = cast("Tensor", accelerator.clip_grad_norm_(parameters, clip))
        self._stepper.step()
        self.ema.update_parameters(self.stage.network)
        self.step += 1
        return total, norm.detach()

    def _draw(self, batch: TrainingBatch) -> tuple[Tensor, ...]:
        """Random tensors of the whole step, drawn alike by every process, and of them this one's rows."""
        generator = torch.Generator(device=self.device)
        generator.manual_seed(mix_seed(self.config.run.seed, self.step))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        whole = self.stage.draw((self.config.data.batch, *batch.hr.shape[1:]), generator=generator)
        return tuple(tensor[rank::world] for tensor in whole)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint.

        Raises:
            OutputError: it cannot be written; earlier ones are as they were.
        """
        return save_checkpoint(
            folder,
            step=self.step,
            stage=self.name,
            config=to_dict(self.config),
            network=self.stage.network,
            ema=self.ema,
            frozen=self.stage.frozen,
            optimizer=self._optimizer,
            keep=self.config.run.keep,
            scaler=self._scaler,
        )

    def averaged_model(self) -> DiffSR:
        """A copy of both networks with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.stage.model)
        part = model.encoder if self.name == "encoder" else model.denoiser
        part.load_state_dict(self.ema.module.state_dict())
        return model.requires_grad_(False).eval()


def _rows(batch: TrainingBatch, rows: slice) -> TrainingBatch:
    return TrainingBatch(lr=batch.lr[rows], hr=batch.hr[rows], structure=batch.structure[rows])
