"""Many files at once: find images and plan where each result goes. Nothing is read or written in here."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sam_diffsr.errors import ArgumentError, ImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "Extension",
    "Job",
    "find_images",
    "plan_jobs",
]

Extension = Literal["png", "jpg", "webp", "tif", "auto"]
"""File type of results; ``auto`` keeps that of the input where it can be written, and is png elsewhere."""

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings (lower case) of the files that are taken from a folder; anything else in it is left alone."""
_KEPT_BY_AUTO = {".jpeg": "jpg", ".jpg": "jpg", ".png": "png", ".tif": "tif", ".tiff": "tif", ".webp": "webp"}
_NOT_WRITTEN = IMAGE_SUFFIXES - _KEPT_BY_AUTO.keys()

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One image to upscale."""

    source: Path
    """File to read."""
    target: Path
    """File to write; its ending chooses the format."""


def find_images(folder: PathLike, *, recursive: bool = False, exclude: PathLike | None = None) -> list[Path]:
    """List a folder's images by their endings, sorted; hidden files and folders are left out.

    Args:
        folder: where to look.
        recursive: look into subfolders as well (symbolic links to folders are not followed).
        exclude: a folder whose content is left out, such as an output folder inside the input.

    Raises:
        ImageError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{root} is not a folder; expected a folder of images")
    excluded = None if exclude is None else Path(exclude).resolve()
    found: list[Path] = []
    for parent, folders, files in os.walk(root):
        here = Path(parent)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() != excluded
        )
        found += [
            here / name
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
        if not recursive:
            break
    return found


def plan_jobs(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    recursive: bool = False,
    suffix: str | None = None,
    ext: Extension | None = None,
) -> list[Job]:
    """Decide which files are read and where each result goes; nothing is read or written yet.

    Args:
        inputs: a file, a folder, a glob pattern (``"photos/*.jpg"``, ``**`` for any depth), or several.
        output: a file name if one file is read and the name ends like an image that can be written;
            otherwise a folder, in which results are called ``{stem}_{suffix}.{ext}``. Results from a folder
            that is read recursively keep their place in its tree.
        recursive: read folders with their subfolders.
        suffix: None is ``"out"``; an empty one gives ``{stem}.{ext}``.
        ext: None is ``"png"``, because JPEG would take away again part of what was added.

    Returns:
        The jobs in a stable order. Files that are themselves the result of another job are not read, so a
        folder can be upscaled into itself twice.

    Raises:
        ImageError: a folder or pattern has no image.
        ArgumentError: two results would have the same name, or an option does not go with the output.
    """
    if ext is not None and ext not in get_args(Extension):
        raise ArgumentError(f"ext must be one of {', '.join(get_args(Extension))}; got {ext!r}")
    if suffix is not None and Path(suffix).name != suffix and suffix:
        raise ArgumentError(f"suffix is part of a file name and has no folder in it, got {suffix!r}")
    folder = Path(output).expanduser()
    listed = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    sources, single = _find_sources(listed, recursive=recursive, output=folder)
    if single and _names_a_file(output):
        if suffix is not None or ext is not None:
            raise ArgumentError(
                f"suffix and ext name the results in a folder, but {folder} is a file name; leave them out"
            )
        return [Job(source=sources[0][0], target=folder)]
    if not folder.is_dir() and _names_a_file(output):
        raise ArgumentError(
            f"results of a folder, a pattern or several files go into a folder, but {folder} is a file name"
        )
    jobs = [
        Job(source=source, target=folder / place / _result_name(source, suffix=suffix, ext=ext))
        for source, place in sources
    ]
    own_result = {job.target.resolve() for job in jobs if job.target.resolve() != job.source.resolve()}
    jobs = [job for job in jobs if job.source.resolve() not in own_result]
    _refuse_collisions(jobs)
    return jobs


def _find_sources(
    inputs: Sequence[PathLike], *, recursive: bool, output: Path
) -> tuple[list[tuple[Path, Path]], bool]:
    """Files with their place below the output folder, and whether one single file was asked for."""
    found: dict[Path, tuple[Path, Path]] = {}
    single = len(inputs) == 1
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            single = False
            files = find_images(path, recursive=recursive, exclude=output if recursive else None)
            if not files:
                deeper = "" if recursive else " (subfolders are read only when asked for)"
                raise ImageError(f"the folder {path} has no image{deeper}; looked for {_endings()}")
            places = [file.parent.relative_to(path) for file in files]
        elif not path.exists() and glob.has_magic(str(path)):
            single = False
            names = sorted(glob.glob(str(path), recursive=True))
            files = [Path(name) for name in names if Path(name).is_file()]
            if not files:
                raise ImageError(f"no file matches {str(path)!r}; quote the pattern and check the folder")
            places = [Path()] * len(files)
        else:  # a missing file is found out when it is read, so that the others still go on
            files, places = [path], [Path()]
        for file, place in zip(files, places, strict=True):
            found.setdefault(file.resolve(), (file, place))
    return list(found.values()), single


def _names_a_file(output: PathLike) -> bool:
    text = os.fspath(output)
    suffix = Path(text).suffix.lower()
    if text.endswith(("/", os.sep)) or Path(text).expanduser().is_dir():
        return False
    if suffix in _NOT_WRITTEN:
        raise ArgumentError(
            f"results cannot be written as {suffix}: {text}; use {', '.join(sorted(_KEPT_BY_AUTO))}"
        )
    return suffix in _KEPT_BY_AUTO


def _result_name(source: Path, *, suffix: str | None, ext: Extension | None) -> str:
    chosen = "png" if ext is None else ext
    if chosen == "auto":
        chosen = _KEPT_BY_AUTO.get(source.suffix.lower(), "png")
    tail = "out" if suffix is None else suffix
    return f"{source.stem}_{tail}.{chosen}" if tail else f"{source.stem}.{chosen}"


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    first: dict[Path, Path] = {}
    for job in jobs:
        other = first.setdefault(job.target, job.source)
        if other != job.source:
            raise ArgumentError(
                f"{other} and {job.source} would both be written to {job.target}; use ext='auto', another "
                "output folder for one of them, or a recursive run, which keeps the tree"
            )


def _endings() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
