"""Photos to training crops: reduce, segment, cut, drop what is flat or out of focus (design section 8).

A crop's pixels, labels and structure values all come from the same HR coordinates. Every photo and
reduction is finished on its own and kept in ``parts/``, so a run that was cut off goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.data.crops import CropStore, read_manifest, write_manifest
from sam_diffsr.data.mask_source import MaskSource, digest_masks, load_structure
from sam_diffsr.data.photos import list_photos, reduce_image, textured_corners
from sam_diffsr.errors import ArgumentError, DataError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.image import decode_image
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import Encoding, Reduction, encode_label_map

__all__ = ["Progress", "Segmenter", "prepare_crops"]

Segmenter = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Takes ``(H, W, 3)`` uint8 RGB, gives ``(H, W)`` region numbers from 1; 0 is "no region"."""

Progress = Callable[[int, int, str], object]
"""Called as ``progress(done, total, message)``."""

PARTS = "parts"
MAX_LABEL = int(np.iinfo(np.uint16).max)


def prepare_crops(
    photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    crop_size: int = 224,
    reductions: Sequence[float] = (2.0,),
    min_gradient: float = 2.5,
    segmenter: Segmenter | GraphMaskGenerator | Literal["graph", "none"] = "graph",
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
    masks: str | os.PathLike[str] | None = None,
    licences: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> CropStore:
    """Cut photos into crops with their structure fields.

    A folder that is already complete with the same photos and settings is kept as it is. Graph segmentation
    needs scikit-image.

    Args:
        photos: a folder (searched recursively) or a list of files.
        out: folder to write.
        crop_size: side of the square crops, HR pixels.
        reductions: each photo is made smaller by each of these factors (>= 1, antialiased) and then cut;
            2 or more removes JPEG and demosaicing blur, 1 keeps the pixels.
        min_gradient: crops whose ``gradient_energy`` (8-bit levels) is lower are dropped; 0 keeps all.
        segmenter: ``"graph"`` (needs no weights), a ``GraphMaskGenerator`` with options of your own,
            ``"none"`` (E = 0) or any function.
        encoding: structural position encoding of a region, see ``masks.spe``.
        reduction: what a region's value is divided by, see ``masks.spe``.
        masks: folder of records or stored fields, one file for each photo (see ``MaskSource``), instead of
            the segmenter. Records are of the photo at its full size and are reduced with it; a stored field
            needs a reduction of 1.
        licences: file name to licence, written into the manifest beside each source.
        progress: called after each photo and reduction.

    Returns:
        The finished store.

    Raises:
        ArgumentError: a crop size, reduction or segmenter that makes no sense.
        DataError: no photos, a photo smaller than a crop, nothing left after the gradient test, or masks that
            are missing, malformed or of an image of another size.
        ImageError: a photo cannot be read.
        MissingDependencyError: ``"graph"`` without scikit-image.
        OutputError: the folder cannot be created, or the disk is too full for the arrays.
    """
    if crop_size < 16:
        raise ArgumentError(f"crop_size must be at least 16 pixels, got {crop_size}")
    if not reductions or any(not factor >= 1 for factor in reductions):
        raise ArgumentError(f"reductions must be one or more numbers >= 1, got {list(reductions)}")
    files = list_photos(photos)
    made = _find_masks(masks, photos, files)
    segment, segmenter_name = (None, "masks") if made else _resolve_segmenter(segmenter)
    settings: dict[str, Any] = {
        "crop_size": crop_size,
        "min_gradient": float(min_gradient),
        "segmenter": segmenter_name,
        "encoding": encoding,
        "reduction": reduction,
    }
    folder = Path(out)
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    mask_digests = {file: digest_masks(path) for file, path in made.items()}
    wanted = [
        [digests[file], float(factor), mask_digests.get(file)] for file in files for factor in reductions
    ]
    if _is_complete(folder, settings, wanted):
        return CropStore(folder)
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder of crops {folder}: {error}") from error
    (folder / "manifest.json").unlink(missing_ok=True)
    sources: list[dict[str, Any]] = []
    parts: list[Path] = []
    for file, factor, load in _work(files, reductions, crop_size):
        of_masks = [mask_digests[file]] if made else []
        key = json.dumps([digests[file], factor, settings, *of_masks], sort_keys=True)
        path = folder / PARTS / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        if not path.is_file():
            photo = load()
            image = reduce_image(photo, factor)
            corners = textured_corners(image, crop_size=crop_size, min_gradient=min_gradient)
            if made:
                structure = load_structure(
                    made[file],
                    photo_size=(photo.shape[-2], photo.shape[-1]),
                    size=(image.shape[0], image.shape[1]),
                    encoding=encoding,
                    reduction=reduction,
                )
                fields = (structure.labels, structure.values)
            else:
                fields = _structure(image, segment if len(corners) else None, encoding, reduction)
            _save_part(path, image, corners, *fields, crop_size=crop_size)
        parts.append(path)
        sources.append(
            {
                "file": file.name,
                "sha256": digests[file],
                "reduction": factor,
                **_read_header(path),
                **({"masks": mask_digests[file]} if made else {}),
                "licence": (licences or {}).get(file.name),
            }
        )
        if progress is not None:
            crops = sources[-1]["crops"]
            progress(len(parts), len(wanted), f"{file.name} reduced by {factor:g}: {crops} crops")
    count = sum(source["crops"] for source in sources)
    if count == 0:
        raise DataError(
            f"none of the {len(files)} photos has a crop of {crop_size} pixels with gradient energy "
            f">= {min_gradient:g}; lower min_gradient"
        )
    _assemble(folder, parts, count=count, crop_size=crop_size)
    write_manifest(folder, crops=count, crop_size=crop_size, sources=sources, settings=settings)
    shutil.rmtree(folder / PARTS)
    return CropStore(folder)


def _work(
    files: Sequence[Path], reductions: Sequence[float], crop_size: int
) -> Iterator[tuple[Path, float, Callable[[], torch.Tensor]]]:
    """Every photo at every reduction, with a function that decodes the photo at most once."""
    for file in files:
        decoded: list[torch.Tensor] = []

        def load(file: Path = file, decoded: list[torch.Tensor] = decoded) -> torch.Tensor:
            if not decoded:
                rgb = decode_image(file).rgb
                height, width = rgb.shape[-2:]
                if round(min(height, width) / min(reductions)) < crop_size:
                    raise DataError(
                        f"{file} is {height}x{width}; reduced by {min(reductions):g} it is "
                        f"smaller than a crop of {crop_size}; lower crop_size or the reductions, or leave "
                        "the photo out"
                    )
                decoded.append(rgb)
            return decoded[0]

        for factor in reductions:
            yield file, float(factor), load


def _find_masks(
    masks: str | os.PathLike[str] | None,
    photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    files: Sequence[Path],
) -> dict[Path, Path]:
    """Each photo's masks, all found before any work; empty without a folder of masks."""
    if masks is None:
        return {}
    source = MaskSource(masks)
    root = Path(photos) if isinstance(photos, (str, os.PathLike)) else None
    return {file: source.find(file, root=root) for file in files}


def _resolve_segmenter(
    segmenter: Segmenter | GraphMaskGenerator | Literal["graph", "none"],
) -> tuple[Segmenter | None, str]:
    if callable(segmenter):
        return segmenter, str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))
    if segmenter == "graph":
        segmenter = GraphMaskGenerator()
    if isinstance(segmenter, GraphMaskGenerator):
        return segmenter.label_map, repr(segmenter)
    if segmenter == "none":
        return None, "none"
    raise ArgumentError(f"segmenter must be 'graph', 'none' or a function, got {segmenter!r}")


