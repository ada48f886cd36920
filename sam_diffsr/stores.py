"""Files by URI, in whatever store pyarrow or fsspec reaches: ``s3://``, ``gs://``, ``abfs://`` and others.

Within the package such a file is a ``Path`` whose first part is the scheme, ``s3:/bucket/folder/name``, so
that its name is planned as that of a local file is. What a store refuses is an ``ImageError`` when files are
read or listed, an ``OutputError`` when they are written, and else an ``ArgumentError``.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from sam_diffsr.errors import ArgumentError, ImageError, ImageNotFoundError, OutputError, SamDiffsrError

_ATOMIC = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "oci", "oss", "s3", "s3a"})
"""Object stores: uploads are atomic, and a rename would be a copy."""
_NO_HOST = "%"
"""Stands for the host of a URI without one."""


def as_path(place: str | os.PathLike[str]) -> Path:
    """The path of a URI, of ``file://`` that of the local file; other paths stay as they are."""
    scheme, separator, rest = os.fspath(place).partition("://")
    if not separator:
        return Path(place)
    if (scheme := scheme.lower()) == "file":
        parts = urllib.parse.urlsplit(os.fspath(place))
        if parts.netloc not in ("", "localhost"):
            raise ArgumentError(
                f"{os.fspath(place)!r} names the machine {parts.netloc!r}; the URI of a local file has three "
                "slashes, as file:///home/me/photos"
            )
        return Path(urllib.request.url2pathname(parts.path))
    host, _, path = rest.partition("/")
    if "?" in path or ("@" in host and ":" in host):
        raise ArgumentError(
            "a URI holds no keys and options; give them by the environment variables of the store, such as "
            "AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
        )
    return Path(f"{scheme}:", host or _NO_HOST, path)


def is_remote(path: Path) -> bool:
    """Whether it is the path of a URI."""
    return bool(path.parts) and re.fullmatch(r"[a-z][a-z0-9+.-]+:", path.parts[0]) is not None


def as_uri(path: Path) -> str:
    """The URI of such a path; other paths stay as they are."""
    if not is_remote(path):
        return str(path)
    return f"{path.parts[0]}//{'/'.join(path.parts[1:]).removeprefix(_NO_HOST)}"


def list_files(folder: Path, *, recursive: bool = True) -> list[Path]:
    """Files below a folder of a store, sorted, without hidden ones; for a file, the file itself."""
    from pyarrow import fs

    files, root = _open(folder)
    with _asking(ImageError, f"list {as_uri(folder)!r}"):
        if files.get_file_info(root).type == fs.FileType.File:
            return [folder]
        infos = files.get_file_info(fs.FileSelector(root, recursive=recursive, allow_not_found=True))
    names = [info.path[len(root) :].lstrip("/") for info in infos if info.type == fs.FileType.File]
    return [folder / name for name in sorted(names) if "/." not in f"/{name}"]


def read_file(path: Path) -> bytes:
    """The content of a file of a store."""
    files, place = _open(path)
    with _asking(ImageError, f"read {as_uri(path)!r}"):
        try:
            with files.open_input_stream(place) as file:
                return file.read()
        except FileNotFoundError as error:
            raise ImageNotFoundError(f"no such file: {as_uri(path)!r}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a store whole: as one object, or under a hidden name that is changed at the end."""
    files, place = _open(path)
    with _asking(OutputError, f"write {as_uri(path)!r}", "; look at the permissions"):
        if path.parts[0][:-1] in _ATOMIC:
            with files.open_output_stream(place) as file:
                file.write(content)
            return
        folder = place.rpartition("/")[0]
        temporary = f"{folder}/.{secrets.token_hex(8)}.part"
        files.create_dir(folder, recursive=True)
        try:
            with files.open_output_stream(temporary) as file:
                file.write(content)
            files.move(temporary, place)
        except BaseException:
            with suppress(Exception):
                files.delete_file(temporary)
            raise


def check_writable(folder: Path) -> None:
    """Write a small file into a folder of a store and delete it; raises OutputError."""
    path = folder / f".{secrets.token_hex(8)}.part"
    write_file(path, b"")
    files, place = _open(path)
    with suppress(Exception):  # some stores take files and never give them back
        files.delete_file(place)


@contextmanager
def _asking(kind: type[Exception], what: str, advice: str = "") -> Generator[None]:
    """Turn any error of a store into one of ours."""
    try:
        yield
    except SamDiffsrError:
        raise
    except Exception as error:
        raise kind(f"cannot {what}: {error}{advice}") from error


def _open(path: Path) -> tuple[Any, str]:
    """The ``pyarrow.fs.FileSystem`` of a path and its place in that."""
    scheme, host, *names = path.parts
    files, root = _file_system(f"{scheme}//{host.removeprefix(_NO_HOST)}/")
    return files, "/".join([root.rstrip("/"), *names])


@functools.cache
def _file_system(uri: str) -> tuple[Any, str]:
    """Pyarrow's own, else fsspec's, for the root of a store."""
    import pyarrow as arrow
    import pyarrow.fs

    fs: Any = pyarrow.fs
    with _asking(ArgumentError, f"open the store {uri}"):
        try:
            return fs.FileSystem.from_uri(uri)
        except arrow.ArrowInvalid:  # a scheme that pyarrow does not know
            import fsspec

            of_scheme, root = cast("tuple[Any, str]", fsspec.url_to_fs(uri))
            return fs.PyFileSystem(fs.FSSpecHandler(of_scheme)), root
