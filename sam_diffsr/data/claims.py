"""Claims: a small file beside a result says that a process is making it, so that no other one does.

A claim is created with ``O_EXCL``, which only one process can do. Its owner touches it while it works and
removes it when it is done. A claim that nobody will remove is taken over: its process is gone from this
host, or it was not touched for ``MAX_AGE`` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sam_diffsr.errors import OutputError

__all__ = ["MAX_AGE", "claim", "claim_path", "remove_stale_claim"]

MAX_AGE = 900.0
"""Seconds after which a claim that is not touched any more counts as abandoned, whoever made it."""

_TOUCH_EVERY = MAX_AGE / 15
_PROCESS = secrets.token_hex(8)
"""Tells this process from an earlier one of the same number, as after the restart of a container."""


def claim_path(target: Path) -> Path:
    """Where the claim of a file lies: hidden, in the same folder."""
    return target.with_name(f".{target.name}.claim")


@contextlib.contextmanager
def claim(target: Path) -> Generator[bool, None, None]:
    """Claim a file to be made, for as long as the block runs.

    Args:
        target: the file; its folder must exist.

    Yields:
        Whether this process has it now; ``False`` when another one is at it.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = claim_path(target)
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "process": _PROCESS})
    if not (_create(path, content) or (remove_stale_claim(target) and _create(path, content))):
        yield False
        return
    done = threading.Event()
    keeper = threading.Thread(target=_keep_fresh, args=(path, done), daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        done.set()
        keeper.join()
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                path.unlink()


def remove_stale_claim(target: Path) -> bool:
    """Remove the claim of a file if nobody will; say whether there is none now."""
    path = claim_path(target)
    try:
        found = path.read_text(encoding="utf-8")
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if age < MAX_AGE and not _is_of_dead_process(found):
        return False
    # Another process may have taken it over since it was read: what is moved aside must be what was read.
    aside = path.with_name(f".{secrets.token_hex(8)}.claim")
    try:
        os.rename(path, aside)
        if aside.read_text(encoding="utf-8") != found:
            with contextlib.suppress(OSError):
                os.link(aside, path)
            return False
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return True


def _create(path: Path, content: str) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(
            f"cannot write into the folder {path.parent}: {error.strerror or error}; look at its permissions "
            "and free space"
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
    return True


def _keep_fresh(path: Path, done: threading.Event) -> None:
    while not done.wait(_TOUCH_EVERY):
        with contextlib.suppress(OSError):
            os.utime(path)


def _is_of_dead_process(content: str) -> bool:
    """Whether the owner is known to be gone; ``False`` for other hosts and where one cannot ask."""
    try:
        owner: Any = json.loads(content)
        host, pid, process = str(owner["host"]), int(owner["pid"]), str(owner["process"])
    except (ValueError, KeyError, TypeError):  # not written yet, or not by us: its age decides
        return False
    if host != socket.gethostname() or os.name != "posix" or pid < 1:
        return False
    if pid == os.getpid():
        return process != _PROCESS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is there and belongs to somebody else
        return False
    return False
