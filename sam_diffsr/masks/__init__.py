"""Regions of an image and their structural position encoding."""

from __future__ import annotations

from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import encode_label_map, encode_structure, region_values

__all__ = ["GraphMaskGenerator", "encode_label_map", "encode_structure", "region_values"]
