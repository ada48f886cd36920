"""Times training steps on real batches against the same steps on random tensors that lie on the device."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sam_diffsr.bench.result import BenchResult, at_least, logger, time_in_turns
from sam_diffsr.data import (
    DataConfig,
    SyntheticConfig,
    TrainingBatch,
    TrainingSource,
    batches,
    synthesize_crops,
)
from sam_diffsr.data.source import SLACK
from sam_diffsr.data.training_batch import MARGIN_LR
from sam_diffsr.evaluation.perceptual import lpips_loss
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.launch import launched, worker_count
from sam_diffsr.training.stages import StageName
from sam_diffsr.training.trainer import Trainer

_CROPS = 64


def measure_training(
    stage: StageName, config: TrainConfig, *, own_data: bool = False, repeats: int = 5, steps: int = 16
) -> BenchResult:
    """Time training steps whose batches are made as in a run; nothing of the run is written.

    Args:
        stage: networks to train; the denoiser is trained on a fresh encoder.
        config: the run.
        own_data: measure ``config.data`` instead of crops and synthetic images made for the measurement.
        repeats: rounds that count, >= 1.
        steps: steps of each kind per round, >= 1; at least 8 for each of ``run.workers``.

    Raises:
        ArgumentError: ``repeats`` or ``steps`` is less than 1.
        ConfigError: the device is not available.
        DataError: the config's own data are damaged or too small.
        MissingDependencyError: the extra ``train`` is not installed.
    """
    at_least(1, {"repeats": repeats, "steps": steps})
    with (
        tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name,
        launched(replace(config, run=replace(config.run, tracker="none")), folder=Path(name)) as accelerator,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        first = replace(config, run=replace(config.run, init=None))
        if stage == "denoiser":  # a fresh encoder costs as much as any
            Trainer("encoder", first, accelerator=accelerator).save(folder)
            first = replace(first, diffusion=replace(config.diffusion, encoder=str(folder)))
        distance = lpips_loss() if stage == "denoiser" and config.diffusion.perceptual > 0 else None
        trainer = Trainer(stage, first, accelerator=accelerator, distance=distance)
        fixed = _random_batch(config, trainer.device)
        workers = worker_count(config.run.workers, trainer.device)
        steps = max(steps, 8 * workers)  # each process is two batches ahead when a round begins

        def random_steps() -> None:
            for _ in range(steps):
                trainer.train_step(fixed)

        tasks: dict[str, Callable[[], object]] = {"random": random_steps}
        waits: dict[str, list[float]] = {}
        scale, seed, cache = config.model.scale, config.run.seed, folder / "cache"
        for kind, data in ({"data": config.data} if own_data else _made_up_data(config, folder)).items():
            logger.info("measuring: opening %s", kind)
            source = TrainingSource(data, scale=scale, seed=seed, cache=cache)
            waits[kind], count = [], steps * (repeats + 1)
            made = batches(source, start=0, stop=count, device=trainer.device, workers=workers)
            tasks[kind] = partial(_real_steps, trainer, stack.enter_context(made), steps, waits[kind])
        what = f"training steps, {repeats} rounds"
        timed = time_in_turns(what, tasks, repeats=repeats, device=trainer.device)
    images = steps * repeats * config.data.batch
    rows: list[dict[str, str | float]] = [
        {
            "batches": kind,
            "ratio": timed.ratio(kind, "random"),
            "data_wait": sum(waited[1:]) / sum(timed[kind]),
            "images_per_second": images / sum(timed[kind]),
        }
        for kind, waited in waits.items()
    ]
    settings = {"stage": stage, "patch": config.data.patch, "batch": config.data.batch, "steps": steps}
    settings |= {"repeats": repeats, "device": str(trainer.device)}
    return BenchResult(name="train", tables={"train": rows}, settings=settings, seconds=timed.medians())


def _real_steps(trainer: Trainer, made: Iterator[TrainingBatch], steps: int, waits: list[float]) -> None:
    """Train on the next batches, and note the seconds until they were on the device."""
    waited = 0.0
    for _ in range(steps):
        started = time.perf_counter()
        batch = next(made)
        waited += time.perf_counter() - started
        trainer.train_step(batch)
    waits.append(waited)


def _made_up_data(config: TrainConfig, folder: Path) -> dict[str, DataConfig]:
    """Crops, and synthetic images, made for the measurement."""
    window = config.data.patch + 2 * MARGIN_LR * config.model.scale
    synthesize_crops(folder / "crops", count=_CROPS, config=SyntheticConfig(size=window + SLACK))
    others = {"photos": None, "masks": None, "synthetic": None, "encoding": None, "reduction": None}
    crops = replace(config.data, crops=str(folder / "crops"), **others)
    synthetic = SyntheticConfig(size=max(SyntheticConfig().size, window))
    return {"crops": crops, "synthetic": replace(crops, crops=None, synthetic=synthetic)}


def _random_batch(config: TrainConfig, device: torch.device) -> TrainingBatch:
    count, side, scale = config.data.batch, config.data.patch, config.model.scale
    generator = torch.Generator().manual_seed(0)

    def random(channels: int, side: int) -> torch.Tensor:
        return torch.rand(count, channels, side, side, generator=generator).to(device)

    return TrainingBatch(lr=random(3, side // scale), hr=random(3, side), structure=0.01 * random(1, side))
