"""From names of models and folders to the methods that are compared, and back to files of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from sam_diffsr.data import find_dataset
from sam_diffsr.device import Precision
from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.evaluation.evaluate import ImageResult
from sam_diffsr.evaluation.methods import Method, results_method
from sam_diffsr.evaluation.pairs import check_names, check_sizes, match_files
from sam_diffsr.image import save_image
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.batch import find_images
from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["ResultFolders", "common_scale", "find_pairs", "load_models", "results_methods", "split_labels"]

PathLike = str | os.PathLike[str]


def split_labels(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of ``NAME=VALUE``, or of values alone.

    A path is named like its last part, anything else like itself. A value that exists as a file or folder is
    never taken apart.

    Raises:
        ArgumentError: two have one name.
    """
    labelled: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value) or Path(text).exists():
            name, value = (Path(text).resolve().name if Path(text).exists() else text), text
        same = next((other for known, other in labelled if known == name), None)
        if same is not None:
            raise ArgumentError(
                f"{same} and {value} are both called {name}; give one another name, like second={value}"
            )
        labelled.append((name, value))
    return labelled


def load_models(
    labelled: Sequence[tuple[str, str]],
    *,
    default: bool = True,
    device: str | torch.device = "auto",
    dtype: Precision | torch.dtype = "auto",
) -> list[tuple[str, SuperResolver]]:
    """Load models by name.

    Args:
        labelled: what results call a model, and where it comes from, as ``from_pretrained`` takes it.
        default: load the bundled model when there is none.
        device: see :class:`~sam_diffsr.pipeline.resolver.SuperResolver`.
        dtype: see there.

    Raises:
        ModelLoadError: a model cannot be found or read.
    """
    wanted = list(labelled) or ([(DEFAULT_MODEL, DEFAULT_MODEL)] if default else [])
    return [
        (name, SuperResolver.from_pretrained(source, device=device, dtype=dtype)) for name, source in wanted
    ]


def common_scale(scales: Sequence[int], *, asked: int | None = None) -> int:
    """The one factor that a comparison is at: the models', else the one asked for, else a model's default.

    Raises:
        ArgumentError: models of different factors, or of another one than asked for, or a factor below 2.
    """
    wanted: list[int] = sorted({*scales} | ({asked} if asked is not None else set()))
    if len(wanted) > 1:
        raise ArgumentError(
            f"a comparison is at one factor, got {' and '.join(map(str, wanted))}; evaluate them separately"
        )
    scale = wanted[0] if wanted else ModelConfig().scale
    if scale < 2:
        raise ArgumentError(f"scale must be at least 2, got {scale}")
    return scale


def find_pairs(
    hr: PathLike, lr: PathLike | None = None, *, scale: int
) -> tuple[list[Path], list[Path] | None]:
    """Truths and inputs below folders.

    Args:
        hr: a folder of high-resolution images, or a data set as
            :func:`~sam_diffsr.data.find_dataset` knows it.
        lr: a folder of low-resolution images; None takes those that the data set has, if any.
        scale: factor between the two.

    Returns:
        The truths, sorted, and an input for each, or None where inputs have to be made.

    Raises:
        DataError: no such data set, or no images in it, or inputs for only some of them.
        ImageError: ``lr`` is no folder, or lacks an input, which is named.
    """
    found = find_dataset(hr, scale=scale)
    if lr is None:
        return found.hr, found.lr
    return found.hr, match_files(found.hr, find_images(lr), scale=scale, what=f"an input in {lr}")


def results_methods(
    folders: Sequence[tuple[str, PathLike]], hr_files: Sequence[PathLike], *, scale: int
) -> list[Method]:
    """One method for each folder of results, with every file found and of the right size.

    Args:
        folders: names and folders.
        hr_files: ground truths.
        scale: upscaling factor, which decides how truths are cropped and what names may say.

    Raises:
        ImageError: no such folder, a truth without a result or with several, or a wrong size; files are
            named.
    """
    methods: list[Method] = []
    for name, folder in folders:
        files = match_files(hr_files, find_images(folder), scale=scale, what=f"a result in {folder}")
        check_sizes(hr_files, scale=scale, results=[files])
        methods.append(results_method(hr_files, files, name=name))
    return methods


class ResultFolders:
    """Writes what every method made, as PNG files named like the truth, one folder a method.

    Args:
        root: folder of the folders; made if need be.
        methods: what is compared; ``evaluate_methods`` is called with ``on_image=folders.add``.
        hr_files: ground truths, whose names without ending the results get.

    Raises:
        ImageError: two truths would have one file of results; both are named, and nothing is made.
        OutputError: a folder cannot be made, or ``add`` cannot write a file.
    """

    def __init__(self, root: PathLike, methods: Sequence[Method], *, hr_files: Sequence[PathLike]) -> None:
        check_names(hr_files, doubt=f"whose results {root} is to hold")
        self.folders: list[Path] = []
        for method in methods:
            name, count = method.folder_name, 1
            while Path(root) / name in self.folders:
                count += 1
                name = f"{method.folder_name}_{count}"
            self.folders.append(Path(root) / name)
        try:
            for folder in self.folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folders of results in {root}: {error}") from error

    def add(self, result: ImageResult) -> None:
        """Write one image of each method."""
        for folder, output in zip(self.folders, result.outputs, strict=True):
            image = Image.fromarray(output[0].permute(1, 2, 0).contiguous().numpy())
            save_image(image, folder / f"{result.pair.stem}.png")
