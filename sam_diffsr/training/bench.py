"""What making batches costs: training steps on real batches against the same steps on random tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from sam_diffsr.data import (
    DataConfig,
    SyntheticConfig,
    TrainingBatch,
    TrainingSource,
    open_source,
    prefetch,
    synthesize_crops,
)
from sam_diffsr.data.batch import MARGIN_LR
from sam_diffsr.errors import ArgumentError
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.control import limit_threads
from sam_diffsr.training.launch import launched
from sam_diffsr.training.stages import StageName
from sam_diffsr.training.trainer import Trainer

__all__ = ["SourceCost", "TrainBench", "run_train_bench"]

CROPS = 64
SLACK = 48
WARM_UP = 16
"""Batches made before the first that counts; a pool of synthetic images is full then."""


@dataclass(frozen=True)
class SourceCost:
    """Steps with one source of batches."""

    step_ms: float
    """A step and its batch, on average."""
    ratio: float
    """Time of a step against that of a step on random tensors; median of the rounds."""
    cpu_ratio: float
    """The same of the processor time of all threads, which other programs disturb less; counts on a CPU."""
    making_share: float
    """Processor time of making a batch, measured alone, against that of a step on random tensors; what the
    ratios above exceed it by is the noise of the machine."""
    data_wait: float
    """Share of the time from asking for a batch until it is on the device."""
    images_per_second: float
    """Images that were trained on in a second."""


@dataclass(frozen=True)
class TrainBench:
    """What was measured."""

    stage: StageName
    """Which networks were trained."""
    device: str
    """Where."""
    threads: int
    """Threads of torch on the CPU."""
    patch: int
    """HR side of the images."""
    batch: int
    """Images a step."""
    steps: int
    """Steps of each kind."""
    random_ms: float
    """A step on random tensors that lie on the device already."""
    sources: dict[str, SourceCost]
    """``data`` (the config's own), or ``crops`` on disk and ``synthetic`` images made as it goes."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_train_bench(
    stage: StageName,
    config: TrainConfig,
    *,
    own_data: bool = False,
    rounds: int = 5,
    steps: int = 16,
    say: Callable[[str], object] = lambda line: None,
) -> TrainBench:
    """Measure, all kinds of steps in turns.

    Args:
        stage: which networks are trained.
        config: the run; nothing of it is written. The denoiser stands on a fresh encoder.
        own_data: measure ``config.data``; otherwise crops and synthetic images that are made for it, of the
            config's patch and batch.
        rounds: turns, >= 1.
        steps: steps of each kind in a turn, >= 1.
        say: called with a line on what is measured.

    Raises:
        ArgumentError: ``rounds`` or ``steps`` is less than 1.
        ConfigError: the device is not there.
        DataError: the config's own data are damaged or too small.
        MissingDependencyError: the extra ``train`` is not installed.
    """
    if rounds < 1 or steps < 1:
        raise ArgumentError(f"rounds and steps must be >= 1, got {rounds} and {steps}")
    with tempfile.TemporaryDirectory() as name, limit_threads(config.run.threads):
        folder = Path(name)
        with launched(config, folder=folder, trackers=[]) as accelerator:
            trainer = _make_trainer(stage, config, folder, accelerator)
            sources: dict[str, TrainingSource] = {}
            for kind, data in _data(config, folder, own=own_data).items():
                say(f"opening {kind}")
                sources[kind] = open_source(
                    data, scale=config.model.scale, seed=config.run.seed, cache=folder / "cache"
                )
            return _measure(trainer, config, sources, rounds=rounds, steps=steps, say=say)


def _make_trainer(stage: StageName, config: TrainConfig, folder: Path, accelerator: Any) -> Trainer:
    """A trainer at its first step; the denoiser's encoder is a fresh one, which costs the same."""
    run = dataclasses.replace(config.run, init=None)
    first = dataclasses.replace(config, run=run)
    if stage == "denoiser":
        Trainer("encoder", first, accelerator=accelerator).save(folder)
        diffusion = dataclasses.replace(config.diffusion, encoder=str(folder))
        first = dataclasses.replace(first, diffusion=diffusion)
    return Trainer(stage, first, accelerator=accelerator)


