"""Endless synthetic training images with their exact regions: dead leaves, text and line art.

Dead leaves (Lee, Mumford and Huang, "Occlusion models for natural images", 2001): shapes of power-law sizes
that cover each other have the edges, contrasts and 1/f amplitude spectrum of photographs.
"""

from __future__ import annotations

from sam_diffsr.data.synthetic.drawing import Drawing
from sam_diffsr.data.synthetic.pool import SyntheticPool, synthesize_crops

__all__ = ["Drawing", "SyntheticPool", "synthesize_crops"]
