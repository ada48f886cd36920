"""Image super-resolution by residual diffusion with structure-modulated noise (SAM-DiffSR, arXiv 2402.17133).

Importing this package imports nothing heavy: every public name is loaded when it is first used.
"""

# The names below are imported for type checkers only, and nothing in the package imports more than the
# version from here: no cycle exists when the code runs.
# pyright: reportImportCycles=false

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam_diffsr.diffusion.schedule import ScheduleConfig
    from sam_diffsr.errors import SamDiffsrError
    from sam_diffsr.image.save import save_image
    from sam_diffsr.models.config import ModelConfig
    from sam_diffsr.pipeline.checkpoint import available_models
    from sam_diffsr.pipeline.config import ResolverConfig
    from sam_diffsr.pipeline.resolver import SuperResolver

__version__ = "0.2.0"

__all__ = [
    "ModelConfig",
    "ResolverConfig",
    "SamDiffsrError",
    "ScheduleConfig",
    "SuperResolver",
    "__version__",
    "available_models",
    "save_image",
]

_HOME = {
    "ModelConfig": "sam_diffsr.models.config",
    "ResolverConfig": "sam_diffsr.pipeline.config",
    "SamDiffsrError": "sam_diffsr.errors",
    "ScheduleConfig": "sam_diffsr.diffusion.schedule",
    "SuperResolver": "sam_diffsr.pipeline.resolver",
    "available_models": "sam_diffsr.pipeline.checkpoint",
    "save_image": "sam_diffsr.image.save",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that owns it, the first time it is asked for (PEP 562)."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
