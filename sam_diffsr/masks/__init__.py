"""Regions of an image, from SAM or without weights, and their structural position encoding."""

from __future__ import annotations

from sam_diffsr.masks.sam import SamMaskGenerator
from sam_diffsr.masks.sam_options import SamOptions
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import encode_label_map, encode_structure, region_values
from sam_diffsr.masks.store import read_records, read_structure, write_records, write_structure
from sam_diffsr.masks.structure import StructureField

__all__ = [
    "GraphMaskGenerator",
    "SamMaskGenerator",
    "SamOptions",
    "StructureField",
    "encode_label_map",
    "encode_structure",
    "read_records",
    "read_structure",
    "region_values",
    "write_records",
    "write_structure",
]
