"""The trainer of one stage: networks, optimizer, averaged weights, and the step that updates them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sam_diffsr.training.state as state
from sam_diffsr.config import to_dict
from sam_diffsr.data import TrainingBatch
from sam_diffsr.errors import CheckpointMismatchError, ConfigError
from sam_diffsr.models import DiffSR, build_model
from sam_diffsr.models.initial import start_from_identity, start_from_interpolation
from sam_diffsr.models.published import is_rrdbnet_file, load_rrdbnet_checkpoint
from sam_diffsr.models.weights import check_module_weights
from sam_diffsr.pipeline.checkpoint import load_pretrained
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.stages import DenoiserStage, Distance, EncoderStage, Stage, StageName

if TYPE_CHECKING:
    from accelerate import Accelerator


class Trainer:
    """Everything that a checkpoint holds, and one training step.

    A ``checkpoint`` is resumed; without one a run starts. ``distance`` is as in ``DenoiserStage``.
    """

    def __init__(
        self,
        stage: StageName,
        config: TrainConfig,
        *,
        accelerator: Accelerator,
        checkpoint: state.Checkpoint | None = None,
        distance: Distance | None = None,
    ) -> None:
        self.name: StageName = stage
        self.config, self.accelerator = config, accelerator
        self.device: torch.device = accelerator.device
        self.step = 0

        # networks with their first weights; a checkpoint's are loaded at the end
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            model = build_model(config.model)
        if checkpoint is None:
            self._initialize(model)
        if config.run.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.to(self.device)
        self.network: nn.Module = self.model.get_submodule(stage)

        # loss, averaged weights and optimizer
        self.stage: Stage = (
            EncoderStage(self.model, loss=config.optimizer.loss)
            if stage == "encoder"
            else DenoiserStage(self.model, config.diffusion, device=self.device, distance=distance)
        )
        average = cast("Callable[..., None]", get_ema_multi_avg_fn(config.run.ema_decay))
        self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=False)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer.name]
        lr, betas, decay = config.optimizer.lr, config.optimizer.betas, config.optimizer.weight_decay
        self._optimizer = kind(list(self.network.parameters()), lr=lr, betas=betas, weight_decay=decay)

        # accelerate wraps the stage to share gradients, and the optimizer to scale the loss
        self._wrapped_stage, self._wrapped_optimizer = cast("Any", accelerator).prepare(
            self.stage, self._optimizer
        )
        self._scaler = cast("torch.amp.GradScaler | None", accelerator.scaler)
        if checkpoint is not None:
            self._restore(checkpoint)

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0-based."""
        return self.config.optimizer.rate(step, steps=self.config.run.steps)

    def train_step(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Take one optimizer step; loss of this process's rows and norm of the whole gradient, as scalars."""
        accelerator, run = self.accelerator, self.config.run
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self._wrapped_optimizer.zero_grad(set_to_none=True)

        # gradients of all micro-batches; processes share them after the last one
        drawn = self._draw(batch)
        size = len(batch.hr) // run.accumulate
        total = torch.zeros((), device=self.device)
        for part in range(run.accumulate):
            rows = slice(part * size, (part + 1) * size)
            last = part == run.accumulate - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self._wrapped_stage):
                part_of = TrainingBatch(lr=batch.lr[rows], hr=batch.hr[rows], structure=batch.structure[rows])
                loss = cast("Tensor", self._wrapped_stage(part_of, *(tensor[rows] for tensor in drawn)))
                loss = loss / run.accumulate
                accelerator.backward(loss)
            total += loss.detach()

        # update of weights and averages
        clip = self.config.optimizer.clip
        norm = cast("Tensor", accelerator.clip_grad_norm_(self.network.parameters(), clip))
        self._wrapped_optimizer.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        return total, norm.detach()

    def save(self, folder: Path) -> None:
        """Write a checkpoint into a run folder."""
        moments = {
            f"{name}/{entry}": value
            for name, parameter in self.network.named_parameters()
            for entry, value in self._optimizer.state.get(parameter, {}).items()
        }
        checkpoint = state.Checkpoint(
            path=state.checkpoint_path(folder, self.step),
            step=self.step,
            stage=self.name,
            config=to_dict(self.config),
            network=self.network.state_dict(),
            ema=self.ema.module.state_dict(),
            frozen=self.model.encoder.state_dict() if self.name == "denoiser" else {},
            moments=cast("dict[str, Tensor]", moments),
            scaler=None if self._scaler is None else self._scaler.state_dict(),
        )
        state.write_checkpoint(checkpoint, keep=self.config.run.keep)

    def averaged_model(self) -> DiffSR:
        """A copy of both networks with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        model.get_submodule(self.name).load_state_dict(self.ema.module.state_dict())
        return model.requires_grad_(False).eval()

    def _initialize(self, model: DiffSR) -> None:
        """Give a new run its first weights: fresh or trained ones, and stage 2 a trained encoder."""
        run = self.config.run
        if run.start == "passthrough":
            start_from_interpolation(model.encoder)
            start_from_identity(model.denoiser)
        if run.init is not None:
            _load(model.get_submodule(self.name), *read_weights(run.init, self.name))
        if self.name == "denoiser":
            encoder = self.config.diffusion.encoder or run.init
            if encoder is None:
                raise ConfigError(
                    "the denoiser needs a trained encoder: set diffusion.encoder to a stage-1 run folder"
                )
            _load(model.encoder, *read_weights(encoder, "encoder"))

    def _restore(self, checkpoint: state.Checkpoint) -> None:
        """Put weights, averages, moments, loss scale and step back, exactly."""
        _load(self.network, checkpoint.network, checkpoint.path)
        _load(self.ema.module, checkpoint.ema, checkpoint.path)
        self.ema.n_averaged.fill_(checkpoint.step)
        if self.name == "denoiser":
            _load(self.model.encoder, checkpoint.frozen, checkpoint.path)

        # Adam's moments, in the memory format of their weights
        parameters = dict(self.network.named_parameters())
        for key, tensor in checkpoint.moments.items():
            name, _, entry = key.rpartition("/")
            if name not in parameters:
                unknown = f"{checkpoint.path} has Adam moments of an unknown weight {name!r}"
                raise CheckpointMismatchError(unknown)
            parameter = parameters[name]
            value = tensor if tensor.ndim == 0 else torch.empty_like(parameter).copy_(tensor)
            self._optimizer.state[parameter][entry] = value
        if self._scaler is not None and checkpoint.scaler is not None:
            self._scaler.load_state_dict(checkpoint.scaler)
        self.step = checkpoint.step

    def _draw(self, batch: TrainingBatch) -> tuple[Tensor, ...]:
        """Random tensors of this process's rows: every process draws those of all rows and keeps its own."""
        mixed = np.random.SeedSequence((self.config.run.seed, self.step)).generate_state(1, np.uint64)
        generator = torch.Generator(device=self.device).manual_seed(int(mixed[0]) >> 1)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        whole = self.stage.draw((self.config.data.batch, *batch.hr.shape[1:]), generator=generator)
        return tuple(tensor[rank::world] for tensor in whole)


