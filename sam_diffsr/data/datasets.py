"""Super-resolution data sets as they come: where their HR images and, if there are any, LR images lie.

Names are those of DIV2K, Flickr2K, DF2K and of the usual benchmarks, plus flat folders of images.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sam_diffsr.data.layouts import is_lr_folder, refuse_mixed, selfexsr_pairs
from sam_diffsr.data.photos import PHOTO_SUFFIXES, list_photos
from sam_diffsr.errors import DataError

__all__ = ["Dataset", "find_dataset", "hr_folders", "photo_folders"]

logger = logging.getLogger(__name__)

HR_FOLDERS = (
    "HR",
    "GTmod12",
    "GTmod8",
    "GTmod4",
    "GT",
    "original",
    "DF2K_train_HR",
    "DF2K_HR",
    "DIV2K_train_HR",
    "Flickr2K_HR",
    "DIV2K_valid_HR",
    "DF2K_HR_sub",
    "DF2K_train_HR_sub",
    "DIV2K_train_HR_sub",
    "Flickr2K_HR_sub",
)
"""Names of folders that hold HR images, best first where only one of them is wanted."""

COMMON_NAMES = frozenset({"HR", "GT", "original"})
"""Those of them that folders of other photographs have, too."""

TOGETHER = (
    ("DIV2K_train_HR", "Flickr2K_HR"),
    ("DIV2K_train_HR_sub", "Flickr2K_HR_sub"),
)
"""Folders that are one data set (DF2K) when they lie side by side."""

LR_FOLDERS = (
    "LR_bicubic/X{scale}",
    "LR_bicubic/x{scale}",
    "LRbicx{scale}",
    "LR/X{scale}",
    "LR/x{scale}",
    "LR_bicubic",
    "LR",
)
"""Folders beside the HR folder that may hold LR images."""


@dataclass(frozen=True)
class Dataset:
    """Files of a data set, in the order of their names."""

    hr: list[Path]
    """HR images."""
    lr: list[Path] | None
    """LR images, one for each HR image; None when the data set has none."""


def find_dataset(root: str | os.PathLike[str], *, scale: int = 4, inputs: bool = True) -> Dataset:
    """Find the images of a data set.

    These are understood: a flat folder of images; ``HR`` with ``LR_bicubic/X4``; ``GTmod12`` with
    ``LRbicx4``; ``DIV2K_train_HR`` with ``DIV2K_train_LR_bicubic/X4`` (the folder itself or its parent), the
    same for ``DIV2K_valid`` and ``Flickr2K``, also cut into ``_sub`` folders; ``DF2K_train_HR``. An LR image
    is called as its HR image, with or without ``x4`` at the end. In SelfExSR's layout both are in one folder
    (``img_001_SRF_4_HR.png``, ``img_001_SRF_4_LR.png``), possibly called ``image_SRF_4``.

    Args:
        root: the data set's folder or its folder of HR images.
        scale: which LR images are wanted.
        inputs: look for LR images.

    Raises:
        DataError: no such folder, no images, LR images for only some of the HR images, or a
            layout that is nearly a known one.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a data set or a folder of HR images")
    by_scale = folder / f"image_SRF_{scale}"
    folders = [by_scale] if by_scale.is_dir() else hr_folders(folder)
    hr = [file for place in folders for file in _images(place)]
    if not hr:
        raise DataError(
            f"no images in {folder}; expected image files ({', '.join(sorted(PHOTO_SUFFIXES))}) in it "
            f"or in a folder named {', '.join(HR_FOLDERS[:6])} ..."
        )
    named = selfexsr_pairs(hr, scale=scale)
    if named is not None:
        return Dataset(named[0], named[1] if inputs else None)
    refuse_mixed(hr)
    if folders == [folder] and is_lr_folder(folder):
        raise DataError(
            f"{folder} has the name of a folder of LR images; expected HR images, rename it if it holds those"
        )
    if not inputs:
        return Dataset(hr, None)
    pairs = [_lr_files(place, scale) for place in folders]
    if any(pair is None for pair in pairs):
        return Dataset(hr, None)
    return Dataset(hr, [file for pair in pairs if pair is not None for file in pair])


