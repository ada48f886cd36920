"""Scores methods side by side on pairs of ground truth and input, and writes the images they made.

Results are rounded to 8 bit before they are compared, as saved files would be. A table holds means of
per-image values.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from sam_diffsr.config import check_choice
from sam_diffsr.data.degrade import Degradation
from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.environment import describe_commit, describe_machine, describe_versions
from sam_diffsr.evaluation.measures import MEASURES, artifact_score
from sam_diffsr.evaluation.methods import Method, bicubic_method
from sam_diffsr.evaluation.metrics import SSIM_WINDOW, inside, psnr_rgb, psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import Pair, check_names, check_sizes, read_pair, to_gray, to_uint8
from sam_diffsr.evaluation.perceptual import Features, PairDistance, frechet_distance
from sam_diffsr.evaluation.result import MADE_INPUTS, Evaluation, ImageScore, Row, means
from sam_diffsr.evaluation.score_log import ScoreLog
from sam_diffsr.files import writing
from sam_diffsr.image import save_image

logger = logging.getLogger(__name__)

Protocol = Literal["matlab", "paper"]
"""``matlab`` leaves out a border as wide as the scale and scores gray files on gray values, as published
tables do; ``paper`` leaves out nothing and scores gray files as RGB, as the published code does."""

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """The outputs of all methods for one image."""

    damage: str
    """Name of the degradation that made the input; empty for the usual input."""
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
    damages: Sequence[Degradation] = (),
    protocol: Protocol = "matlab",
    seed: int = 0,
    lpips: PairDistance | None = None,
    features: Features | None = None,
    measures: Sequence[str] = (),
    device: str | torch.device = "cpu",
    dataset: str = "",
    on_image: Callable[[ImageResult], None] | None = None,
    log: ScoreLog | None = None,
) -> Evaluation:
    """Score several methods on the same images.

    Args:
        hr_files: Ground truths of any size; cropped at the bottom and right to a multiple of the scale.
        methods: Methods to compare, one row each.
        scale: Upscaling factor of all methods.
        lr_files: Input of each truth; None makes it by MATLAB's bicubic, rounded to 8 bit.
        damages: Degradations that make the inputs from the truths; every method gets one row for each.
        protocol: Pixels that count for PSNR, SSIM, artefacts and LPIPS, and what gray files are.
        seed: Seed of every image's noise and damage.
        lpips: See :func:`~sam_diffsr.evaluation.perceptual.lpips_distance`; None leaves LPIPS out.
        features: See :func:`~sam_diffsr.evaluation.perceptual.inception_features`; None leaves FID out. FID
            compares whole images.
        measures: Further measures, names of :data:`~sam_diffsr.evaluation.measures.MEASURES`.
        device: Device in the record. Unless it is a CPU, each method enlarges the first image twice and the
            second time counts for ``seconds``.
        dataset: Name of the images in the record.
        on_image: Called after each image with everything that was made of it.
        log: Keeps the scores of each image. Gives back those of an earlier run, unless ``on_image`` needs the
            images themselves.

    Raises:
        ArgumentError: Unknown protocol or measure; no files or methods; fewer than two images for FID, or
            FID with kept scores; not one input per truth; or damages with files of inputs or results.
        ImageError: An image cannot be read, is too small to score, or does not fit its truth. Sizes are
            checked for all files first.
        DataError: ``log`` holds scores of other settings.
        OutputError: ``log`` cannot be written.
    """
    # checks that need no pixels
    check_choice(protocol, Protocol, what="protocol", error=ArgumentError)
    if not hr_files:
        raise ArgumentError("there are no images to evaluate on; expected at least one file")
    if not methods:
        raise ArgumentError("there is nothing to evaluate; expected at least one method")
    if lr_files is not None and len(lr_files) != len(hr_files):
        raise ArgumentError(f"expected one input per truth, {len(hr_files)} in all, got {len(lr_files)}")
    if damages and (lr_files is not None or any(method.files for method in methods)):
        raise ArgumentError("damages make inputs from the truths; leave out input files and result files")
    if features is not None and (len(hr_files) < 2 or (log is not None and log.resume)):
        raise ArgumentError("FID needs at least 2 images, all in one run; leave out FID, or do not resume")
    if unknown := [name for name in measures if name not in MEASURES]:
        raise ArgumentError(f"unknown measures {', '.join(unknown)}; expected some of {', '.join(MEASURES)}")
    check_sizes(hr_files, lr_files, scale=scale)

    # the record, and the scores of an earlier run
    measures = list(dict.fromkeys(measures))
    border = scale if protocol == "matlab" else 0
    machine, lr = describe_machine(device), MADE_INPUTS if lr_files is None else str(Path(lr_files[0]).parent)
    lr = f"the truths, damaged by {', '.join(damage.name for damage in damages)}" if damages else lr
    if log is not None:
        settings = {"scale": scale, "protocol": protocol, "seed": seed, "lr": lr, "measures": measures}
        settings |= {"methods": [[method.label, method.identity] for method in methods]}
        log.open({**settings, "lpips": lpips is not None})

    def compute(method: Method, pair: Pair, bicubic: Tensor) -> tuple[Tensor, ImageScore]:
        """Enlarge one input by one method; the 8-bit result and its scores."""
        started = time.perf_counter()
        sr = to_uint8(method.enlarge(pair, seed)).cpu()  # the copy waits for the device
        seconds = time.perf_counter() - started
        gray = pair.gray and protocol == "matlab"
        sr = to_gray(sr) if gray else sr
        return sr, ImageScore(
            name=pair.name,
            psnr_y=psnr_y(sr, pair.hr, border=border, data_range=255, gray=gray).item(),
            ssim_y=ssim_y(sr, pair.hr, border=border, data_range=255, gray=gray).item(),
            psnr_rgb=psnr_rgb(sr, pair.hr, border=border, data_range=255).item(),
            artifacts=artifact_score(sr, pair.hr, border=border, data_range=255).item(),
            lpips=None if lpips is None else lpips(inside(sr, border), inside(pair.hr, border)),
            seconds=None if method.kind == "images" else seconds,
            measures={key: MEASURES[key].of_image(sr, pair.hr, bicubic, border=border) for key in measures},
        )

    # for each damage and method: scores of all images, and their features for FID
    cases: dict[str, Degradation | None] = {damage.name: damage for damage in damages} or {"": None}
    scored: dict[str, list[tuple[ImageScore, ...]]] = {name: [] for name in cases}
    embedded: dict[str, list[list[Tensor]]] = {name: [] for name in cases}
    truths: list[Tensor] = []
    cropped: list[str] = []
    gray: list[str] = []
    needs_warm_up, smallest = machine["device"] != "cpu", SSIM_WINDOW + 2 * border
    for index, hr_file in enumerate(hr_files):
        lr_file = None if lr_files is None else Path(lr_files[index])
        files = [Path(hr_file), *([] if lr_file is None else [lr_file])]
        files += [method.files[index] for method in methods if method.files]
        for name, damage in cases.items():
            # the pair is read even if its scores are kept: it says whether it is gray or cropped
            pair = read_pair(
                hr_file, scale=scale, lr_file=lr_file, damage=damage, seed=seed, smallest=smallest
            )
            if name == next(iter(cases)):
                cropped += [pair.name] * pair.cropped
                gray += [pair.name] * (pair.gray and protocol == "matlab")
                truths += [] if features is None else [features(pair.hr)]
            kept = None if log is None or on_image is not None else log.find(pair.name, name, files=files)
            if kept is not None:
                scored[name].append(kept)
                continue

            # enlarge and score; an accelerator loads and chooses its kernels at the first call
            bicubic = to_uint8(bicubic_method(scale).enlarge(pair, 0)) if measures else pair.hr
            for method in methods if needs_warm_up else ():
                compute(method, pair, bicubic)
            needs_warm_up = False
            outputs, scores = zip(*(compute(method, pair, bicubic) for method in methods), strict=True)
            scored[name].append(scores)

            # report and keep
            if features is not None:
                embedded[name].append([features(output) for output in outputs])
            if on_image is not None:
                on_image(ImageResult(damage=name, pair=pair, outputs=outputs, scores=scores))
            if log is not None:
                log.add(pair.name, name, files=files, scores=scores)
            brief = [f"{one.label} {own.psnr_y:.2f} dB" for one, own in zip(methods, scores, strict=True)]
            brief[4:] = [f"and {len(brief) - 4} more"] if len(brief) > 4 else []
            which = f"{pair.name}, {name}" if name else pair.name
            logger.info("[%d/%d] %s: %s", index + 1, len(hr_files), which, "; ".join(brief))

    rows: list[Row] = []
    for name, (index, method) in itertools.product(cases, enumerate(methods)):
        images = tuple(scores[index] for scores in scored[name])
        vectors = [vectors[index] for vectors in embedded[name]]
        row = Row(
            label=f"{name}: {method.label}" if name else method.label,
            damage=name,
            method=method.kind,
            name=method.name,
            sampling=method.setting and method.setting.sampling,
            fidelity=method.setting and method.setting.fidelity,
            images=images,
            fid=None if features is None else frechet_distance(truths, vectors),
            **means(images),
        )
        rows.append(row)
    packages = ["lpips"] * (lpips is not None) + ["torch-fidelity"] * (features is not None)
    return Evaluation(
        dataset=dataset,
        protocol=protocol,
        scale=scale,
        border=border,
        seed=seed,
        lr=lr,
        cropped=tuple(cropped),
        gray=tuple(gray),
        rows=tuple(rows),
        machine=machine,
        versions=describe_versions(extra=packages),
        commit=describe_commit(),
    )


def result_writer(
    root: PathLike,
    methods: Sequence[Method],
    *,
    hr_files: Sequence[PathLike],
    lr_files: Sequence[PathLike] | None = None,
    damages: Sequence[str] = (),
) -> Callable[[ImageResult], None]:
    """Make a folder per row in ``root``, and a function for ``on_image`` of :func:`evaluate_methods`.

    The function writes the inputs and results of these methods as PNG files named like the truth. ``damages``
    are the names of the degradations.

    Raises:
        ArgumentError: A folder holds images that are evaluated; nothing is made.
        ImageError: Two truths would share one file of results; nothing is made.
        OutputError: A folder or, later, a file cannot be written.
    """
    check_names(hr_files, unclear=f"whose results {root} is to hold")
    names = ["lr"]
    for method in methods:
        numbered = (f"{method.folder_name}_{count}" for count in itertools.count(2))
        names.append(next(n for n in itertools.chain([method.folder_name], numbered) if n not in names))
    folders = {damage: [Path(root, damage, name) for name in names] for damage in damages or [""]}
    files = itertools.chain(hr_files, lr_files or (), *(method.files for method in methods))
    read = {Path(file).resolve().parent for file in files}
    for folder in itertools.chain(*folders.values()):
        if folder.resolve() in read:
            raise ArgumentError(f"{folder} holds images to evaluate; save the results in another folder")
    with writing("the folders of results in", root):
        for folder in itertools.chain(*folders.values()):
            folder.mkdir(parents=True, exist_ok=True)

    def write(result: ImageResult) -> None:
        images = (result.pair.lr, *result.outputs)
        for folder, output in zip(folders[result.damage], images, strict=True):
            image = Image.fromarray(output[0].permute(1, 2, 0).contiguous().numpy())
            save_image(image, folder / f"{result.pair.stem}.png")

    return write
