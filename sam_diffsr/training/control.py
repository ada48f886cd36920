"""What surrounds a run: device, threads, seeds of single steps, and when to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

import torch

from sam_diffsr.device import resolve_device
from sam_diffsr.errors import ArgumentError, ConfigError

__all__ = ["limit_threads", "mix_seed", "pick_device", "stop_flag"]


def mix_seed(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers (the finalizer of splitmix64), so that neighbours do not resemble."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & mask
    return (value ^ (value >> 31)) >> 1


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the first of CUDA, MPS and CPU that is there.

    Raises:
        ConfigError: no such device, or it is not available here.
    """
    try:
        return resolve_device(name)
    except ArgumentError as error:
        raise ConfigError(f"run.device {name!r} cannot be used: {error}") from error


@contextlib.contextmanager
def limit_threads(count: int | None) -> Generator[None, None, None]:
    """Give torch ``count`` CPU threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def stop_flag(max_seconds: float | None) -> Generator[Callable[[], bool], None, None]:
    """A function that says whether to stop: after SIGTERM or SIGINT (main thread only) or the time limit."""
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
