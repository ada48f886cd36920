"""The browser page of ``sam-diffsr app``, made with Gradio; every handler calls the worker."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sam_diffsr.app.worker import Choices, Result, Worker
from sam_diffsr.device import Precision
from sam_diffsr.errors import ArgumentError, CancelledError, MissingDependencyError, SamDiffsrError
from sam_diffsr.image import MAX_PIXELS_DEFAULT

try:
    import gradio as gr
    from gradio.themes import Soft
except ImportError as error:
    raise MissingDependencyError("the page needs gradio: pip install 'sam-diffsr[app]'") from error

Report = Callable[[float], object]
"""Called with the finished share of the work."""

_EXAMPLES = Path(__file__).parent / "examples"
_SCALES = (2, 3, 4)
_FILE_TYPES = ("png", "jpg", "webp", "tif")
_MOST_WAITING = 20
"""Jobs that may wait; further ones are refused."""
_PROGRESS = gr.Progress()
_CSS = """
.gradio-container { width: 100% !important; max-width: 1400px !important; margin: 0 auto !important; }
footer { display: none !important; }
"""


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    open_browser: bool = False,
    model: str | None = None,
    device: str = "auto",
    dtype: Precision = "auto",
    max_pixels: int = MAX_PIXELS_DEFAULT,
) -> None:
    """Serve the page on an address and port until the process is interrupted.

    The host ``"0.0.0.0"`` lets other machines in; ``share`` also gives the page a public address, through
    Gradio's servers. The other arguments are those of :class:`Worker`. Uploads and results lie in a temporary
    folder, which is removed at the end.

    Raises:
        ArgumentError: the port cannot be used.
        SamDiffsrError: the model cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        worker = Worker(Path(folder), model=model, device=device, dtype=dtype, max_pixels=max_pixels)
        worker.load(worker.models[0])
        try:
            build_page(worker).launch(
                server_name=host,
                server_port=port,
                share=share,
                inbrowser=open_browser,
                theme=Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=_CSS,
                footer_links=[],
                ssr_mode=False,
            )
        except OSError as error:
            raise ArgumentError(
                f"port {port} on {host} cannot be used ({error}); choose another one with --port"
            ) from error


def build_page(worker: Worker) -> gr.Blocks:
    """Make the page; its ``launch`` serves it."""
    with gr.Blocks(title="sam-diffsr", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(
            "# sam-diffsr\nUpscale photographs by residual diffusion. Images stay on "
            "the machine that serves this page."
        )
        with gr.Tab("One image"):
            _build_one(page, worker)
        with gr.Tab("Several images"):
            _build_several(page, worker)
    return page.queue(max_size=_MOST_WAITING, default_concurrency_limit=1, api_open=False)


def _build_one(page: gr.Blocks, worker: Worker) -> None:
    def make_input() -> Any:
        source = gr.Image(type="filepath", sources=["upload", "clipboard"], label="Input", height=300)
        source.preprocess = lambda payload: payload and payload.path  # as it is, whatever it holds
        gr.Examples([str(path) for path in sorted(_EXAMPLES.iterdir())], source, label="Examples")
        return source

    def make_outputs() -> list[Any]:
        look: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "max_height": 600}
        slider = gr.ImageSlider(label="Before (bicubic) and after", type="filepath", **look)
        return [slider, gr.DownloadButton("Download", interactive=False)]

    def run(path: str, choices: Choices, job: str, report: Report) -> Iterator[tuple[Any, ...]]:
        try:
            result = worker.upscale(path, choices, job=job, report=report)
        except CancelledError:
            yield "Cancelled.", gr.update(), gr.update()
            return
        except SamDiffsrError as error:
            raise gr.Error(str(error), duration=None) from error
        download = gr.update(value=str(result.path), interactive=True)
        yield f"Done: {_summary(result)}.", tuple(map(str, result.views)), download

    _build_tab(page, worker, "one", make_input, make_outputs, worker.describe, run)


def _build_several(page: gr.Blocks, worker: Worker) -> None:
    def make_input() -> Any:
        return gr.File(label="Input", file_count="multiple", file_types=["image"], height=300)

    def make_outputs() -> list[Any]:
        return [gr.Markdown(), gr.File(label="Download", file_count="multiple", interactive=False)]

    def describe(paths: list[str], choices: Choices) -> str:
        lines: list[str] = []
        for path in paths:
            try:
                lines.append(f"* {Path(path).name}: {worker.describe(path, choices)}")
            except SamDiffsrError as error:
                lines.append(f"* **Left out:** {error}")
        return "\n".join(lines)

    def run(paths: list[str], choices: Choices, job: str, report: Report) -> Iterator[tuple[Any, ...]]:
        lines: list[str] = []
        done: list[str] = []
        for name, outcome in worker.upscale_all(paths, choices, job=job, report=report):
            if isinstance(outcome, Result):
                done.append(str(outcome.path))
                lines.append(f"* {name}: {_summary(outcome)}")
            else:
                lines.append(f"* **{name} failed:** {outcome}")
            yield f"{len(lines)} of {len(paths)} files", "\n".join(lines), done
        end = "Done" if len(lines) == len(paths) else "Cancelled"
        text = f"{end}: {len(done)} of {len(paths)} files upscaled."
        yield text, "\n".join(lines), [*_archive(done), *done]

    _build_tab(page, worker, "several", make_input, make_outputs, describe, run)


