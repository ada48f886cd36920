"""Writing files whole or not at all: a temporary name beside the target, then one rename."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, cast

from sam_diffsr.errors import OutputError


@contextlib.contextmanager
def writing(what: str, path: str | os.PathLike[str], *, advice: str = "") -> Generator[None, None, None]:
    """Turn an ``OSError`` of the block into an ``OutputError``: what, where, why and what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = f"{error.strerror or error}{advice and '; '}{advice}"
        raise OutputError(f"cannot write {what} {printable(path)!r}: {reason}") from error


def open_folder(folder: Path) -> IO[bytes]:
    """Make a folder, and in it a hidden file that is deleted when it is closed.

    Raises:
        OutputError: results cannot be written there.
    """
    with writing("into the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        return cast("IO[bytes]", tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part"))


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Give a temporary path to write; when the block ends without an error it takes the target's place.

    The temporary file lies in the target's folder, which must exist, under a hidden name with the target's
    ending. Readers see the old file or the new one; after an error nothing is left behind. A target that is a
    symbolic link stays one: the file that it leads to is replaced. A replaced file keeps its permissions.

    Raises:
        OSError: the finished file cannot be renamed.
    """
    final = Path(os.path.realpath(target))
    temporary = final.with_name(f".{secrets.token_hex(8)}.part{final.suffix}")
    try:
        yield temporary
        if (mode := _mode(final)) is not None:
            with contextlib.suppress(OSError):
                temporary.chmod(mode)
        os.replace(temporary, final)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(target: str | os.PathLike[str]) -> Generator[IO[bytes], None, None]:
    """Give a file open for writing and reading; like :func:`atomic_path`, and safe from kills on Linux.

    Where the system can, the file has no name until it is whole, so that not even a killed process leaves
    half a file behind. Nobody can read it who could not read the file that it replaces.

    Raises:
        OSError: the file cannot be made or renamed.
    """
    mode = _mode(Path(target))
    permissions = 0o666 if mode is None else mode & 0o666 | 0o200

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, permissions)

    with atomic_path(target) as temporary:
        try:
            os.stat("/proc/self/fd")
            nameless = os.open(temporary.parent, os.O_TMPFILE | os.O_RDWR, permissions)
        except (AttributeError, OSError):  # another system, or a file system without such files
            with open(temporary, "x+b", opener=opener) as file:
                yield file
            return
        with os.fdopen(nameless, "w+b") as file:
            yield file
            file.flush()
            # With a folder, which an absolute path does not need, Python follows the link of /proc.
            os.link(f"/proc/self/fd/{nameless}", temporary, src_dir_fd=nameless)


def printable(name: str | os.PathLike[str]) -> str:
    """A file name that can be shown anywhere: control characters and bytes that are no text are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in os.fspath(name)
    )


def _mode(path: Path) -> int | None:
    """Permissions of a file; None where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
