"""Tells HR from LR images by name: reads SelfExSR's layout and refuses layouts that are nearly known ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sam_diffsr.errors import DataError

__all__ = ["is_lr_folder", "refuse_mixed", "selfexsr_pairs"]

_SELFEXSR = re.compile(r".+_SRF_(\d+)_(.+)")
_TAG = re.compile(r"(.+?)(?:[-_](lr|lq|hr|gt)|[-_]?(x\d))", re.IGNORECASE)
_LR_FOLDER = re.compile(r"(?:(.+)_)?L[RQ](?:_?bic(?:ubic)?)?(?:[-_]?x(\d+))?(?:_sub)?", re.IGNORECASE)


def selfexsr_pairs(files: Sequence[Path], *, scale: int) -> tuple[list[Path], list[Path] | None] | None:
    """HR and LR files of a folder in SelfExSR's layout: ``img_001_SRF_4_HR.png``, ``img_001_SRF_4_LR.png``.

    Results of other methods in the folder, such as ``img_001_SRF_4_bicubic.png``, are left out.

    Returns:
        HR files and LR files (None if there are no LR files); or None if the names are others.

    Raises:
        DataError: The files are of another scale, some have no counterpart, or some have other names.
    """
    found = [(file, _SELFEXSR.fullmatch(file.stem)) for file in files]
    if all(match is None or match[2] not in ("HR", "LR") for _, match in found):
        return None
    folder = files[0].parent
    others = [file.name for file, match in found if match is None]
    if others:
        raise DataError(
            f"{folder} has images in SelfExSR's layout (img_001_SRF_{scale}_HR.png) and others "
            f"({others[0]}); expected one of the two, move the others away"
        )
    names = {(match[1], match[2], file.stem[: match.start(2)]): file for file, match in found if match}
    hr = {stem: file for (factor, kind, stem), file in names.items() if (factor, kind) == (str(scale), "HR")}
    lr = {stem: file for (factor, kind, stem), file in names.items() if (factor, kind) == (str(scale), "LR")}
    lonely = sorted(hr.keys() ^ lr.keys()) if lr else []
    if not hr or lonely:
        missing = f"{lonely[0]}HR and {lonely[0]}LR" if lonely else f"img_001_SRF_{scale}_HR.png"
        raise DataError(
            f"{folder} is in SelfExSR's layout, but not complete for scale {scale}; expected {missing}"
        )
    return list(hr.values()), [lr[stem] for stem in hr] if lr else None


def refuse_mixed(files: Sequence[Path]) -> None:
    """Refuse a folder that holds HR images and, under related names, LR images.

    Raises:
        DataError: Two files differ only in ``x4``, ``_LR``, ``_HR`` and the like; both are named.
    """
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


def is_lr_folder(folder: Path, *, hr: Path | None = None, scale: int | None = None) -> bool:
    """Whether a folder is called like LR images: ``LR_bicubic``, ``LRx4`` or ``DIV2K_valid_LR/X4``.

    Args:
        folder: The folder.
        hr: Folder of HR images that it must belong to, by the part of its name before ``LR``.
        scale: Scale that the name must not contradict.
    """
    name = folder.parent.name if re.fullmatch(r"[xX]\d+(_sub)?", folder.name) else folder.name
    match = _LR_FOLDER.fullmatch(name)
    if match is None or (scale is not None and match[2] not in (None, str(scale))):
        return False
    return hr is None or match[1] is None or hr.name.startswith(f"{match[1]}_")