def hr_folders(folder: Path) -> list[Path]:
    """The folders that hold the HR images below a root; the root itself when no name is known.

    Raises:
        DataError: the root is an LMDB.
    """
    if (folder / "data.mdb").is_file():
        raise DataError(
            f"{folder} is an LMDB, which is not read; give the folder of images that it was made from"
        )
    if any(_images(folder)):
        return [folder]
    for names in TOGETHER:
        if all(any(_images(folder / name)) for name in names):
            return [folder / name for name in names]
    for name in HR_FOLDERS:
        if any(_images(folder / name)):
            return [folder / name]
        nested = folder / name.split("_")[0] / name  # DIV2K/DIV2K_train_HR and the like
        if "_" in name and any(_images(nested)):
            return [nested]
    return [folder]


def photo_folders(root: Path) -> list[Path]:
    """The folders to take photographs from; as ``hr_folders``, but no photograph is lost to a common name.

    ``HR``, ``GT`` or ``original`` with neither LR images beside it nor known names alone is just one of
    the subfolders of a plain folder, and the root is returned. What is taken is logged.

    Raises:
        DataError: the root is an LMDB.
    """
    folders = hr_folders(root)
    if folders == [root]:
        return folders
    if folders[0].name in COMMON_NAMES and not any(root.glob("LR*/")):
        others = {file.relative_to(root).parts[0] for file in list_photos(root)} - set(HR_FOLDERS)
        if others:
            logger.info("%s is no known data set (%s): all of it is taken", root, ", ".join(sorted(others)))
            return [root]
    logger.info("photographs are taken from %s alone", " and ".join(str(folder) for folder in folders))
    return folders


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _lr_places(hr: Path, scale: int) -> Iterable[Path]:
    match = re.fullmatch(r"(?P<name>.+)_HR(?P<sub>_sub)?", hr.name)
    if match is not None:
        name, sub = match["name"], match["sub"] or ""
        for tail in (f"X{scale}{sub}", f"x{scale}{sub}"):
            yield hr.parent / f"{name}_LR_bicubic" / tail
    if match is not None or hr.name in HR_FOLDERS:
        for pattern in LR_FOLDERS:
            if (
                pattern.startswith("LRbic")
                and not hr.name.startswith("GTmod")
                and any(hr.parent.glob("GTmod*/*"))
            ):
                continue  # these were made from the cropped images
            yield hr.parent / pattern.format(scale=scale)


def _lr_files(hr: Path, scale: int) -> list[Path] | None:
    """LR files of one HR folder, in its order; None when there is no folder of them."""
    for place in _lr_places(hr, scale):
        found = {path.stem: path for path in _images(place)}
        if not found:
            continue
        pairs = [found.get(f"{file.stem}x{scale}") or found.get(file.stem) for file in _images(hr)]
        missing = [file.name for file, pair in zip(_images(hr), pairs, strict=True) if pair is None]
        if len(missing) == len(pairs) and str(scale) not in place.name:
            continue  # images of something else, another scale perhaps
        if missing:
            raise DataError(
                f"{place} has no LR image for {len(missing)} of {len(pairs)} images in {hr} "
                f"({', '.join(missing[:3])}); expected names like "
                f"{Path(missing[0]).stem}x{scale}.png or {missing[0]}"
            )
        return [pair for pair in pairs if pair is not None]
    if hr.name in HR_FOLDERS:
        _refuse_unknown_lr(hr, scale)
    return None


def _refuse_unknown_lr(hr: Path, scale: int) -> None:
    """Refuse LR images next to an HR folder that are not where they are expected.

    Raises:
        DataError: A folder looks like the LR images of this scale.
    """
    known = {pattern.format(scale=scale).split("/")[0] for pattern in LR_FOLDERS}
    known |= {place.relative_to(hr.parent).parts[0] for place in _lr_places(hr, scale)}
    for place in sorted(hr.parent.iterdir()):
        if place.is_dir() and place.name not in known and is_lr_folder(place, hr=hr, scale=scale):
            inside = [place, place / f"X{scale}", place / f"x{scale}"]
            if any(_images(folder) for folder in inside):
                raise DataError(
                    f"{place} looks like the LR images of {hr}, but has no known name; expected "
                    f"LR_bicubic/X{scale} or LRbicx{scale}, or give it as the folder of LR images"
                )
