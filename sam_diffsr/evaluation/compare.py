"""From names of models and folders to the methods that are compared, and back to files of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.evaluation.evaluate import ImageResult
from sam_diffsr.evaluation.methods import Method, results_method
from sam_diffsr.evaluation.pairs import check_sizes, image_size, match_files
from sam_diffsr.image import save_image
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.folder import find_images

__all__ = ["ResultFolders", "common_scale", "split_label", "results_methods"]

PathLike = str | os.PathLike[str]


def split_label(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``, or of a value alone, which is named like its last part.

    A value that exists as a file or folder is never taken apart.
    """
    name, equals, value = text.partition("=")
    if equals and name and value and not Path(text).exists():
        return name, value
    path = Path(text)
    return (path.resolve().name if path.exists() else text), text


def common_scale(
    scales: Sequence[int], *, asked: int | None = None, hr_file: PathLike, lr_file: PathLike | None = None
) -> int:
    """The one factor that a comparison is at.

    Args:
        scales: of the models.
        asked: what the caller wants it to be.
        hr_file: a truth.
        lr_file: its input; without models the factor is that of the two.

    Returns:
        The models' factor; else the one asked for; else that of the files; else the default of a model.

    Raises:
        ArgumentError: models of different factors, or of another one than asked for, or less than 2.
        ImageError: a file cannot be opened.
    """
    wanted = set(scales) | ({asked} if asked is not None else set[int]())
    if len(wanted) > 1:
        names = " and ".join(str(scale) for scale in sorted(wanted))
        raise ArgumentError(f"one comparison is at one factor, got {names}; evaluate them one after the other")
    if wanted:
        scale = wanted.pop()
    elif lr_file is not None:
        scale = max(2, round(image_size(hr_file)[0] / image_size(lr_file)[0]))
    else:
        scale = ModelConfig().scale
    if scale < 2:
        raise ArgumentError(f"scale must be at least 2, got {scale}")
    return scale


def results_methods(
    folders: Sequence[tuple[str, PathLike]], hr_files: Sequence[PathLike], *, scale: int
) -> list[Method]:
    """One method for each folder of results, with every file found and of the right size.

    Args:
        folders: names and folders.
        hr_files: ground truths.
        scale: upscaling factor, which decides how truths are cropped and what names may say.

    Raises:
        ImageError: no such folder, a truth without a result or with several, or a wrong size; files are named.
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

    Raises:
        OutputError: a folder cannot be made, or ``add`` cannot write a file.
    """

    def __init__(self, root: PathLike, methods: Sequence[Method]) -> None:
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
