"""Images in and out: PIL images, arrays and files to float tensors, and back to the same kind."""

from __future__ import annotations

from sam_diffsr.image.animation import Animation, decode_frames, join_frames
from sam_diffsr.image.decode import decode_image, encode_image, image_size
from sam_diffsr.image.formats import check_output
from sam_diffsr.image.kinds import MAX_PIXELS_DEFAULT, DecodedImage, ImageFormat, ImageInput
from sam_diffsr.image.save import save_image

__all__ = [
    "MAX_PIXELS_DEFAULT",
    "Animation",
    "DecodedImage",
    "ImageFormat",
    "ImageInput",
    "check_output",
    "decode_frames",
    "decode_image",
    "encode_image",
    "image_size",
    "join_frames",
    "save_image",
]
