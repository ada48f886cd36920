"""Keeps the scores of each image in a file as they come, so that a stopped evaluation can be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sam_diffsr.errors import DataError
from sam_diffsr.evaluation.result import ImageScore
from sam_diffsr.files import writing


class ScoreLog:
    """A file of JSON lines: the settings, then one line per image and damage.

    Each line is appended by a single write, so a run that is killed leaves complete lines and at most one
    torn line at the end, which is ignored. ``resume`` uses the scores that are in the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        self.path, self.resume = Path(path), resume
        self.reused = 0
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    def open(self, settings: Mapping[str, Any]) -> None:
        """Read what is in the file, or write a new one; each run opens its log once.

        ``settings`` is everything that scores depend on but the image files, as JSON values. A file that does
        not hold scores of these settings is a ``DataError``, and stays as it is.
        """
        now = json.loads(json.dumps(settings))
        before, head = now, _line({"settings": settings})
        with writing("scores to", self.path):
            text = self.path.read_bytes() if self.resume and self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # without a torn line
        try:
            if not head.startswith(text):
                first, *entries = [json.loads(line) for line in (whole or text).splitlines()]
                before = dict[str, Any](first["settings"])
                self._kept = {(entry["image"], entry["damage"]): entry for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} is not a file of scores ({type(error).__name__}: {error}); give another file"
            ) from error
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise DataError(
                    f"{self.path} holds scores of another run ({key} was {before.get(key)!r}, now "
                    f"{now.get(key)!r}); give another file, or delete it"
                )
        with writing("scores to", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
            os.truncate(self.path, len(whole))
        if not whole:
            self._append({"settings": settings})

    def find(self, image: str, damage: str, *, files: Sequence[Path]) -> tuple[ImageScore, ...] | None:
        """The scores of one image, one per method; None if there are none or a file has changed."""
        entry = self._kept.get((image, damage))
        if entry is None or entry["files"] != _stamps(files):
            return None
        self.reused += 1
        return tuple(ImageScore(**score) for score in entry["scores"])

    def add(self, image: str, damage: str, *, files: Sequence[Path], scores: Sequence[ImageScore]) -> None:
        """Append the scores of one image; raises ``OutputError``."""
        entry = {"image": image, "damage": damage, "files": _stamps(files)}
        self._append({**entry, "scores": [asdict(score) for score in scores]})

    def _append(self, value: Mapping[str, Any]) -> None:
        with writing("scores to", self.path), self.path.open("ab", buffering=0) as file:
            file.write(_line(value))


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _stamps(files: Sequence[Path]) -> list[list[Any]]:
    """Name, size and time of change of files."""
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
