"""``python -m sam_diffsr`` is the ``sam-diffsr`` command."""

from __future__ import annotations

import sys

from sam_diffsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
