"""Writing files whole or not at all: a temporary name beside the target, then one rename."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path

__all__ = ["atomic_path"]


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Give a temporary path to write; when the block ends without an error it takes the target's place.

    The temporary file lies in the target's folder, which must exist, under a hidden name with the target's
    ending. Readers see the old file or the new one; after an error nothing is left behind.

    Args:
        target: the file to make or replace.

    Yields:
        A path that does not exist yet.

    Raises:
        OSError: the finished file cannot be renamed, or whatever the block raises.
    """
    final = Path(target)
    temporary = final.with_name(f".{secrets.token_hex(8)}.part{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