def _is_complete(folder: Path, settings: Mapping[str, Any], wanted: Sequence[list[Any]]) -> bool:
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    found = [[source["sha256"], source["reduction"], source.get("masks")] for source in manifest["sources"]]
    return manifest.get("settings") == dict(settings) and found == list(wanted)


def _structure(
    image: NDArray[np.uint8], segment: Segmenter | None, encoding: Encoding, reduction: Reduction
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Label map of the whole image and one value a label, that of label 0 ("no region") being 0."""
    size = image.shape[:2]
    if segment is None:
        return np.zeros(size, np.uint16), np.zeros(1, np.float32)
    labels = np.asarray(segment(image))
    if labels.shape != size:
        raise DataError(f"the segmenter must give labels of the image's shape {size}, got {labels.shape}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > MAX_LABEL:
        raise DataError(f"the segmenter's labels must lie in 0..{MAX_LABEL}, got {lowest}..{highest}")
    return labels.astype(np.uint16), encode_label_map(labels, encoding=encoding, reduction=reduction)


def _save_part(
    path: Path,
    image: NDArray[np.uint8],
    corners: NDArray[np.int32],
    labels: NDArray[np.uint16],
    values: NDArray[np.float32],
    *,
    crop_size: int,
) -> None:
    """Cut the crops of one photo at one reduction; written whole or not at all."""
    windows = [(slice(top, top + crop_size), slice(left, left + crop_size)) for top, left in corners]
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            images=np.array([image[window] for window in windows], np.uint8),
            labels=np.array([labels[window] for window in windows], np.uint16),
            corners=corners,
            values=values,
            size=np.array(image.shape[:2], np.int64),
        )


def _read_header(path: Path) -> dict[str, int]:
    with np.load(path, allow_pickle=False) as part:
        height, width = (int(side) for side in part["size"])
        return {"height": height, "width": width, "crops": len(part["corners"])}


def _assemble(folder: Path, parts: Sequence[Path], *, count: int, crop_size: int) -> None:
    """Copy the parts, one at a time, into the final arrays (temporary names, then renamed)."""
    needed = count * crop_size**2 * (3 + np.dtype(np.uint16).itemsize)
    free = shutil.disk_usage(folder).free
    if needed > free:  # a mapped file on a full disk would end the process without a word
        raise OutputError(
            f"the crops need {needed / 1e9:.1f} GB in {folder}, but only {free / 1e9:.1f} GB are free; make "
            "room and run the preparation again, finished photos are kept"
        )
    layout: dict[str, tuple[Any, tuple[int, ...]]] = {
        "images": (np.uint8, (count, crop_size, crop_size, 3)),
        "labels": (np.uint16, (count, crop_size, crop_size)),
        "origins": (np.int32, (count, 3)),
    }
    with contextlib.ExitStack() as finishing:
        temporary = {
            name: finishing.enter_context(atomic_path(folder / f"{name}.npy"))
            for name in (*layout, "values", "offsets")
        }
        arrays = {
            name: np.lib.format.open_memmap(temporary[name], mode="w+", dtype=dtype, shape=shape)
            for name, (dtype, shape) in layout.items()
        }
        values: list[NDArray[np.float32]] = []
        position = 0
        for source, path in enumerate(parts):
            with np.load(path, allow_pickle=False) as part:
                corners = part["corners"]
                values.append(part["values"])
                stop = position + len(corners)
                if len(corners):
                    arrays["images"][position:stop] = part["images"]
                    arrays["labels"][position:stop] = part["labels"]
                arrays["origins"][position:stop, 0] = source
                arrays["origins"][position:stop, 1:] = corners
                position = stop
        for array in arrays.values():
            array.flush()
        np.save(temporary["values"], np.concatenate(values))
        np.save(temporary["offsets"], np.cumsum([0, *(len(table) for table in values)]))
