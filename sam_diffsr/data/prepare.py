"""Photos to training crops: reduce, segment, cut, drop what is flat or out of focus (design section 8).

A crop's pixels, labels and structure values all come from the same HR coordinates. Every photo and
reduction is finished on its own and kept in ``parts/``, so a run that was cut off goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.data.crops import CropStore, write_manifest
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.image import decode_image
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import Encoding, Reduction, encode_label_map
from sam_diffsr.resize import imresize

__all__ = ["PHOTO_SUFFIXES", "Segmenter", "gradient_energy", "list_photos", "prepare_crops", "reduce_image"]

logger = logging.getLogger(__name__)

Segmenter = Callable[[NDArray[np.uint8]], NDArray[np.integer[Any]]]
"""Takes ``(H, W, 3)`` uint8 RGB, gives ``(H, W)`` region numbers from 1; 0 is "no region"."""

PHOTO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_LABEL = int(np.iinfo(np.uint16).max)


@dataclass(frozen=True)
class _Part:
    """Crops of one photo at one reduction."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    corners: NDArray[np.int32]
    values: NDArray[np.float32]
    size: tuple[int, int]


def prepare_crops(
    photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    crop_size: int = 224,
    reductions: Sequence[float] = (2.0,),
    min_gradient: float = 3.0,
    segmenter: Segmenter | Literal["graph", "none"] = "graph",
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
    licences: Mapping[str, str] | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> CropStore:
    """Cut photos into crops with their structure fields.

    Args:
        photos: a folder (searched recursively) or a list of files.
        out: folder to write; one that is already complete with the same photos and settings is kept.
        crop_size: side of the square crops, HR pixels.
        reductions: each photo is made smaller by each of these factors (>= 1, antialiased) and then cut;
            2 or more removes JPEG and demosaicing blur, 1 keeps the pixels.
        min_gradient: crops whose ``gradient_energy`` (8-bit levels) is lower are dropped; 0 keeps all.
        segmenter: ``"graph"`` (no weights needed), ``"none"`` (E = 0) or a function of your own.
        encoding: structural position encoding of a region, see ``masks.spe``.
        reduction: what a region's value is divided by, see ``masks.spe``.
        licences: file name to licence, written into the manifest beside each source.
        progress: called as ``progress(done, total, name)`` after each photo and reduction.

    Returns:
        The finished store.

    Raises:
        ArgumentError: a crop size, reduction or segmenter that makes no sense.
        DataError: no photos, a photo smaller than a crop, or nothing left after the gradient test.
        ImageError: a photo cannot be read.
    """
    if crop_size < 16:
        raise ArgumentError(f"crop_size must be at least 16 pixels, got {crop_size}")
    if not reductions or any(not factor >= 1 for factor in reductions):
        raise ArgumentError(f"reductions must be numbers >= 1, at least one; got {list(reductions)}")
    files = list_photos(photos)
    segment, segmenter_name = _resolve_segmenter(segmenter)
    settings: dict[str, Any] = {
        "crop_size": crop_size,
        "reductions": [float(factor) for factor in reductions],
        "min_gradient": float(min_gradient),
        "segmenter": segmenter_name,
        "encoding": encoding,
        "reduction": reduction,
    }
    folder = Path(out)
    parts_folder = folder / "parts"
    parts_folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    sources: list[dict[str, Any]] = []
    parts: list[Path] = []
    total, done = len(files) * len(reductions), 0
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rgb: torch.Tensor | None = None
        for factor in reductions:
            key = json.dumps([digest, float(factor), {**settings, "reductions": None}], sort_keys=True)
            part_path = parts_folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
            if not part_path.is_file():
                rgb = decode_image(file).rgb if rgb is None else rgb
                _check_large_enough(file, rgb, crop_size=crop_size, reductions=reductions)
                hr = reduce_image(rgb, factor)
                part = _cut(
                    hr,
                    crop_size=crop_size,
                    min_gradient=min_gradient,
                    structure=lambda image: _structure(
                        image, segment, encoding=encoding, reduction=reduction
                    ),
                )
                _save_part(part_path, part)
            count, size = _part_header(part_path)
            parts.append(part_path)
            sources.append(
                {
                    "file": file.name,
                    "sha256": digest,
                    "reduction": float(factor),
                    "height": size[0],
                    "width": size[1],
                    "crops": count,
                    "licence": (licences or {}).get(file.name),
                }
            )
            done += 1
            if progress is not None:
                progress(done, total, f"{file.name} /{factor:g}: {count} crops")
    count = sum(source["crops"] for source in sources)
    if count == 0:
        raise DataError(
            f"none of the {len(files)} photos has a crop of {crop_size} pixels with gradient energy "
            f">= {min_gradient}; lower min_gradient"
        )
    _assemble(folder, parts, count=count, crop_size=crop_size)
    write_manifest(folder, crops=count, crop_size=crop_size, sources=sources, settings=settings)
    shutil.rmtree(parts_folder)
    return CropStore(folder)


def list_photos(photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files of a folder (recursively, sorted) that look like photos, or the given files, checked to exist.

    Raises:
        DataError: the folder or a file does not exist, or there is no photo.
    """
    if isinstance(photos, (str, os.PathLike)):
        root = Path(photos)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder of photos")
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    else:
        files = [Path(photo) for photo in photos]
        for file in files:
            if not file.is_file():
                raise DataError(f"photo {file} does not exist")
    if not files:
        raise DataError(f"no photos found in {photos!r}; known suffixes are {sorted(PHOTO_SUFFIXES)}")
    return files


def reduce_image(rgb: torch.Tensor, factor: float) -> NDArray[np.uint8]:
    """Make a photo smaller by ``factor``, antialiased, and round to 8 bit.

    Args:
        rgb: ``(1, 3, H, W)`` float32 in [0, 1].
        factor: >= 1.

    Returns:
        ``(round(H / factor), round(W / factor), 3)`` uint8.
    """
    if factor != 1:
        height, width = rgb.shape[-2:]
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        rgb = imresize(rgb, size=size)
    levels = (rgb[0] * 255).clamp(0, 255).add(0.5).floor().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


def gradient_energy(image: NDArray[np.uint8]) -> float:
    """Mean absolute difference between neighbouring pixels of the luma, in 8-bit levels.

    Args:
        image: ``(H, W, 3)`` uint8.
    """
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return 0.5 * float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


def _resolve_segmenter(segmenter: Segmenter | Literal["graph", "none"]) -> tuple[Segmenter | None, str]:
    if callable(segmenter):
        return segmenter, str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))
    if segmenter == "graph":
        generator = GraphMaskGenerator()
        return generator.label_map, repr(generator)
    if segmenter == "none":
        return None, "none"
    raise ArgumentError(f"segmenter must be 'graph', 'none' or a function, got {segmenter!r}")


def _check_large_enough(
    file: Path, rgb: torch.Tensor, *, crop_size: int, reductions: Sequence[float]
) -> None:
    height, width = rgb.shape[-2:]
    mildest = min(reductions)
    if round(min(height, width) / mildest) < crop_size:
        raise DataError(
            f"{file} is {height}x{width}; reduced by {mildest:g} it is smaller than a crop of {crop_size} "
            "pixels; lower crop_size or the reductions, or leave the photo out"
        )


def _structure(
    image: NDArray[np.uint8],
    segment: Segmenter | None,
    *,
    encoding: Encoding,
    reduction: Reduction,
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Label map of the whole image and one value a label, label 0 ("no region") being 0."""
    height, width = image.shape[:2]
    if segment is None:
        return np.zeros((height, width), np.uint16), np.zeros(1, np.float32)
    labels = np.asarray(segment(image))
    if labels.shape != (height, width):
        raise DataError(
            f"the segmenter must give labels of the image's shape {(height, width)}, got {labels.shape}"
        )
    if int(labels.min()) < 0 or int(labels.max()) > MAX_LABEL:
        raise DataError(
            f"labels must lie in 0..{MAX_LABEL}, got {int(labels.min())}..{int(labels.max())}; "
            "use larger regions"
        )
    full = labels.astype(np.uint16)
    values = encode_label_map(full, encoding=encoding, reduction=reduction)
    return full, values


def _cut(
    image: NDArray[np.uint8],
    *,
    crop_size: int,
    min_gradient: float,
    structure: Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint16], NDArray[np.float32]]],
) -> _Part:
    """Non-overlapping crops on a centred grid; the structure is only made when a crop is kept."""
    height, width = image.shape[:2]
    top = (height % crop_size) // 2
    left = (width % crop_size) // 2
    corners = [
        (y, x)
        for y in range(top, height - crop_size + 1, crop_size)
        for x in range(left, width - crop_size + 1, crop_size)
        if gradient_energy(image[y : y + crop_size, x : x + crop_size]) >= min_gradient
    ]
    labels, values = np.zeros((height, width), np.uint16), np.zeros(1, np.float32)
    if corners:
        labels, values = structure(image)
    windows = [(slice(y, y + crop_size), slice(x, x + crop_size)) for y, x in corners]
    return _Part(
        images=np.array([image[w] for w in windows], np.uint8).reshape(-1, crop_size, crop_size, 3),
        labels=np.array([labels[w] for w in windows], np.uint16).reshape(-1, crop_size, crop_size),
        corners=np.array(corners, np.int32).reshape(-1, 2),
        values=values,
        size=(height, width),
    )


