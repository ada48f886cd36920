"""Times tasks in turns, and holds the figures of a measurement: with plain labels, as text and as JSON."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.environment import describe_machine, describe_versions
from sam_diffsr.evaluation.report import text_table

logger = logging.getLogger("sam_diffsr.bench")

Rows = Sequence[Mapping[str, str | float | None]]

_STEP = "Denoising step, time relative to the reference"
_IMAGE = "Whole image, speed relative to the reference"
_LABELS = {
    "step_ratio": f"{_STEP} (released architecture)",
    "step_ratio_bundled": f"{_STEP} (networks of this model)",
    "gemm_fraction": "Throughput of a step relative to a plain matrix product (released architecture)",
    "image_speedup": f"{_IMAGE} (both with the released architecture)",
    "image_speedup_bundled": f"{_IMAGE} (this model; reference with the released architecture)",
    "image_speedup_bundled_same_networks": f"{_IMAGE} (both with the networks of this model)",
    "peak_memory_mb": "Peak memory of a process that upscales the image, MB (released architecture)",
    "peak_memory_mb_bundled": "Peak memory of a process that upscales the image, MB (this model)",
    "memory": "Memory beyond the loaded process, and time, per input size",
    "folder_speedup": "Folder of photographs of equal size, speed relative to one by one",
    "folder_images_per_hour": "The same, photographs per hour",
    "mixed_folder_speedup": "Folder of photographs of different sizes, speed relative to one by one",
    "mixed_folder_images_per_hour": "The same, photographs per hour",
    "train": "Training step on batches made as in a run, time relative to a step on random tensors",
    "encode_speedup": "Encoding of regions, speed relative to decoding and painting each mask",
    "encode_difference": "Largest difference of the two fields",
    "encode_scaling": "Encoding of other images, time relative to the first",
    "smaller_than_npy": "Size of a float32 .npy file relative to the stored field",
}
"""What each figure means, by its JSON key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """Figures of one measurement."""

    name: str
    """What was measured, as ``sam-diffsr bench`` calls it."""
    figures: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Numbers by JSON key; None for what cannot be measured here."""
    tables: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    """Rows of tables by JSON key; all rows of a table have the same columns."""
    settings: Mapping[str, Any]
    """Sizes, repeats and the model."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Median times that the ratios were made from."""

    def text(self) -> str:
        """One line per number, then the tables, each under its label."""
        lines = [f"{_LABELS[key]}: {_word(value)}" for key, value in self.figures.items()]
        for key, rows in self.tables.items():
            header = [name.replace("_", " ") for name in rows[0]]
            table = text_table(header, [[_word(cell) for cell in row.values()] for row in rows])
            lines.append(f"{_LABELS[key]}:\n{table}")
        return "\n".join(lines)


def to_json(results: Sequence[BenchResult], *, device: str | torch.device = "auto") -> dict[str, Any]:
    """All measurements of a run as one JSON object.

    Figures and tables by key; ``seconds`` and ``settings`` by measurement; ``machine`` and ``versions``.

    Raises:
        ArgumentError: this machine does not have the device.
    """
    merged: dict[str, Any] = {}
    for result in results:
        merged |= {**result.figures, **result.tables}
    return {
        **merged,
        "seconds": {result.name: result.seconds for result in results},
        "settings": {result.name: result.settings for result in results},
        "machine": describe_machine(device),
        "versions": describe_versions(),
    }


def _word(value: str | float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def at_least(least: int, numbers: Mapping[str, int]) -> None:
    """Raise ``ArgumentError`` for a number below the least."""
    for name, number in numbers.items():
        if number < least:
            raise ArgumentError(f"{name} must be >= {least}, got {number}")


class Timed(dict[str, list[float]]):
    """Seconds of tasks by name, one per round."""

    def medians(self) -> dict[str, float]:
        """Median seconds of each task."""
        return {name: statistics.median(values) for name, values in self.items()}

    def ratio(self, above: str, below: str) -> float:
        """Median over the rounds of the ratio of two tasks; a round on a busy machine counts once."""
        return statistics.median(own / other for own, other in zip(self[above], self[below], strict=True))


def time_in_turns(
    what: str,
    tasks: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device | None = None,
) -> Timed:
    """Run every task once per round, in order, after a first round that does not count.

    ``device`` is waited for before and after each task; None is the CPU. ``what`` is for the log.
    """
    logger.info("measuring: %s", what)
    timed = Timed({name: [] for name in tasks})
    for _ in range(repeats + 1):
        for name, task in tasks.items():
            _wait_for(device)
            started = time.perf_counter()
            task()
            _wait_for(device)
            timed[name].append(time.perf_counter() - started)
    return Timed({name: values[1:] for name, values in timed.items()})


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()
