"""Metrics, and evaluation of models and results on folders of images."""

from __future__ import annotations

from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.measures import artifact_map, artifact_score, colour_shift, grain, ringing
from sam_diffsr.evaluation.methods import sampling_grid
from sam_diffsr.evaluation.metrics import luma, psnr_rgb, psnr_y, ssim_y
from sam_diffsr.evaluation.result import Evaluation

__all__ = [
    "Evaluation",
    "artifact_map",
    "artifact_score",
    "colour_shift",
    "evaluate_methods",
    "grain",
    "luma",
    "psnr_rgb",
    "psnr_y",
    "ringing",
    "sampling_grid",
    "ssim_y",
]
