"""Files by URI: object stores and file systems that pyarrow or fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import secrets
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_diffsr.errors import ArgumentError, ImageError, ImageNotFoundError, OutputError

__all__ = ["Store", "local_path"]

_WHOLE = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "oci", "oss", "s3", "s3a"})
"""Object stores: a file appears when it is complete, and renaming is copying."""


def local_path(place: str | os.PathLike[str]) -> str | None:
    """The path of a local file or folder; None for a URI of another kind than ``file://``."""
    text = os.fspath(place)
    if text.startswith("file://"):
        return urllib.request.url2pathname(urllib.parse.urlsplit(text).path)
    return None if "://" in text else text


@dataclass(frozen=True, slots=True)
class Store:
    """A folder by URI. Its files have paths of their store, ``bucket/folder/name``; it can be pickled."""

    scheme: str
    root: str
    """Path of the folder."""
    files: Any
    """A ``pyarrow.fs.FileSystem``."""

    @classmethod
    def open(cls, uri: str) -> Store:
        """Find the file system of a URI: pyarrow's own, else fsspec's.

        Raises:
            ArgumentError: neither knows the scheme, its package is missing, or the store is not reached.
        """
        from pyarrow import ArrowInvalid, fs

        scheme = uri.partition("://")[0]
        try:
            try:
                files, root = fs.FileSystem.from_uri(uri)
            except ArrowInvalid:  # a scheme that pyarrow does not know
                import fsspec

                of_scheme, root = fsspec.url_to_fs(uri)
                files = fs.PyFileSystem(fs.FSSpecHandler(of_scheme))
        except Exception as error:  # each store has errors of its own
            raise ArgumentError(f"cannot open a store of the kind {scheme}://: {error}") from error
        return cls(scheme, root.rstrip("/"), files)

    def uri(self, path: str) -> str:
        """A path as messages show it; access keys are not part of it."""
        return f"{self.scheme}://{path}"

    def list(self, *, recursive: bool = True) -> list[str]:
        """Paths of the files below the folder, sorted, without hidden ones; a root that is a file is itself one.

        Raises:
            ImageError: the store refuses.
        """
        from pyarrow import fs

        try:
            if self.files.get_file_info(self.root).type == fs.FileType.File:
                return [self.root]
            below = fs.FileSelector(self.root, recursive=recursive, allow_not_found=True)
            found = [info.path for info in self.files.get_file_info(below) if info.type == fs.FileType.File]
        except Exception as error:  # as above
            raise ImageError(f"cannot list {self.uri(self.root)!r}: {error}") from error
        return sorted(path for path in found if "/." not in path[len(self.root) :])

    def read(self, path: str) -> bytes:
        """Give the content of a file.

        Raises:
            ImageError: there is no such file, or the store refuses.
        """
        try:
            with self.files.open_input_file(path) as file:
                return file.read()
        except FileNotFoundError as error:
            raise ImageNotFoundError(f"no such file: {self.uri(path)!r}") from error
        except Exception as error:  # as above
            raise ImageError(f"cannot read {self.uri(path)!r}: {error}") from error

    def write(self, path: str, content: bytes) -> None:
        """Write a whole file: as one object, or under a hidden name that is then changed.

        Raises:
            OutputError: the store refuses; nothing is left behind.
        """
        folder, _, name = path.rpartition("/")
        temporary = path if self.scheme in _WHOLE else f"{folder}/.{secrets.token_hex(8)}.part"
        try:
            if temporary != path:
                self.files.create_dir(folder, recursive=True)
            try:
                with self.files.open_output_stream(temporary) as file:
                    file.write(content)
                if temporary != path:
                    self.files.move(temporary, path)
            except BaseException:
                if temporary != path:
                    with contextlib.suppress(Exception):
                        self.files.delete_file(temporary)
                raise
        except Exception as error:  # as above
            raise OutputError(f"cannot write {self.uri(path)!r}: {error}; look at its permissions") from error

    def check_writable(self) -> None:
        """Write and delete a small file; raises OutputError."""
        path = f"{self.root}/.{secrets.token_hex(8)}.part"
        self.write(path, b"")
        with contextlib.suppress(Exception):  # a store may take files and never give them back
            self.files.delete_file(path)

    def as_path(self, path: str) -> Path:
        """A path that can be compared with local ones and joined."""
        return Path(f"{self.scheme}:", path.lstrip("/"))

    def of_path(self, path: Path) -> str:
        """The path in the store of the result of :meth:`as_path`."""
        return ("/" if self.root.startswith("/") else "") + "/".join(path.parts[1:])
