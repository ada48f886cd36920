"""Finds the HR and LR images of super-resolution data sets in their usual layouts.

Known are DIV2K, Flickr2K, DF2K, the usual benchmarks, and flat folders of images.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sam_diffsr.errors import DataError
from sam_diffsr.image.photos import PHOTO_SUFFIXES, is_photo, list_photos
from sam_diffsr.image.read import readable_endings

logger = logging.getLogger(__name__)

_PLAIN = ("HR", "GTmod12", "GTmod8", "GTmod4", "GT", "original")
HR_FOLDERS = (
    *_PLAIN,
    *("DF2K_train_HR", "DF2K_HR", "DIV2K_train_HR", "Flickr2K_HR", "DIV2K_valid_HR"),
    *("DF2K_HR_sub", "DF2K_train_HR_sub", "DIV2K_train_HR_sub", "Flickr2K_HR_sub"),
    "DIV2K_valid_HR_sub",
)
"""Names of folders of HR images; the first one found is taken."""

COMMON_NAMES = frozenset({"HR", "GT", "original"})
"""The names in ``HR_FOLDERS`` that other folders of photographs use as well."""

TOGETHER = (("DIV2K_train_HR", "Flickr2K_HR"), ("DIV2K_train_HR_sub", "Flickr2K_HR_sub"))
"""Folders that together are one data set (DF2K)."""

LR_FOLDERS = (
    *("LR_bicubic/X{scale}", "LR_bicubic/x{scale}", "LRbicx{scale}"),
    *("LR/X{scale}", "LR/x{scale}", "LR_bicubic", "LR"),
)
"""Places of LR images, relative to the parent of the HR folder."""

_SELFEXSR = re.compile(r".+_SRF_(\d+)_(.+)")
_TAG = re.compile(r"(.+?)(?:[-_](lr|lq|hr|gt)|[-_]?(x\d))", re.IGNORECASE)
_LR_FOLDER = re.compile(r"(?:(.+)_)?L[RQ](?:_?bic(?:ubic)?)?(?:[-_]?x(\d+))?(?:_sub)?", re.IGNORECASE)


@dataclass(frozen=True)
class Dataset:
    """Images of a data set, sorted by name."""

    hr: list[Path]
    """HR images."""
    lr: list[Path] | None
    """LR images, one per HR image; None when the data set has none."""


def find_dataset(root: str | os.PathLike[str], *, scale: int = 4, inputs: bool = True) -> Dataset:
    """Find the images of a data set.

    Known layouts: a flat folder of images; ``HR`` with ``LR_bicubic/X4``; ``GTmod12`` with ``LRbicx4``;
    ``DIV2K_train_HR`` with ``DIV2K_train_LR_bicubic/X4`` (the folder itself or its parent), the same for
    ``DIV2K_valid`` and ``Flickr2K``, also as ``_sub`` folders; ``DF2K_train_HR``. An LR image has the name of
    its HR image, with or without ``x4`` at the end. SelfExSR's layout has both in one folder
    (``img_001_SRF_4_HR.png``, ``img_001_SRF_4_LR.png``), which may be called ``image_SRF_4``. Only files with
    the endings of photographs count; other images in the HR folder are left out, with a warning.

    Args:
        root: the data set's folder or its folder of HR images.
        scale: scale of the LR images.
        inputs: look for LR images.

    Raises:
        DataError: no such folder, no images, LR images for only some of the HR images, or a layout that
            is nearly a known one.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a data set or a folder of HR images")
    by_scale = folder / f"image_SRF_{scale}"
    folders = [by_scale] if by_scale.is_dir() else _hr_folders(folder)
    hr = [file for place in folders for file in _images(place)]
    if not hr:
        raise DataError(
            f"no images in {folder}; expected image files ({', '.join(sorted(PHOTO_SUFFIXES))}) in it "
            f"or in a folder named {', '.join(_PLAIN)} ..."
        )
    endings = readable_endings() - PHOTO_SUFFIXES
    seen = chain(*(place.glob("[!.]*") for place in folders))
    if others := [file.name for file in seen if file.suffix.lower() in endings and file.is_file()]:
        known = ", ".join(sorted(PHOTO_SUFFIXES))
        logger.warning(
            "left out of %s: %d images like %s; expected files ending in %s",
            folder,
            len(others),
            min(others),
            known,
        )
    if (found := _selfexsr(hr, scale=scale)) is not None:
        return found if inputs else Dataset(found.hr, None)
    _refuse_mixed(hr)
    if folders == [folder] and _is_lr_folder(folder):
        raise DataError(
            f"{folder} has the name of a folder of LR images; expected HR images, rename it if it holds those"
        )
    parts = [_lr_files(place, scale) if inputs else None for place in folders]
    complete = [part for part in parts if part is not None]
    return Dataset(hr, list(chain(*complete)) if len(complete) == len(parts) else None)


