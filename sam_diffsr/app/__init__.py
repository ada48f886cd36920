"""A browser page that upscales images; ``sam_diffsr.app.page`` needs the extra ``app``."""

from __future__ import annotations

__all__: list[str] = []
