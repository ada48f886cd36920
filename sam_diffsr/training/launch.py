"""Where a run computes: device, precision and processes, all through accelerate.

Under ``accelerate launch`` or ``torchrun`` every process trains on its own rows of each batch and only the
first one writes. Alone, nothing has to be launched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sam_diffsr.errors import ConfigError, MissingDependencyError
from sam_diffsr.training.config import Precision, TrainConfig
from sam_diffsr.training.control import pick_device

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["launched", "leave_processes"]

_PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which alone validates and writes."""


@contextlib.contextmanager
def launched(config: TrainConfig, *, folder: Path, trackers: list[str]) -> Generator[Accelerator, None, None]:
    """An accelerator for one run, which leaves nothing behind that a next run would trip over.

    Args:
        config: ``run.device``, ``run.precision``, ``run.accumulate`` and ``data.batch`` matter.
        folder: the run's folder, below which trackers write.
        trackers: names of accelerate's trackers.

    Raises:
        ConfigError: the device is not there or cannot compute in this precision, an index was given although
            there are several processes, or the batch cannot be shared among them.
        MissingDependencyError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, is_initialized
        from accelerate.utils import (
            GradientAccumulationPlugin,
            InitProcessGroupKwargs,
            ProjectConfiguration,
        )
    except ImportError as error:
        raise MissingDependencyError("training needs accelerate: pip install 'sam-diffsr[train]'") from error

    device = pick_device(config.run.device)
    _check_precision(config.run.precision, device)
    names = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
    found = bool(is_initialized())
    index = device.index if device.type == "cuda" and ":" in config.run.device else None
    with contextlib.nullcontext() if index is None else torch.cuda.device(index):
        accelerator: Any = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=names[config.run.precision],
            # a batch is split by the loop; a plugin keeps the environment from dividing the loss once more
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=[*trackers] or None,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        world: int = accelerator.num_processes
        try:
            _check_shares(config, world=world, index=index)
            yield accelerator
        finally:
            if not found:  # the state is shared by the whole process; a process group stays for the next run
                GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
                AcceleratorState._reset_state(reset_partial_state=world == 1)  # pyright: ignore[reportPrivateUsage]


def leave_processes() -> bool:
    """Take this process out of its group, if it is in one, as a program's last act.

    Returns:
        Whether it was the first one, or alone: the one that has something to say.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return True
    first = torch.distributed.get_rank() == 0
    torch.distributed.destroy_process_group()
    return first


def _check_precision(precision: Precision, device: torch.device) -> None:
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"run.precision fp16 needs a CUDA device, not {device.type}; use bf16 or fp32")


def _check_shares(config: TrainConfig, *, world: int, index: int | None) -> None:
    if world > 1 and index is not None:
        raise ConfigError(
            f"run.device {config.run.device!r} names one device, but there are {world} processes; use auto, "
            "which gives each process its own"
        )
    if config.data.batch % (world * config.run.accumulate):
        raise ConfigError(
            f"data.batch is the batch of all processes: it must be a multiple of {world} processes times "
            f"run.accumulate {config.run.accumulate}, got {config.data.batch}"
        )
