"""The surroundings of a run: device, precision and processes through accelerate, CPU threads, stop signals.

Under ``accelerate launch`` or ``torchrun`` every process trains on its own rows of each batch, and only the
first one writes. A single process needs no launcher.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from sam_diffsr.device import resolve_device
from sam_diffsr.errors import ArgumentError, ConfigError, MissingDependencyError
from sam_diffsr.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["launched", "leave_processes", "limit_threads", "stop_flag"]

_PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one while it validates and writes."""


@contextlib.contextmanager
def launched(config: TrainConfig, *, folder: Path, trackers: list[str]) -> Generator[Accelerator, None, None]:
    """Make an accelerator for one run in ``folder``, and clear accelerate's global state afterwards.

    Raises:
        ConfigError: the device is not available or does not support the precision, one device is named for
            several processes, or the batch cannot be divided among them.
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

    # the device and its precision
    name, precision = config.run.device, config.run.precision
    try:
        device = resolve_device(name)
    except ArgumentError as error:
        raise ConfigError(f"run.device {name!r} cannot be used: {error}") from error
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"run.precision fp16 needs a CUDA device, not {device.type}; use bf16 or fp32")
    index = device.index if device.type == "cuda" and ":" in name else None
    found = bool(is_initialized())
    with contextlib.nullcontext() if index is None else torch.cuda.device(index):
        accelerator: Any = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            # the trainer splits batches; with a plugin the environment cannot divide the loss a second time
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=[*trackers] or None,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        world: int = accelerator.num_processes
        try:
            if world > 1 and index is not None:
                raise ConfigError(
                    f"run.device {name!r} names one device, but there are {world} processes; use auto, which "
                    "gives each process its own"
                )
            if config.data.batch % (world * config.run.accumulate):
                raise ConfigError(
                    f"data.batch is the batch of all processes: it must be a multiple of {world} processes "
                    f"times run.accumulate {config.run.accumulate}, got {config.data.batch}"
                )
            yield accelerator
        finally:
            if not found:  # the process group stays for the next run
                GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
                AcceleratorState._reset_state(reset_partial_state=world == 1)  # pyright: ignore[reportPrivateUsage]


def leave_processes() -> bool:
    """Leave the process group, if there is one, at the end of a program.

    Returns:
        Whether this is the first process, which reports the result.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return True
    first = torch.distributed.get_rank() == 0
    torch.distributed.destroy_process_group()
    return first


@contextlib.contextmanager
def limit_threads(count: int | None) -> Generator[None, None, None]:
    """Set torch's CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def stop_flag(max_seconds: float | None) -> Generator[Callable[[], bool], None, None]:
    """Give a function that tells whether SIGTERM, SIGINT (main thread only) or the time limit came."""
    event = threading.Event()
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    previous: dict[signal.Signals, Any] = {}

    def set_event(number: int, frame: FrameType | None) -> None:
        event.set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, set_event)
    try:
        yield lambda: event.is_set() or (deadline is not None and time.monotonic() > deadline)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
