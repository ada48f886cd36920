"""Output of the command: lines never mix with a progress bar, and any file name can be printed."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_diffsr.cli.parser import as_flags
from sam_diffsr.errors import SamDiffsrError
from sam_diffsr.files import printable
from sam_diffsr.stores import as_uri

if TYPE_CHECKING:
    from sam_diffsr.masks.folders import MaskOutcome
    from sam_diffsr.pipeline.batch import Outcome


def say(text: str, *, error: bool = False) -> None:
    """Print a line, above a progress bar if there is one."""
    stream = sys.stderr if error else sys.stdout
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=stream)
        stream.flush()
    else:
        print(text, file=stream, flush=True)


def one_line(error: Exception) -> str:
    """What an error says, on one line; with its type only where it is not one of the library's own."""
    message = " ".join(str(error).split())
    return message if isinstance(error, SamDiffsrError) else f"{type(error).__name__}: {message}"


def hush_pipeline() -> None:
    """Silence the pipeline's messages per image, for commands that run the same images repeatedly."""
    logging.getLogger("sam_diffsr.pipeline").setLevel(logging.WARNING)


class Report:
    """Prints a line per file as it is done, and counts what became of them; ``args`` are those given."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._started, self._failures = args, time.perf_counter(), list[str]()
        self.counts = {"written": 0, "planned": 0, "skipped": 0, "failed": 0}

    def add(
        self, source: Path, target: Path, outcome: Outcome | MaskOutcome, place: str, details: str
    ) -> None:
        """Print the line of a file: its place in the list, names, and details of the result."""
        from sam_diffsr.image.jobs import STDOUT

        self.counts[outcome.status] += 1
        read, written = (printable(as_uri(path)) for path in (source, target))
        if outcome.error is not None:
            if self._args.debug:
                raise outcome.error
            failure = f"{read}: {as_flags(one_line(outcome.error), self._args.parser.flags)}"
            self._failures.append(failure)
            say(f"{place}{failure}", error=True)
        elif not self._args.quiet:
            skipped = outcome.status == "skipped"
            text = f"{written} already exists, skipped" if skipped else f"{read} -> {written} ({details})"
            say(f"{place}{text}", error=target is STDOUT)  # which holds the image

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.perf_counter() - self._started

    def table(self) -> str:
        """Files by what became of them, images per second, and a line per failure."""
        columns = {name: str(count) for name, count in self.counts.items() if name != "planned"}
        columns |= {"seconds": f"{self.seconds:.1f}"}
        columns |= {"images/s": f"{self.counts['written'] / self.seconds:.2f}"}
        rows = ["".join(f"{cell:>10}" for cell in row) for row in (columns, columns.values())]
        return "\n".join([*rows, *(f"failed: {failure}" for failure in self._failures)])


@contextmanager
def messages(*, quiet: bool, verbose: bool, rewrite: Callable[[str], str]) -> Generator[None]:
    """Send the library's messages and warnings, rewritten, to stderr for as long as the command runs."""
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
    """Progress over many files: files, percent, time left; drawn only if asked to."""

    def __init__(self, total: int, *, show: bool) -> None:
        from tqdm.auto import tqdm

        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        first = f"0/{total} files"
        self._bar: Any = tqdm(total=total, desc=first, bar_format=layout, leave=False, disable=not show)
        self._finished = 0
        self.close = self._bar.close

    @contextmanager
    def files(self, count: int) -> Generator[dict[str, Any]]:
        """Files in work: give the ``callback`` of ``upscale`` as an argument, if the bar is drawn."""

        def show(done: int, total: int, _preview: object) -> None:
            self._show(count * done / total)

        yield {} if self._bar.disable else {"callback": show}
        self.count(count)

    def count(self, files: int = 1) -> None:
        """Count files that are finished."""
        self._finished += files
        self._show(0)

    def _show(self, share: float) -> None:
        done = min(self._finished + share, self._bar.total)
        self._bar.set_description_str(f"{int(done)}/{self._bar.total} files", refresh=False)
        self._bar.update(done - self._bar.n)
