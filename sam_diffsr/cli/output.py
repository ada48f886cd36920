"""Output of the command: lines never mix with a progress bar, and any file name can be printed."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["Bar", "messages", "say", "summary_table"]


def say(text: str, *, error: bool = False) -> None:
    """Print a line, above a progress bar if there is one."""
    stream = sys.stderr if error else sys.stdout
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=stream)
        stream.flush()
    else:
        print(text, file=stream, flush=True)


def summary_table(counts: Mapping[str, int], seconds: float, failures: Iterable[str]) -> str:
    """Files by what became of them, images per second, and a line per failure."""
    columns = {name: str(count) for name, count in counts.items() if name != "planned"}
    columns |= {"seconds": f"{seconds:.1f}", "images/s": f"{counts['written'] / seconds:.2f}"}
    rows = ["".join(f"{cell:>10}" for cell in row) for row in (columns, columns.values())]
    return "\n".join([*rows, *(f"failed: {failure}" for failure in failures)])


@contextmanager
def messages(*, quiet: bool, verbose: bool, rewrite: Callable[[str], str] = str) -> Generator[None]:
    """Send the library's messages and warnings to stderr, one line each, for as long as the command runs.

    Args:
        quiet: only warnings and errors.
        verbose: everything.
        rewrite: applied to each message.
    """
    shown: set[str] = set()

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        text = rewrite(" ".join(str(message).split()))
        if text not in shown:  # once per file, although its header is read more than once
            shown.add(text)
            say(f"sam-diffsr: warning: {text}", error=True)

    logger = logging.getLogger("sam_diffsr")
    handler = logging.Handler()
    handler.emit = lambda record: say(rewrite(handler.format(record)), error=True)
    streams: list[Any] = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    level, errors = logger.level, [stream.errors for stream in streams]
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = warn
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
        for stream in streams:
            stream.reconfigure(errors="backslashreplace")  # names that its encoding does not have
        try:
            yield
        finally:
            for stream, before in zip(streams, errors, strict=True):
                stream.reconfigure(errors=before)
            logger.removeHandler(handler)
            logger.setLevel(level)
            logging.getLogger("sam_diffsr.pipeline").setLevel(logging.NOTSET)


class Bar:
    """Progress over many files: files, percent, time left.

    Args:
        total: number of files.
        show: draw it.
    """

    def __init__(self, total: int, *, show: bool) -> None:
        self._bar: Any = None
        self._total = total
        self._finished = 0
        if show:
            from tqdm.auto import tqdm

            layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            self._bar = tqdm(total=total, desc=f"0/{total} files", bar_format=layout, leave=False)

    @contextmanager
    def files(self, count: int) -> Generator[dict[str, Any]]:
        """Files in work: give the ``callback`` of ``upscale`` as an argument, if the bar is drawn."""

        def show(done: int, total: int, _preview: object) -> None:
            self._show(count * done / total)

        yield {} if self._bar is None else {"callback": show}
        self.count(count)

    def count(self, files: int = 1) -> None:
        """Count files that are finished."""
        self._finished += files
        self._show(0)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, share: float) -> None:
        if self._bar is not None:
            done = min(self._finished + share, self._total)
            self._bar.set_description_str(f"{int(done)}/{self._total} files", refresh=False)
            self._bar.update(done - self._bar.n)
