"""The ``sam-diffsr`` command."""

from __future__ import annotations

from sam_diffsr.cli.app import main

__all__ = ["main"]
