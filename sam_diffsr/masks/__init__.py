"""Regions of an image (from SAM or by graph segmentation) and their structural position encoding."""

from __future__ import annotations

from sam_diffsr.masks.folders import encode_folder, generate_folder, load_generator
from sam_diffsr.masks.picture import draw_structure
from sam_diffsr.masks.sam import SamMaskGenerator, SamOptions
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.shard import Shard
from sam_diffsr.masks.spe import StructureField, encode_label_map, encode_structure, region_values
from sam_diffsr.masks.store import read_records, read_structure, write_records, write_structure

__all__ = [
    "GraphMaskGenerator",
    "SamMaskGenerator",
    "SamOptions",
    "Shard",
    "StructureField",
    "draw_structure",
    "encode_folder",
    "encode_label_map",
    "encode_structure",
    "generate_folder",
    "load_generator",
    "read_records",
    "read_structure",
    "region_values",
    "write_records",
    "write_structure",
]
