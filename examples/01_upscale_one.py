"""Upscale one image with the default model: ``python examples/01_upscale_one.py INPUT OUTPUT``."""

from __future__ import annotations

import sys

from sam_diffsr import SuperResolver


def main() -> None:
    """Read the two paths and do it."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    resolver = SuperResolver.from_pretrained()
    resolver.upscale(source).save(target)


if __name__ == "__main__":
    main()