def photo_folders(root: Path) -> list[Path]:
    """Folders of photographs: the folders of HR images, or the whole root; the choice is logged.

    A folder ``HR``, ``GT`` or ``original`` without LR folders next to it, but with photographs in folders of
    other names, is one of many subfolders of a plain folder. Raises ``DataError`` for an LMDB.
    """
    folders = _hr_folders(root)
    if folders == [root]:
        return folders
    if folders[0].name in COMMON_NAMES and not any(root.glob("LR*/")):
        others = {file.relative_to(root).parts[0] for file in list_photos(root)} - set(HR_FOLDERS)
        if others:
            names = ", ".join(sorted(others))
            logger.info("%s is no known data set (it has %s): all its photographs are taken", root, names)
            return [root]
    logger.info("photographs are taken from %s only", " and ".join(str(folder) for folder in folders))
    return folders


def _hr_folders(folder: Path) -> list[Path]:
    """Folders of HR images below a root; the root itself when no name is known. ``DataError`` for an LMDB."""
    if (folder / "data.mdb").is_file():
        raise DataError(
            f"{folder} is an LMDB, which cannot be read; give the folder of images that it was made from"
        )
    if any(_images(folder)):
        return [folder]
    for names in (*TOGETHER, *((name,) for name in HR_FOLDERS)):
        for base in (folder, folder / names[0].split("_")[0]):  # DIV2K/DIV2K_train_HR and the like
            if all(any(_images(base / name)) for name in names):
                return [base / name for name in names]
    return [folder]


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if is_photo(path) and path.is_file())


def _lr_places(hr: Path, scale: int) -> list[Path]:
    """Places where the LR images of an HR folder may be."""
    match = re.fullmatch(r"(.+)_HR(_sub)?", hr.name)
    places = [f"{match[1]}_LR_bicubic/{x}{scale}{match[2] or ''}" for x in "Xx"] if match else []
    if match or hr.name in HR_FOLDERS:
        # LRbicx4 is made of the images in GTmod12, if there are some.
        cropped = not hr.name.startswith("GTmod") and any(hr.parent.glob("GTmod*/*"))
        usual = [name for name in LR_FOLDERS if not (cropped and name.startswith("LRbic"))]
        places += [name.format(scale=scale) for name in usual]
    return [hr.parent / place for place in places]


