"""Every error that the library raises on purpose, in one tree.

Each class is also the built-in exception that a caller would expect, so ``except ValueError`` and
``except SamDiffsrError`` both work. A message says what was expected, what came and what to do.
"""

from __future__ import annotations


class SamDiffsrError(Exception):
    """Base class of all errors of this library."""


class ConfigError(SamDiffsrError, ValueError):
    """A configuration has an unknown key, a value of the wrong type or a value out of range."""


class ArgumentError(SamDiffsrError, ValueError):
    """An argument of a call is out of range or names something that does not exist."""


class ImageError(SamDiffsrError, ValueError):
    """An input image cannot be read, or has a wrong rank, type, size or value range."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no image file of this name."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than the limit that the caller can raise."""


class DataError(SamDiffsrError, ValueError):
    """Training data, mask records or structure files are malformed or do not fit each other."""


class TruncatedError(DataError):
    """A file of masks is cut off, so that it can only be made again."""


class ModelLoadError(SamDiffsrError, OSError):
    """Weights or their config cannot be found, reached, read or trusted."""


class CheckpointMismatchError(ModelLoadError):
    """Weights were read, but their keys or shapes are not those of the configured model."""


class OutputError(SamDiffsrError, OSError):
    """A result cannot be written where it was asked for."""


class NumericalError(SamDiffsrError, RuntimeError):
    """The network produced NaN or infinity."""


class DeviceMemoryError(SamDiffsrError, RuntimeError):
    """Even the smallest tile does not fit into the device's memory."""


class CancelledError(SamDiffsrError, RuntimeError):
    """A callback asked to stop."""


class ClusterError(SamDiffsrError, ConnectionError):
    """A Ray cluster does not answer, or its nodes cannot do the work."""


class MissingDependencyError(SamDiffsrError, ImportError):
    """An optional package is needed for this call; the message names the extra to install."""
