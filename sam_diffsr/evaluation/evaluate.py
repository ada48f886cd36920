"""One evaluator for every quality number: methods side by side on pairs of truth and input.

Results are rounded to 8 bit before they are compared, as saved files would be. A table holds means of
per-image values. Everything that a number depends on is recorded beside it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.artifacts import artifact_score
from sam_diffsr.evaluation.environment import describe_commit, describe_machine, describe_versions
from sam_diffsr.evaluation.measures import MEASURES, check_measures, take
from sam_diffsr.evaluation.methods import Method, bicubic_method, encoder_only, model_methods
from sam_diffsr.evaluation.metrics import psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import Pair, check_sizes, make_pair, read_pair, to_uint8
from sam_diffsr.evaluation.perceptual import Features, PairDistance, frechet_distance
from sam_diffsr.evaluation.result import MADE_INPUTS, Evaluation, ImageScore, Row
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = [
    "ImageResult",
    "Protocol",
    "encoder_only",
    "evaluate_images",
    "evaluate_methods",
    "make_pair",
]

logger = logging.getLogger(__name__)

Protocol = Literal["matlab", "paper"]
"""``matlab`` leaves out a border as wide as the scale, ``paper`` leaves out nothing."""

PathLike = str | os.PathLike[str]
_SSIM_WINDOW = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """What all methods made of one image."""

    pair: Pair
    """Truth and input."""
    outputs: tuple[Tensor, ...]
    """For each method ``(1, 3, H, W)`` uint8 on the CPU."""
    scores: tuple[ImageScore, ...]
    """For each method."""


def evaluate_methods(
    hr_files: Sequence[PathLike],
    methods: Sequence[Method],
    *,
    scale: int,
    lr_files: Sequence[PathLike] | None = None,
    protocol: Protocol = "matlab",
    seed: int = 0,
    lpips: PairDistance | None = None,
    features: Features | None = None,
    measures: Sequence[str] = (),
    device: str | torch.device = "cpu",
    dataset: str = "",
    on_image: Callable[[ImageResult], None] | None = None,
) -> Evaluation:
    """Score several methods on the same images.

    Args:
        hr_files: ground truths of any size; cropped at the bottom and right to a multiple of the scale.
        methods: what is compared, one row each.
        scale: upscaling factor of all of them.
        lr_files: the input of each truth; None makes it by MATLAB's bicubic, rounded to 8 bit.
        protocol: which pixels count for PSNR, SSIM, artefacts and LPIPS.
        seed: of every image's noise.
        lpips: see :func:`~sam_diffsr.evaluation.perceptual.lpips_distance`; None leaves LPIPS out.
        features: see :func:`~sam_diffsr.evaluation.perceptual.inception_features`; None leaves FID out. FID
            compares whole images.
        measures: names of :data:`~sam_diffsr.evaluation.measures.MEASURES` to take, too.
        device: what the record says of the machine. If it is no CPU, the first image is enlarged twice by
            each method, and the second time counts for ``seconds``.
        dataset: what the record calls the images.
        on_image: called after each image with everything that was made of it.

    Raises:
        ArgumentError: unknown protocol or measure, no files, no methods, fewer than two images for FID, or
            another number of inputs than of truths.
        ImageError: an image cannot be read, is too small to be scored, or does not fit its truth. Sizes are
            checked for all files first.
    """
    if protocol not in get_args(Protocol):
        raise ArgumentError(f"protocol must be one of {', '.join(get_args(Protocol))}; got {protocol!r}")
    if not hr_files:
        raise ArgumentError("there are no images to evaluate on; expected at least one file")
    if not methods:
        raise ArgumentError("there is nothing to evaluate; expected at least one method")
    if lr_files is not None and len(lr_files) != len(hr_files):
        raise ArgumentError(f"expected one input a truth, {len(hr_files)} in all, got {len(lr_files)}")
    if features is not None and len(hr_files) < 2:
        raise ArgumentError("FID compares two sets of at least 2 images, got 1; leave it out")
    measures = check_measures(measures)
    check_sizes(hr_files, scale=scale, inputs=lr_files)
    border = scale if protocol == "matlab" else 0
    machine = describe_machine(device)

    scored: list[list[ImageScore]] = [[] for _ in methods]
    truths: list[Tensor] = []
    embedded: list[list[Tensor]] = [[] for _ in methods]
    cropped: list[str] = []
    for index, hr_file in enumerate(hr_files):
        lr_file = None if lr_files is None else lr_files[index]
        pair = read_pair(hr_file, scale=scale, lr_file=lr_file, smallest=_SSIM_WINDOW + 2 * border)
        cropped += [pair.name] if pair.cropped else []
        outputs: list[Tensor] = []
        if index == 0 and machine["device"] != "cpu":
            _warm_up(methods, pair, seed)
        others = _compared_with(pair, measures, scale=scale)
        for method, scores in zip(methods, scored, strict=True):
            output, seconds = _enlarge(method, pair, seed)
            outputs.append(output)
            scores.append(_score(pair, output, border=border, lpips=lpips, others=others, seconds=seconds))
        if features is not None:
            truths.append(features(pair.hr))
            for vectors, output in zip(embedded, outputs, strict=True):
                vectors.append(features(output))
        latest = tuple(scores[-1] for scores in scored)
        logger.info("[%d/%d] %s: %s", index + 1, len(hr_files), pair.name, _brief(methods, latest, most=4))
        if on_image is not None:
            on_image(ImageResult(pair=pair, outputs=tuple(outputs), scores=latest))
    rows = tuple(
        Row(
            method=method.kind,
            name=method.name,
            sampling=method.sampling,
            images=tuple(scores),
            fid=None if features is None else frechet_distance(truths, vectors),
        )
        for method, scores, vectors in zip(methods, scored, embedded, strict=True)
    )
    return Evaluation(
        dataset=dataset,
        protocol=protocol,
        scale=scale,
        border=border,
        seed=seed,
        lr=MADE_INPUTS if lr_files is None else str(Path(lr_files[0]).parent),
        cropped=tuple(cropped),
        rows=rows,
        machine=machine,
        versions=describe_versions(extra=_extra_packages(lpips, features)),
        commit=describe_commit(),
    )


def evaluate_images(
    resolver: SuperResolver,
    files: Sequence[PathLike],
    *,
    model_name: str,
    settings: Sequence[SamplingConfig] | None = None,
    protocol: Protocol = "matlab",
    seed: int = 0,
    on_image: Callable[[ImageResult], None] | None = None,
) -> Evaluation:
    """Score bicubic, the encoder alone and one model on high-resolution images.

    Args:
        resolver: the model.
        files: high-resolution images, see :func:`evaluate_methods`.
        model_name: what the result calls the model.
        settings: how the model samples, one row each, see
            :func:`~sam_diffsr.evaluation.methods.sampling_grid`; None is its default.
        protocol: which pixels count.
        seed: of every image's noise.
        on_image: called after each image.

    Raises:
        ArgumentError: unknown protocol, or no files.
        ImageError: an image cannot be read, or is too small to be scored.
    """
    methods = [
        bicubic_method(resolver.scale),
        *model_methods(resolver, name=model_name, settings=settings),
    ]
    return evaluate_methods(
        files,
        methods,
        scale=resolver.scale,
        protocol=protocol,
        seed=seed,
        device=resolver.device,
        on_image=on_image,
    )


def _warm_up(methods: Sequence[Method], pair: Pair, seed: int) -> None:
    """Accelerators load and choose their kernels at the first call, which is no part of a time."""
    for method in methods:
        if method.kind != "images":
            method.enlarge(pair, seed)


def _enlarge(method: Method, pair: Pair, seed: int) -> tuple[Tensor, float | None]:
    started = time.perf_counter()
    output = to_uint8(method.enlarge(pair, seed)).cpu()  # the copy waits for the device
    seconds = time.perf_counter() - started
    return output, None if method.kind == "images" else seconds


def _score(
    pair: Pair,
    sr: Tensor,
    *,
    border: int,
    lpips: PairDistance | None,
    others: Mapping[str, Tensor],
    seconds: float | None,
) -> ImageScore:
    distance = None
    if lpips is not None:
        height, width = pair.hr.shape[-2:]
        inside = (..., slice(border, height - border), slice(border, width - border))
        distance = lpips(sr[inside], pair.hr[inside])
    return ImageScore(
        name=pair.name,
        psnr_y=psnr_y(sr, pair.hr, border=border, data_range=255).item(),
        ssim_y=ssim_y(sr, pair.hr, border=border, data_range=255).item(),
        artifacts=artifact_score(sr, pair.hr, border=border, data_range=255).item(),
        lpips=distance,
        seconds=seconds,
        measures={name: take(name, sr, other, border=border) for name, other in others.items()},
    )


def _compared_with(pair: Pair, measures: Sequence[str], *, scale: int) -> dict[str, Tensor]:
    """For each measure the image that results are compared with."""
    wanted = {MEASURES[name].against for name in measures}
    bicubic = to_uint8(bicubic_method(scale).enlarge(pair, 0)) if "bicubic" in wanted else pair.hr
    return {name: bicubic if MEASURES[name].against == "bicubic" else pair.hr for name in measures}


def _brief(methods: Sequence[Method], scores: Sequence[ImageScore], *, most: int) -> str:
    shown = [f"{method.label} {score.psnr_y:.2f} dB" for method, score in zip(methods, scores, strict=True)]
    more = f"; and {len(shown) - most} more" if len(shown) > most else ""
    return "; ".join(shown[:most]) + more


def _extra_packages(lpips: PairDistance | None, features: Features | None) -> tuple[str, ...]:
    return (("lpips",) if lpips is not None else ()) + (("torch-fidelity",) if features is not None else ())
