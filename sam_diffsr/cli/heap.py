"""Lets the process of a command keep freed memory for its next image, instead of asking for it anew."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's ``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD``."""
_KEPT_BYTES = 256 * 2**20
_LARGEST_KEPT = 32 * 2**20
"""glibc's own upper limit of its threshold; larger blocks are returned at once."""


def keep_freed_memory() -> bool:
    """Let glibc keep up to 256 MB of freed memory, which otherwise goes back at every layer of a network.

    The kernel then need not clear the pages again, which saves a tenth of the time of an image. Nothing is
    changed where one of glibc's own variables is set. Returns whether there was anything to set.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
