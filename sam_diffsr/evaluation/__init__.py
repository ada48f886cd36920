"""Metrics, evaluation on folders and the reference procedure; the benchmark is in ``evaluation.bench``."""

from __future__ import annotations

from sam_diffsr.evaluation.evaluate import Evaluation, evaluate_images, sampling_grid
from sam_diffsr.evaluation.metrics import luma, psnr_y, ssim_y
from sam_diffsr.evaluation.reference import ReferenceProcedure, reference_sample

__all__ = [
    "Evaluation",
    "ReferenceProcedure",
    "evaluate_images",
    "luma",
    "psnr_y",
    "reference_sample",
    "sampling_grid",
    "ssim_y",
]
