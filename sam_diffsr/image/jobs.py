"""Finds the images of folders and patterns, and plans which file each result goes to."""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from sam_diffsr.errors import ArgumentError, ImageError, OutputError
from sam_diffsr.files import printable
from sam_diffsr.image.formats import output_format
from sam_diffsr.image.read import readable_endings

logger = logging.getLogger(__name__)

Extension = Literal["png", "jpg", "webp", "tif", "avif", "jp2", "auto"]
"""File type of results; ``auto`` keeps that of the input where it can be written, and is png elsewhere."""
Existing = Literal["error", "skip", "overwrite"]
"""What to do with a result that already exists."""
PathLike = str | os.PathLike[str]

STDIN, STDOUT = Path("<standard input>"), Path("<standard output>")
"""Source and target for the path ``-``."""

VIDEO_ENDINGS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".ogv", ".ts", ".webm", ".wmv"}
)
"""Files that :func:`sam_diffsr.video.upscale_video` reads."""
_HEIF_ENDINGS = (".heic", ".heif", ".hif")
_UNREADABLE_ENDINGS = frozenset(
    {*_HEIF_ENDINGS, ".jxl", ".svg", ".eps", ".pdf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
)
"""Images that are counted as left out where nothing reads them."""
_ADVICE = {
    "subfolders": " (--recursive reads them)",
    "linked folders": " (name them to read them)",
    **dict.fromkeys(_HEIF_ENDINGS, " (install sam-diffsr[heif])"),
    **dict.fromkeys(VIDEO_ENDINGS, " (videos are upscaled by their names)"),
}
"""What to do about files of a folder that are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One image or video to upscale."""

    source: Path
    """File to read, or ``STDIN``."""
    target: Path
    """File to write, whose ending chooses the format, or ``STDOUT``."""
    ending: str = ".png"
    """Format of a result on standard output."""
    problem: Exception | None = None
    """Why it cannot be done, where that is known from the beginning."""

    @property
    def is_video(self) -> bool:
        """Whether the source has the ending of a video."""
        return self.source.suffix.lower() in VIDEO_ENDINGS

    def is_done(self, existing: Existing, *, exists: bool | None = None, name: str | None = None) -> bool:
        """Whether the result exists and is kept.

        Args:
            existing: what to do then.
            exists: whether it does, if that is known.
            name: what a message calls the result; by default its path.

        Raises:
            OutputError: the result exists and ``existing`` is ``"error"``, or it is the source itself.
        """
        if self.target is STDOUT or not (os.path.exists(self.target) if exists is None else exists):
            return False
        name = name or str(self.target)
        self.check_target(name=name)
        if existing == "skip":
            return True
        if existing != "overwrite":
            raise OutputError(
                f"{name!r} already exists; overwrite (--overwrite) or skip it (--skip-existing)"
            )
        return False

    def check_target(self, *, name: str | None = None) -> None:
        """Raise ``OutputError`` if the result would replace its own source."""
        both = os.path.exists(self.source) and os.path.exists(self.target)  # not in a store
        if self.source == self.target or (both and os.path.samefile(self.source, self.target)):
            text = f"cannot write {name or str(self.target)!r}: it is the source; choose another name"
            raise OutputError(text)

    def copy_time(self) -> None:
        """Give the result the modification time of its source, if that is a file."""
        if self.source is not STDIN:
            state = self.source.stat()
            os.utime(self.target, ns=(state.st_atime_ns, state.st_mtime_ns))


def find_images(folder: PathLike, *, recursive: bool = False, exclude: PathLike | None = None) -> list[Path]:
    """List a folder's images by their endings, sorted; hidden files and folders are left out.

    Args:
        folder: where to look.
        recursive: look into subfolders as well (symbolic links to folders are not followed). One that cannot
            be read is logged as a warning.
        exclude: a folder whose content is left out, such as an output folder inside the input.

    Raises:
        ImageError: there is no such folder, or it cannot be read.
    """
    sources = _walk(Path(folder), recursive=recursive, exclude=exclude)
    for source in sources:
        if source.problem is not None:
            logger.warning("%s", source.problem)
    return [source.path for source in sources if source.problem is None]


def _walk(root: Path, *, recursive: bool, exclude: PathLike | None) -> list[Source]:
    """Images below a folder, then the subfolders that cannot be read; what is left out is logged."""
    if not os.path.isdir(root):
        raise ImageError(f"{root} is not a folder; expected a folder of images")
    excluded = None if exclude is None else os.path.realpath(exclude)
    endings = readable_endings()
    found: list[Source] = []
    left_out: Counter[str] = Counter()
    unreadable: list[Source] = []

    def refused(error: OSError) -> None:
        where = Path(os.fsdecode(error.filename or root))
        problem = ImageError(f"cannot read the folder {str(where)!r}: {error.strerror}")
        if where == root:
            raise problem
        unreadable.append(Source(where, root, problem=problem))

    for parent, folders, files in os.walk(root, onerror=refused):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != excluded
        )
        for name in sorted(name for name in files if not name.startswith(".")):
            ending = os.path.splitext(name)[1].lower()
            if ending in endings:
                found.append(Source(Path(parent, name), root, Path(parent).relative_to(root)))
            else:
                left_out[ending if ending in _UNREADABLE_ENDINGS | VIDEO_ENDINGS else "other files"] += 1
        linked = sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        left_out["linked folders"] += linked
        if not recursive:
            left_out["subfolders"] += len(folders) - linked
            break
    parts = [f"{name}: {count}{_ADVICE.get(name, '')}" for name, count in sorted((+left_out).items())]
    if parts:
        logger.info("left out of %s: %s", printable(root), ", ".join(parts))
    return found + unreadable