def _data(config: TrainConfig, folder: Path, *, own: bool) -> dict[str, DataConfig]:
    if own:
        return {"data": config.data}
    window = config.data.patch + 2 * MARGIN_LR * config.model.scale
    crops = SyntheticConfig(size=window + SLACK)
    synthesize_crops(folder / "crops", count=CROPS, config=crops)
    blank = dataclasses.replace(
        config.data,
        crops=str(folder / "crops"),
        photos=None,
        masks=None,
        synthetic=None,
        encoding=None,
        reduction=None,
    )
    synthetic = SyntheticConfig(size=max(SyntheticConfig().size, window))
    return {
        "crops": blank,
        "synthetic": dataclasses.replace(blank, crops=None, synthetic=synthetic),
    }


def _measure(
    trainer: Trainer,
    config: TrainConfig,
    sources: dict[str, TrainingSource],
    *,
    rounds: int,
    steps: int,
    say: Callable[[str], object],
) -> TrainBench:
    device, batch = trainer.device, config.data.batch
    fixed = _random_batch(config, device)
    clocks = {kind: _Clock() for kind in ("random", *sources)}
    for _ in range(2):  # the first steps choose algorithms and allocate
        trainer.train_step(fixed)
    for source in sources.values():
        made = [source.device_batch(source.host_batch(step), device) for step in range(WARM_UP)]
        trainer.train_step(made[-1])
    making = {kind: _making_seconds(source, device, steps=steps) for kind, source in sources.items()}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        with clocks["random"].round(device):
            for _ in range(steps):
                trainer.train_step(fixed)
        for kind, source in sources.items():
            start = WARM_UP + number * steps
            clock = clocks[kind]
            with (
                clock.round(device),
                prefetch(source.host_batch, start=start, stop=start + steps) as batches,
            ):
                for host in clock.waiting(batches):
                    with clock.wait():
                        ready = source.device_batch(host, device)
                    trainer.train_step(ready)
    reference = clocks["random"]
    return TrainBench(
        stage=cast("StageName", trainer.name),
        device=str(device),
        threads=torch.get_num_threads(),
        patch=config.data.patch,
        batch=batch,
        steps=rounds * steps,
        random_ms=1000 * sum(reference.wall) / (rounds * steps),
        sources={
            kind: clocks[kind].cost(reference, making=making[kind], steps=steps, batch=batch)
            for kind in sources
        },
    )


class _Clock:
    """Times of the rounds of one kind of step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.waited = 0.0

    @contextlib.contextmanager
    def round(self, device: torch.device) -> Generator[None, None, None]:
        _finish(device)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        _finish(device)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    @contextlib.contextmanager
    def wait(self) -> Generator[None, None, None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def waiting(self, batches: Any) -> Generator[Any, None, None]:
        while True:
            with self.wait():
                item = next(batches, None)
            if item is None:
                return
            yield item

    def cost(self, reference: _Clock, *, making: float, steps: int, batch: int) -> SourceCost:
        total, count = sum(self.wall), steps * len(self.wall)
        return SourceCost(
            step_ms=1000 * total / count,
            ratio=float(np.median(np.divide(self.wall, reference.wall))),
            cpu_ratio=float(np.median(np.divide(self.cpu, reference.cpu))),
            making_share=making / (sum(reference.cpu) / count),
            data_wait=self.waited / total,
            images_per_second=count * batch / total,
        )


def _making_seconds(source: TrainingSource, device: torch.device, *, steps: int) -> float:
    """Processor time of one batch, host and device part, with nothing beside it."""
    started = time.process_time()
    for step in range(WARM_UP, WARM_UP + steps):
        source.device_batch(source.host_batch(step), device)
    _finish(device)
    return (time.process_time() - started) / steps


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _random_batch(config: TrainConfig, device: torch.device) -> TrainingBatch:
    count, side, scale = config.data.batch, config.data.patch, config.model.scale
    generator = torch.Generator().manual_seed(0)

    def random(channels: int, side: int) -> torch.Tensor:
        return torch.rand(count, channels, side, side, generator=generator).to(device)

    return TrainingBatch(lr=random(3, side // scale), hr=random(3, side), structure=0.01 * random(1, side))
