"""The page of ``sam-diffsr app`` as a Space: ``python app.py`` serves it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sam_diffsr.app.page import build_page
from sam_diffsr.app.worker import Worker

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # Gradio deletes old uploads and results there
        build_page(Worker(Path(folder), max_pixels=4_000_000)).launch()