def _build_tab(
    page: gr.Blocks,
    worker: Worker,
    tab: str,
    make_input: Callable[[], Any],
    make_outputs: Callable[[], list[Any]],
    describe: Callable[[Any, Choices], str],
    run: Callable[[Any, Choices, str, Report], Iterator[tuple[Any, ...]]],
) -> None:
    """Make a tab that describes, starts, awaits and cancels its job; leaving the page cancels it, too."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            source = make_input()
            about = gr.Markdown()
            with gr.Row():
                go = gr.Button("Upscale", variant="primary", interactive=False, min_width=120)
                stop = gr.Button("Cancel", interactive=False, min_width=120)
        with gr.Column(scale=3, min_width=320):
            outputs = make_outputs()
    inputs = [source, *_build_settings(worker)]
    running: set[str] = set()  # cancelled ones, too, until they have ended

    def job_of(request: gr.Request) -> str:
        return f"{request.session_hash}/{tab}"

    def look(source: Any, request: gr.Request, *values: Any) -> tuple[str, Any]:
        if not source:
            return "", gr.update(interactive=False)
        try:
            text = describe(source, _choices(*values))
            return text, gr.update(interactive=job_of(request) not in running)
        except SamDiffsrError as error:
            return f"**This cannot be upscaled:** {error}", gr.update(interactive=False)

    def start(request: gr.Request) -> tuple[Any, Any]:
        worker.jobs.add(job_of(request))
        running.add(job_of(request))
        return gr.update(interactive=False), gr.update(interactive=True)

    def work(source: Any, request: gr.Request, progress: Any = _PROGRESS, *values: Any) -> Iterator[Any]:
        def report(share: float) -> None:
            progress(share, desc="Upscaling")

        yield from run(source, _choices(*values), job_of(request), report)

    def cancel(request: gr.Request) -> None:
        worker.jobs.discard(job_of(request))

    def end(request: gr.Request) -> tuple[Any, Any]:
        cancel(request)
        running.discard(job_of(request))
        return gr.update(interactive=True), gr.update(interactive=False)

    changes = [component.change for component in inputs]
    gr.on(changes, look, inputs, [about, go], show_progress="hidden", trigger_mode="always_last")
    started = go.click(start, None, [go, stop], queue=False)
    finished = started.then(work, inputs, [about, *outputs], concurrency_id="work")
    finished.then(end, None, [go, stop], queue=False)
    stop.click(cancel, None, None, queue=False)
    page.unload(cancel)


def _build_settings(worker: Worker) -> list[Any]:
    """The components whose values :func:`_choices` takes."""
    label = "Fidelity (1: closest to the input, 0: most texture)"
    with gr.Group():
        with gr.Row():
            model = gr.Dropdown(worker.models, value=worker.models[0], label="Model", scale=2)
            scale = gr.Dropdown(_SCALES, value=_SCALES[-1], label="Scale", min_width=100)
            extension = gr.Dropdown(_FILE_TYPES, value=_FILE_TYPES[0], label="File type", min_width=100)
            seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", min_width=100)
        own = gr.Checkbox(value=True, label="The model's own fidelity")
        fidelity = gr.Slider(0, 1, value=0.75, step=0.05, label=label, visible=False)

    def show(own: bool) -> Any:
        return gr.update(visible=not own)

    own.change(show, own, fidelity, queue=False)
    return [model, own, fidelity, scale, seed, extension]


def _choices(
    model: str, own: bool, fidelity: float, scale: float, seed: float | None, extension: str
) -> Choices:
    chosen = None if own else float(fidelity)
    return Choices(model=model, fidelity=chosen, outscale=scale, seed=int(seed or 0), extension=extension)


def _summary(result: Result) -> str:
    height, width = result.size
    return f"{width} × {height} pixels, {result.seconds:.1f} s"


def _archive(paths: list[str]) -> list[str]:
    """All results in one file, if there are several; not compressed, because images are."""
    if len(paths) < 2:
        return []
    target = Path(paths[-1]).parent / "results.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for number, path in enumerate(paths, start=1):
            archive.write(path, f"{number:03d}_{Path(path).name}")
    return [str(target)]
