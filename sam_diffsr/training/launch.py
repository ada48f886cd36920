"""The surroundings of a run: its accelerator (device, precision, processes, trackers), threads, stop signals.

Under ``accelerate launch`` or ``torchrun`` every process trains on its own rows of each batch, and only the
first one writes. A single process needs no launcher.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sam_diffsr.device import resolve_device
from sam_diffsr.errors import ArgumentError, ConfigError, MissingDependencyError
from sam_diffsr.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

_PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one while it validates and writes."""


@contextlib.contextmanager
def launched(config: TrainConfig, *, folder: Path) -> Generator[Accelerator, None, None]:
    """Make an accelerator for one run in ``folder`` and set torch's CPU threads; undo both afterwards."""
    try:
        from accelerate import Accelerator, utils
        from accelerate.state import AcceleratorState, GradientState, is_initialized
    except ImportError as error:
        raise MissingDependencyError("training needs accelerate: pip install 'sam-diffsr[train]'") from error
    trackers = tracker_names(config.run.tracker)

    # the device and its precision
    name, precision = config.run.device, config.run.precision
    try:
        device = resolve_device(name)
    except ArgumentError as error:
        raise ConfigError(f"run.device {name!r} cannot be used: {error}") from error
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"run.precision fp16 needs a CUDA device, not {device.type}; use bf16 or fp32")
    index = device.index if device.type == "cuda" and ":" in name else None
    found, threads = bool(is_initialized()), torch.get_num_threads()
    with contextlib.nullcontext() if index is None else torch.cuda.device(index):
        accelerator: Any = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            # the trainer splits batches; with a plugin the environment cannot divide the loss a second time
            gradient_accumulation_plugin=utils.GradientAccumulationPlugin(num_steps=1),
            log_with=[*trackers] or None,
            project_config=utils.ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
            kwargs_handlers=[utils.InitProcessGroupKwargs(timeout=_PATIENCE)],
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
            if config.run.threads is not None:
                torch.set_num_threads(config.run.threads)
            yield accelerator
        finally:
            torch.set_num_threads(threads)
            if not found:  # the process group stays for the next run
                GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
                AcceleratorState._reset_state(reset_partial_state=world == 1)  # pyright: ignore[reportPrivateUsage]


def tracker_names(tracker: str) -> list[str]:
    """Translate ``run.tracker`` to the names of accelerate's trackers, whose packages must be installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    usable = sorted(str(name) for name in cast("list[Any]", get_available_trackers()))
    if tracker in ("jsonl", "none"):
        return []
    if tracker == "auto":
        return ["tensorboard"] if "tensorboard" in usable else []
    if tracker not in LOGGER_TYPE_TO_CLASS:
        raise ConfigError(
            f"run.tracker must be auto, jsonl, none or a tracker that accelerate knows "
            f"({', '.join(sorted(LOGGER_TYPE_TO_CLASS))}), got {tracker!r}"
        )
    if tracker not in usable:
        raise MissingDependencyError(
            f"run.tracker {tracker} needs its package: pip install {tracker.replace('_', '-')}, or choose "
            f"one of {', '.join([*usable, 'jsonl', 'none'])}"
        )
    return [tracker]


def worker_count(wanted: int | None, device: torch.device) -> int:
    """Processes that make batches for this one: as wanted, or by the device and the cores it may use."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and accelerate
    return min(16, max(1, cores // processes - 1)) if device.type == "cuda" else 0


def leave_processes() -> bool:
    """Leave the process group, if there is one; say whether this is the first process, which reports."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return True
    first = torch.distributed.get_rank() == 0
    torch.distributed.destroy_process_group()
    return first


@contextlib.contextmanager
def stop_flag(max_seconds: float | None) -> Generator[Callable[[], bool], None, None]:
    """Give a function that tells whether SIGTERM, SIGINT (main thread only) or the time limit came."""
    stop = threading.Event()
    deadline = float("inf") if max_seconds is None else time.monotonic() + max_seconds
    main = threading.current_thread() is threading.main_thread()

    def request(*_: object) -> None:
        stop.set()

    signals = (signal.SIGTERM, signal.SIGINT) if main else ()
    before = {number: signal.signal(number, request) for number in signals}
    try:
        yield lambda: stop.is_set() or time.monotonic() > deadline
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
