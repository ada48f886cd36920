"""``sam-diffsr export-onnx``: a model as two ONNX files, for programs without torch."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import Subparsers, add_command, add_common_options

__all__ = ["register"]


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "export-onnx",
        help="write a model as ONNX files",
        description="Write encoder.onnx and denoiser.onnx with dynamic sizes, and compare both with torch. "
        "examples/08_onnx_upscale.py upscales an image with them, without torch. Needs the extra `onnx`.",
    )
    parser.add_argument("model", metavar="MODEL", help="bundled name, folder, .safetensors file or Hub id")
    parser.add_argument("out_dir", metavar="OUT", help="folder to write")
    parser.add_argument("--half", action="store_true", help="store and compute in float16")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and print how far the files are from torch."""
    from sam_diffsr.pipeline.resolver import SuperResolver

    resolver = SuperResolver.from_pretrained(args.model, device="cpu")
    difference = resolver.export_onnx(args.out_dir, half=args.half)
    print(f"{args.out_dir}: encoder.onnx, denoiser.onnx; largest difference from torch {difference:.1g}")
    return 0
