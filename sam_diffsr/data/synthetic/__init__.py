"""Endless synthetic training images with their exact regions: dead leaves, text and line art.

Dead leaves (Lee, Mumford and Huang, "Occlusion models for natural images", 2001): shapes of power-law sizes
that cover each other have the edges, contrasts and 1/f amplitude spectrum of photographs.
"""

from __future__ import annotations

from sam_diffsr.data.synthetic.canvas import Canvas
from sam_diffsr.data.synthetic.drawing import Drawing, draw_image
from sam_diffsr.data.synthetic.pool import SyntheticPool
from sam_diffsr.data.synthetic.render import render
from sam_diffsr.data.synthetic.store import synthesize_crops
from sam_diffsr.data.synthetic.textures import TextureBank, natural_textures, photo_textures

__all__ = [
    "Canvas",
    "Drawing",
    "SyntheticPool",
    "TextureBank",
    "draw_image",
    "natural_textures",
    "photo_textures",
    "render",
    "synthesize_crops",
]