def read_weights(origin: str, part: StageName) -> tuple[dict[str, Tensor], Path]:
    """Read the weights of one network, in float32 on the CPU; the averaged ones of a training run.

    ``origin`` is a run folder (its newest checkpoint), a checkpoint, model folder, bundled name or Hub id, or
    for the encoder an RRDBNet of the ESRGAN family (``.pth`` or ``.safetensors``). The path is for messages.
    """
    path = Path(origin).expanduser()
    if part == "encoder" and is_rrdbnet_file(path):
        return load_rrdbnet_checkpoint(path)[2], path
    if not state.is_checkpoint(path) and state.latest_checkpoint(path) is None:
        weights, head = load_pretrained(origin)[1], f"{part}."
        own = {key: value.float() for key, value in weights.items() if key.startswith(head)}
        return {key.removeprefix(head): value for key, value in own.items()}, path
    checkpoint = state.read_checkpoint(path)
    if checkpoint.stage == part:
        return checkpoint.ema, checkpoint.path
    if part == "encoder":
        return checkpoint.frozen, checkpoint.path
    raise CheckpointMismatchError(
        f"{checkpoint.path} is of stage {checkpoint.stage!r} and has no denoiser; set run.init to a run of "
        "the denoiser or to a model, or leave run.init out and set diffusion.encoder"
    )


def _load(network: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Check weights and load them into a network; raises ``CheckpointMismatchError``."""
    check_module_weights(weights, network, source=str(source))
    network.load_state_dict(weights)