def plan_jobs(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike | None = None,
    *,
    recursive: bool = False,
    suffix: str | None = None,
    ext: Extension | None = None,
    lossless: bool = False,
) -> list[Job]:
    """Decide which files are read and where each result goes; nothing is read or written yet.

    Args:
        inputs: a file, a folder, a glob pattern (``"photos/*.jpg"``, ``**`` for any depth without linked
            folders), ``"-"`` for standard input, or several.
        output: a file name if one file is read and the name ends like an image or a video; ``"-"`` for
            standard output; otherwise a folder, in which results are called ``{stem}_{suffix}.{ext}``.
            Results from a folder that is read recursively keep their place in its tree. None puts
            ``{stem}_{suffix}.{ext}`` next to a file, and ``{name}_{suffix}/{stem}.{ext}`` next to a folder.
        recursive: read folders with their subfolders.
        suffix: None is ``"out"``; an empty one gives ``{stem}.{ext}``.
        ext: of images; None is ``"png"``, because JPEG would take away again part of what was added. Videos
            stay ``.mp4``, ``.m4v`` or ``.mov``, or become ``.mkv``; folders are searched for images only.
        lossless: all videos become ``.mkv``, unless ``output`` is a file name.

    Returns:
        The jobs in a stable order. Files that are themselves the result of another job are not read, so a
        folder can be upscaled into itself twice. Of files with one result name, such as ``a.jpg`` and
        ``a.png``, each result is called after the whole name: ``a_jpg_out.png``.

    Raises:
        ImageError: the only input is a folder or pattern without an image; one of several is a job with a
            problem.
        ArgumentError: an option does not go with the output, or several results would go into one file.
    """
    check_names(suffix, ext)
    listed = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    for place in listed if output is None else [*listed, output]:
        if "://" in (text := os.fspath(place)):
            raise ArgumentError(f"{text!r} is an address, no file or folder; only a cluster (--ray) takes it")
    folder = None if output is None else _expand(output)
    found = find_sources(listed, recursive=recursive, output=folder)
    single = len(listed) == 1 and found[0].path in (STDIN, _expand(listed[0]))

    # One file to one name.
    text, target = "" if output is None else os.fspath(output), None
    if text == "-" or (folder is None and single and found[0].path is STDIN):
        target = STDOUT
    elif folder is not None and _names_a_file(folder, text):
        target = folder
    if target is None:
        return place_results(found, folder, suffix=suffix, ext=ext, lossless=lossless)
    if not single:
        raise ArgumentError(
            f"results of a folder, a pattern or several files go into a folder, but {target} is a file name"
        )
    if target is not STDOUT and (suffix is not None or ext is not None):
        raise ArgumentError(
            f"suffix and ext name the results in a folder, but {target} is a file name; leave them out"
        )
    ending = found[0].target(None, None, ext).suffix
    return [Job(source=found[0].path, target=target, ending=ending, problem=found[0].problem)]


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read, with the folder that was asked for and its place in that."""

    path: Path
    base: Path | None = None
    place: Path = Path()
    problem: Exception | None = None

    def target(
        self,
        folder: Path | None,
        suffix: str | None,
        ext: str | None,
        *,
        lossless: bool = False,
        whole: bool = False,
    ) -> Path:
        """Where the result goes; ``whole`` calls it after the whole name of the source."""
        ending = self.path.suffix.lower()
        chosen = ext or "png"
        if chosen == "auto":
            keeps = output_format(ending) is not None and ending not in (".apng", ".gif", ".jpe")
            chosen = ending[1:] if keeps else "png"
            chosen = {"jpeg": "jpg", "tiff": "tif"}.get(chosen, chosen)
        if ending in VIDEO_ENDINGS:
            chosen = ending[1:] if ending in (".mp4", ".m4v", ".mov") and not lossless else "mkv"
        tail = "out" if suffix is None else suffix
        stem = "stdin" if self.path is STDIN else self.path.stem
        if whole:
            stem = f"{stem}_{ending[1:]}"
        if folder is None and self.base is not None:
            root = Path(os.path.realpath(self.base))
            return root.with_name(f"{root.name}_{tail or 'out'}") / self.place / f"{stem}.{chosen}"
        name = f"{stem}_{tail}.{chosen}" if tail else f"{stem}.{chosen}"
        return (self.path.parent if folder is None else folder / self.place) / name


def check_names(suffix: str | None, ext: str | None) -> None:
    """Refuse an unknown extension and a suffix with a folder in it, as ArgumentError."""
    if ext is not None and ext not in get_args(Extension):
        raise ArgumentError(f"ext must be one of {', '.join(get_args(Extension))}; got {ext!r}")
    if suffix and (os.path.basename(suffix) != suffix or "\0" in suffix):
        raise ArgumentError(f"suffix is part of a file name and has no folder in it, got {suffix!r}")


def place_results(
    sources: Sequence[Source],
    folder: Path | None,
    *,
    suffix: str | None,
    ext: str | None,
    lossless: bool = False,
) -> list[Job]:
    """Give every file its result in a folder, as :func:`plan_jobs` does.

    Files that are results themselves are left out, and every further job for one target is refused.
    """
    name = partial(Source.target, folder=folder, suffix=suffix, ext=ext, lossless=lossless)
    plain = [name(source) for source in sources]
    pairs = list(zip(sources, plain, strict=True))
    times = Counter(_place(target) for source, target in pairs if source.problem is None)
    jobs: list[Job] = []
    for source, target in pairs:
        own = target if times[_place(target)] < 2 else name(source, whole=True)
        jobs.append(Job(source=source.path, target=own, problem=source.problem))

    real = [(os.path.realpath(job.source), os.path.realpath(job.target)) for job in jobs]
    results = {target for job, (_, target) in zip(jobs, real, strict=True) if job.problem is None}
    results -= {target for source, target in real if source == target}
    first: dict[str, Path] = {}
    kept: list[Job] = []
    for job, (source, _) in zip(jobs, real, strict=True):
        if source in results:
            continue
        other = first.setdefault(_place(job.target), job.source) if job.problem is None else job.source
        if other != job.source:
            problem = f"{other} and {job.source} would both be written to {job.target}"
            job = dataclasses.replace(job, problem=ArgumentError(f"{problem}; use another output folder"))
        kept.append(job)
    return kept


def find_sources(inputs: Sequence[PathLike], *, recursive: bool, output: Path | None) -> list[Source]:
    """List the files of inputs of :func:`plan_jobs`, without those below ``output`` and each one once."""
    found: dict[str, Source] = {}
    for text in inputs:
        if not os.fspath(text):
            raise ArgumentError("an input is an empty name; expected a file, a folder or a pattern")
        try:
            sources = _sources_of(text, recursive=recursive, output=output)
        except ImageError as error:
            if len(inputs) == 1:
                raise
            sources = [Source(_expand(text), problem=error)]
        for source in sources:
            found.setdefault(_place(source.path), source)
    return list(found.values())


def _place(path: Path) -> str:
    """One spelling for all paths of a file; a link to a file is a file of its own."""
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name)


def _sources_of(text: PathLike, *, recursive: bool, output: Path | None) -> list[Source]:
    """Files of one input, which is a file, a folder or a pattern."""
    path = _expand(text)
    if os.fspath(text) == "-":
        return [Source(STDIN)]
    if os.path.isdir(path):
        sources = _walk(path, recursive=recursive, exclude=output if recursive else None)
        if not sources:
            deeper = "" if recursive else " (subfolders are read only when asked for)"
            raise ImageError(f"the folder {path} has no image that can be read{deeper}")
        return sources
    if not os.path.lexists(path) and glob.has_magic(os.fspath(path)):
        sources = [Source(file) for file in _matches(path)]
        if not sources:
            raise ImageError(f"no file matches {str(path)!r}; quote the pattern and check the folder")
        return sources
    return [Source(path)]  # a missing file is found out when it is read, so that the others still go on


def _matches(pattern: Path) -> list[Path]:
    """Files that match; leading folders that exist are taken literally, even with brackets in their names."""
    root, rest = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while len(rest) > 1 and os.path.isdir(root / rest[0]):
        root /= rest.pop(0)
    return sorted({path for path in _globbed(root, rest) if os.path.isfile(path)})


def _globbed(root: Path, parts: list[str]) -> Iterator[Path]:
    """Paths below ``root`` that match; ``**`` stands for any depth, without hidden or linked folders."""
    if "**" not in parts:
        yield from (root / name for name in glob.glob(os.path.join(*parts), root_dir=root))
        return
    at = parts.index("**")
    for top in _globbed(root, parts[:at]) if at else [root]:
        for folder, subfolders, _ in os.walk(top):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            yield from _globbed(Path(folder), parts[at + 1 :] or ["*"])


def _expand(text: PathLike) -> Path:
    """A path with ``~`` for the home folder, unless there is a file of that very name."""
    text = os.fspath(text)
    return Path(text if os.path.lexists(text) else os.path.expanduser(text))


def _names_a_file(path: Path, text: str) -> bool:
    """Whether an output that is no folder yet ends like an image or a video."""
    ending = path.suffix.lower()
    if text.endswith(("/", os.sep)) or os.path.isdir(path):
        return False
    if output_format(ending) is not None or ending in VIDEO_ENDINGS:
        return True
    written = ", ".join(f".{name}" for name in get_args(Extension) if output_format(f".{name}") is not None)
    if ending in readable_endings() | _UNREADABLE_ENDINGS | {".avif", ".jp2", ".gif"}:
        raise ArgumentError(f"results cannot be written as {ending}: {path}; use {written}")
    if re.fullmatch(r"\.[a-z]{2,4}", ending):
        raise ArgumentError(
            f"{path} looks like a file of an unknown format; use {written}, or {path}/ for a folder"
        )
    return False
