"""Keeps the scores of each image in a file as they come, so that a stopped evaluation can be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sam_diffsr.errors import DataError, OutputError
from sam_diffsr.evaluation.result import ImageScore

__all__ = ["ScoreLog"]


class ScoreLog:
    """A file of JSON lines: the settings, then one line per image and damage.

    Lines are only ever appended, each with a single write, so a run that is killed leaves complete lines
    and at most one torn line at the end, which is ignored.

    Args:
        path: File to keep the scores in; its folder must exist.
        resume: Use the scores that are in the file; False starts an empty one.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        self.path, self.resume = Path(path), resume
        self.reused = 0
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    def open(self, settings: Mapping[str, Any]) -> None:
        """Read what is in the file, or write a new one.

        ``settings`` is everything that scores depend on but the image files, as JSON values.

        Raises:
            DataError: The file holds something else, or scores of other settings.
            OutputError: The file cannot be read or written.
        """
        self._kept.clear()
        try:
            lines = self.path.read_bytes().split(b"\n") if self.resume and self.path.exists() else []
            if lines[:-1]:  # the part after the last line break is empty or torn
                self._read(lines[:-1], json.loads(json.dumps(settings)))
                size = sum(len(line) + 1 for line in lines[:-1])
                os.truncate(self.path, size)
            else:
                self.path.write_bytes(b"")
                self._append({"settings": settings})
        except OSError as error:
            raise OutputError(f"cannot keep scores in {self.path}: {error}") from error

    def find(self, image: str, damage: str, *, files: Sequence[Path]) -> tuple[ImageScore, ...] | None:
        """The scores of one image, one per method; None if there are none or a file has changed."""
        entry = self._kept.get((image, damage))
        if entry is None or entry["files"] != _stamps(files):
            return None
        self.reused += 1
        return tuple(ImageScore(**score) for score in entry["scores"])

    def add(self, image: str, damage: str, *, files: Sequence[Path], scores: Sequence[ImageScore]) -> None:
        """Append the scores of one image.

        Raises:
            OutputError: The file cannot be written.
        """
        entry = {"image": image, "damage": damage, "files": _stamps(files)}
        try:
            self._append({**entry, "scores": [asdict(score) for score in scores]})
        except OSError as error:
            raise OutputError(f"cannot keep scores in {self.path}: {error}") from error

    def _append(self, value: Mapping[str, Any]) -> None:
        data = json.dumps(value).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, lines: Sequence[bytes], settings: Mapping[str, Any]) -> None:
        try:
            first, *entries = [json.loads(line) for line in lines]
            before: dict[str, Any] = first["settings"]
            self._kept = {(entry["image"], entry["damage"]): entry for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} is not a file of scores ({type(error).__name__}: {error}); give another file"
            ) from error
        other = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if other:
            key = other[0]
            raise DataError(
                f"{self.path} holds scores of another run ({key} was {before.get(key)!r}, now "
                f"{settings.get(key)!r}); give another file, or delete it"
            )


def _stamps(files: Sequence[Path]) -> list[list[Any]]:
    """Name, size and time of change of files."""
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
