"""Measures speed and memory; ``sam-diffsr bench`` prints the results.

What is compared is timed in turns in one run, so that both sides see the machine in the same state.
"""

from __future__ import annotations

from sam_diffsr.bench.masks import measure_masks
from sam_diffsr.bench.reference import ReferenceProcedure
from sam_diffsr.bench.result import BenchResult, to_json
from sam_diffsr.bench.training import measure_training
from sam_diffsr.bench.upscaling import measure_folder, measure_image, measure_memory, measure_step

__all__ = [
    "BenchResult",
    "ReferenceProcedure",
    "measure_folder",
    "measure_image",
    "measure_masks",
    "measure_memory",
    "measure_step",
    "measure_training",
    "to_json",
]