def _lr_files(hr: Path, scale: int) -> list[Path] | None:
    """LR files of one HR folder, in its order; None when there is no folder of them."""
    truths, places = _images(hr), _lr_places(hr, scale)
    for place in places:
        if not (found := {path.stem: path for path in _images(place)}):
            continue
        pairs = {file.name: found.get(f"{file.stem}x{scale}") or found.get(file.stem) for file in truths}
        missing = [name for name, pair in pairs.items() if pair is None]
        if len(missing) == len(pairs) and str(scale) not in place.name:
            continue  # other images, perhaps of another scale
        if missing:
            raise DataError(
                f"{place} has no LR image for {len(missing)} of {len(pairs)} images in {hr} "
                f"({', '.join(missing[:3])}); expected names like "
                f"{Path(missing[0]).stem}x{scale}.png or {missing[0]}"
            )
        return [pair for pair in pairs.values() if pair is not None]
    if hr.name not in HR_FOLDERS:
        return None
    # LR images of this scale next to the HR folder that are not in a known place.
    known = {pattern.format(scale=scale).split("/")[0] for pattern in LR_FOLDERS}
    known |= {place.relative_to(hr.parent).parts[0] for place in places}
    for place in sorted(hr.parent.iterdir()):
        unknown = place.is_dir() and place.name not in known and _is_lr_folder(place, hr=hr, scale=scale)
        if unknown and any(_images(folder) for folder in (place, place / f"X{scale}", place / f"x{scale}")):
            raise DataError(
                f"{place} looks like the LR images of {hr}, but has no known name; expected "
                f"LR_bicubic/X{scale} or LRbicx{scale}, or give it as the folder of LR images"
            )
    return None


def _is_lr_folder(folder: Path, *, hr: Path | None = None, scale: int | None = None) -> bool:
    """Whether a folder is called like LR images: ``LR_bicubic``, ``LRx4`` or ``DIV2K_valid_LR/X4``.

    The part of the name before ``LR`` must be that of ``hr``, and the name must not contradict ``scale``.
    """
    name = folder.parent.name if re.fullmatch(r"[xX]\d+(_sub)?", folder.name) else folder.name
    match = _LR_FOLDER.fullmatch(name)
    if match is None or (scale is not None and match[2] not in (None, str(scale))):
        return False
    return hr is None or match[1] is None or hr.name.startswith(f"{match[1]}_")


def _selfexsr(files: Sequence[Path], *, scale: int) -> Dataset | None:
    """The pairs of SelfExSR's layout; None if the names are others.

    Results of other methods in the folder, such as ``img_001_SRF_4_bicubic.png``, are left out. Raises
    ``DataError`` for files of another scale, without counterpart, or with other names.
    """
    found = [(file, _SELFEXSR.fullmatch(file.stem)) for file in files]
    if not any(match and match[2] in ("HR", "LR") for _, match in found):
        return None
    folder = files[0].parent
    if others := [file.name for file, match in found if match is None]:
        raise DataError(
            f"{folder} has images in SelfExSR's layout (img_001_SRF_{scale}_HR.png) and others "
            f"({others[0]}); expected one of the two, move the others away"
        )
    named = {(match[1], match[2], file.stem[: match.start(2)]): file for file, match in found if match}
    hr, lr = (
        {stem: file for (factor, name, stem), file in named.items() if (factor, name) == (str(scale), kind)}
        for kind in ("HR", "LR")
    )
    lonely = sorted(hr.keys() ^ lr.keys()) if lr else []
    if not hr or lonely:
        missing = f"{lonely[0]}HR and {lonely[0]}LR" if lonely else f"img_001_SRF_{scale}_HR.png"
        raise DataError(
            f"{folder} is in SelfExSR's layout, but not complete for scale {scale}; expected {missing}"
        )
    return Dataset(list(hr.values()), [lr[stem] for stem in hr] if lr else None)


def _refuse_mixed(files: Sequence[Path]) -> None:
    """Raise ``DataError`` for two files that differ only in ``x4``, ``_LR``, ``_HR`` and the like."""
    seen: dict[str, tuple[Path, bool]] = {}
    for file in files:
        stem, tags = file.stem, set[str]()
        while match := _TAG.fullmatch(stem):
            stem = match[1]
            tags.add((match[2] or match[3]).lower())
        low = bool(tags - {"hr", "gt"}) and not tags & {"hr", "gt"}
        other, other_low = seen.setdefault(stem, (file, low))
        if low != other_low:
            raise DataError(
                f"{file.parent} holds HR and LR images together ({other.name}, {file.name}); expected HR "
                "images only, folders HR and LR_bicubic/X4, or SelfExSR's names img_001_SRF_4_HR.png and "
                "img_001_SRF_4_LR.png"
            )