def _save_part(path: Path, part: _Part) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    np.savez(
        temporary,
        images=part.images,
        labels=part.labels,
        corners=part.corners,
        values=part.values,
        size=np.array(part.size, np.int64),
    )
    os.replace(temporary, path)


def _part_header(path: Path) -> tuple[int, tuple[int, int]]:
    with np.load(path, allow_pickle=False) as part:
        height, width = (int(side) for side in part["size"])
        return len(part["corners"]), (height, width)


def _assemble(folder: Path, parts: Sequence[Path], *, count: int, crop_size: int) -> None:
    """Copy the parts, one at a time, into the final arrays (temporary names, then renamed)."""
    shapes: dict[str, tuple[int, ...]] = {
        "images": (count, crop_size, crop_size, 3),
        "labels": (count, crop_size, crop_size),
        "origins": (count, 3),
    }
    dtypes = {"images": np.uint8, "labels": np.uint16, "origins": np.int32}
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp.npy" for name in (*shapes, "values", "offsets")}
    arrays = {
        name: np.lib.format.open_memmap(temporary[name], mode="w+", dtype=dtypes[name], shape=shape)
        for name, shape in shapes.items()
    }
    values: list[NDArray[np.float32]] = []
    position = 0
    for source, path in enumerate(parts):
        with np.load(path, allow_pickle=False) as part:
            stop = position + len(part["corners"])
            arrays["images"][position:stop] = part["images"]
            arrays["labels"][position:stop] = part["labels"]
            arrays["origins"][position:stop, 0] = source
            arrays["origins"][position:stop, 1:] = part["corners"]
            values.append(part["values"])
            position = stop
    for array in arrays.values():
        array.flush()
    lengths = [len(table) for table in values]
    np.save(temporary["values"], np.concatenate(values).astype(np.float32))
    np.save(temporary["offsets"], np.cumsum([0, *lengths]).astype(np.int64))
    for name, path in temporary.items():
        os.replace(path, folder / f"{name}.npy")
