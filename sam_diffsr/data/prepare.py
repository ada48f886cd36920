"""Turns a folder of photographs into training crops: reduce, segment, cut, drop flat and blurred crops.

A crop's pixels, labels and structure values come from the same HR coordinates. The crops of each photo and
reduction are kept in ``parts/`` until all are finished, so a stopped run continues from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sam_diffsr.data.cut as cut
from sam_diffsr.data.config import MissingMasks
from sam_diffsr.data.crops import PARTS, CropStore, finished_crops, photo_digest, write_crops
from sam_diffsr.data.datasets import photo_folders
from sam_diffsr.errors import ArgumentError, DataError, OutputError
from sam_diffsr.files import writing
from sam_diffsr.image.photos import list_photos
from sam_diffsr.masks.spe import Encoding, EncodingOptions, Reduction
from sam_diffsr.masks.store import digest_masks

logger = logging.getLogger(__name__)

_PART = re.compile(r"[0-9a-f]{24}\.npz|\.[0-9a-f]+\.part\.npz")
"""Names of parts, see ``_part_name``, and of unfinished ones."""
_KINDS = {"corrupt": "cannot be read", "small": "too small for crop_size and reductions"}
"""Why photographs are left out."""
_MOST_NAMED = 5
"""Most photographs of a kind whose reasons are logged."""


def prepare_crops(
    photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    crop_size: int = 224,
    reductions: Sequence[float] = (2.0,),
    min_gradient: float = 2.5,
    segmenter: cut.SegmenterChoice = "graph",
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
    masks: str | os.PathLike[str] | None = None,
    missing_masks: MissingMasks = "error",
    licences: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], object] | None = None,
) -> CropStore:
    """Cut photos into crops with their structure fields.

    A folder that is complete with the same photos and settings is kept. Other crops are refused, or with
    ``overwrite`` replaced when the new ones are complete. Photos that cannot be read or are smaller than a
    crop are left out, with a warning, and listed in ``CropStore.skipped``.

    Args:
        photos: a known data set (see ``find_dataset``), any other folder with its subfolders, or a list of
            files.
        out: folder to write.
        crop_size: side of the square crops, HR pixels.
        reductions: every photo is cut once per factor (>= 1), after an antialiased reduction by it. 2 or more
            removes JPEG and demosaicing blur, 1 keeps the pixels.
        min_gradient: drop crops with a lower ``gradient_energy`` (8-bit levels); 0 keeps all.
        segmenter: ``"graph"`` (scikit-image), a ``GraphMaskGenerator``, ``"none"`` (E = 0) or a function.
        encoding: structural position encoding of a region, see ``masks.spe``.
        reduction: divisor of a region's value, see ``masks.spe``.
        masks: folder of records or stored fields, one file per photo, instead of the segmenter. Records
            belong to the photo at its full size and are reduced with it; stored fields need reduction 1.
        missing_masks: a photo without masks is an ``"error"``, or has no regions (``"zero"``, E = 0) and is
            counted in a warning.
        licences: file name to licence, for the manifest.
        overwrite: replace crops of other photos or settings in ``out``.
        progress: called after each photo as ``progress(done, total, message)``.

    Returns:
        The finished store.

    Raises:
        ArgumentError: ``crop_size``, ``reductions`` or ``segmenter`` is out of range.
        DataError: no usable photo, no crop above ``min_gradient``, or masks that are missing, malformed or of
            an image of another size.
        MissingDependencyError: ``"graph"`` without scikit-image.
        OutputError: the folder cannot be created, holds other crops, or other files in ``parts``; or the disk
            is too full.
    """
    if crop_size < 16:
        raise ArgumentError(f"crop_size must be at least 16 pixels, got {crop_size}")
    if not reductions or any(not factor >= 1 for factor in reductions):
        raise ArgumentError(f"reductions must be one or more numbers >= 1, got {list(reductions)}")
    if isinstance(photos, (str, os.PathLike)):
        folders = photo_folders(Path(photos))
        files, roots = [file for place in folders for file in list_photos(place)], [Path(photos), *folders]
    else:
        files, roots = list_photos(photos), []
    folder, parts = Path(out), Path(out, PARTS)
    with writing("the folder of crops", folder):
        others = [path.name for path in parts.glob("*") if not _PART.fullmatch(path.name)]
    if others:
        raise OutputError(
            f"{parts} is for unfinished crops, but holds {min(others)!r}; nothing was changed: "
            "choose another folder for the crops, or move the other files away"
        )
    segment, name = (None, "masks") if masks is not None else cut.resolve_segmenter(segmenter)
    found = {} if masks is None else cut.find_photo_masks(masks, files, roots=roots, missing=missing_masks)
    how: EncodingOptions = {"encoding": encoding, "reduction": reduction}
    cutter = cut.Cutter(crop_size, min_gradient, segment, found, how)
    settings: dict[str, Any] = {"crop_size": crop_size, "min_gradient": float(min_gradient)}
    settings |= {"segmenter": name, **how}

    # A folder with the same photos, masks and settings is finished.
    factors = list(dict.fromkeys(float(factor) for factor in reductions))
    listed = [
        (file, photo_digest(file), digest_masks(found[file]) if file in found else None) for file in files
    ]
    wanted = [[photo, by, masked] for _, photo, masked in listed for by in factors]

    def is_wanted(manifest: dict[str, Any]) -> bool:
        left_out = {photo["sha256"] for photo in manifest.get("skipped", [])}
        keys = ("sha256", "reduction", "masks")
        made = [[source.get(key) for key in keys] for source in manifest["sources"]]
        kept = [entry for entry in wanted if entry[0] not in left_out]
        known = {photo for _, photo, _ in listed}
        return manifest.get("settings") == settings and made == kept and left_out <= known

    if (store := finished_crops(folder, is_wanted, overwrite=overwrite)) is not None:
        _remove_parts(parts)  # left by a run that was killed at the end
        _report(store.skipped, len(files))
        return store

    # Every photo becomes parts; the parts are then joined.
    joined: list[Path] = []
    sources: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    with _parts_folder(folder):
        for number, (file, photo, masked) in enumerate(listed, start=1):
            paths = {by: parts / _part_name(photo, by, settings, masked) for by in factors}
            problem = cutter.cut(file, paths)
            if problem is not None:
                skipped.append({"file": file.name, "sha256": photo, **problem})
                message = f"{file.name} left out"
            else:
                source = {"file": file.name, "sha256": photo, "masks": masked}
                source["licence"] = (licences or {}).get(file.name)
                headers = {by: cut.read_header(path) for by, path in paths.items()}
                sources += [{**source, "reduction": by, **header} for by, header in headers.items()]
                joined += paths.values()
                message = f"{file.name}: {sum(header['crops'] for header in headers.values())} crops"
            if progress is not None:
                progress(number, len(files), message)
        _report(skipped, len(files))
        if not sources:
            raise DataError(f"none of the {len(files)} photos can be used: {', '.join(_counts(skipped))}")
        if not any(source["crops"] for source in sources):
            for path in joined:
                path.unlink(missing_ok=True)
            raise DataError(
                f"none of the {len(files)} photos has a crop of {crop_size} pixels with "
                f"gradient energy >= {min_gradient:g}; lower min_gradient"
            )
        crops = map(cut.read_part, joined)
        store = write_crops(folder, crops, sources=sources, settings=settings, skipped=skipped)
    _remove_parts(parts)
    return store


@contextlib.contextmanager
def _parts_folder(folder: Path) -> Generator[None, None, None]:
    """Make the folder of parts; after an error remove the new folders that are empty."""
    parts = folder / PARTS
    made = [place for place in (parts, *parts.parents) if not place.exists()]
    with writing("the folder of crops", folder):
        parts.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def _remove_parts(parts: Path) -> None:
    """Delete the parts, and their folder unless something else came to lie in it."""
    with contextlib.suppress(OSError):
        for path in parts.iterdir():
            if _PART.fullmatch(path.name):
                path.unlink()
        parts.rmdir()


def _part_name(*made_of: Any) -> str:
    key = json.dumps(made_of, sort_keys=True).encode()
    return f"{hashlib.sha256(key).hexdigest()[:24]}.npz"


def _report(skipped: Sequence[Mapping[str, Any]], total: int) -> None:
    for kind in _KINDS:
        for source in [source for source in skipped if source["kind"] == kind][:_MOST_NAMED]:
            logger.warning("left out: %s", source["reason"])
    if skipped:
        logger.warning("left out of %d photos: %s", total, ", ".join(_counts(skipped)))


def _counts(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many photographs are left out for each kind of reason."""
    kinds = Counter(source["kind"] for source in skipped)
    return [f"{kinds[kind]} {why}" for kind, why in _KINDS.items() if kind in kinds]
