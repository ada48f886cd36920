"""Commands that are one call of the library each: app, convert, info, export and export-onnx."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import CHOICES, add_device_options, add_model_option, given, whole
from sam_diffsr.cli.parser import Parser


def add_app(parser: Parser) -> None:
    """``sam-diffsr app``: a browser page that upscales images."""
    command = parser.add_command(
        "app",
        _serve,
        help="open a browser page that upscales images",
        description="Serve a page with drag and drop, a before/after slider, several images at once and "
        "downloads. It needs the extra `app` and no internet. Stop it with Ctrl-C.",
    )
    add_model_option(command)
    add = command.add_argument
    host = "address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1)"
    public = "also make the page public, through the servers of Gradio (default: off)"
    page = "open the page in a browser"
    add("--host", help=host)
    add("--port", type=whole(1, 65535), help="port to listen on (default: 7860)")
    add("--open", dest="open_browser", action="store_true", default=None, help=page)
    add("--share", action="store_true", default=None, help=public)
    add("--max-pixels", type=whole(1), metavar="N", help="largest input image (default: 64 megapixels)")
    add_device_options(command)


def _serve(args: argparse.Namespace) -> int:
    from sam_diffsr.app.page import serve

    options = ("model", "host", "port", "open_browser", "share", "max_pixels", "device", "dtype")
    serve(**given(args, *options))
    return 0


def add_convert(parser: Parser) -> None:
    """``sam-diffsr convert``: turns a checkpoint of other code into a model folder."""
    add = parser.add_command(
        "convert",
        _convert,
        help="turn a checkpoint of other code into a model folder",
        description="Read a published SAM-DiffSR or SRDiff .ckpt, or an RRDBNet of the ESRGAN family (.pth, "
        ".safetensors), and write a model folder for upscale -m OUT_DIR. Nothing in the file is executed.",
    ).add_argument
    precision = "stored precision (default: fp32, as published)"
    add("checkpoint", metavar="CKPT", help="the file to convert")
    add("out_dir", metavar="OUT_DIR", help="folder to write")
    add("--dtype", choices=CHOICES["stored_precision"], help=precision)


def _convert(args: argparse.Namespace) -> int:
    from sam_diffsr.pipeline.checkpoint import convert_checkpoint

    config = convert_checkpoint(args.checkpoint, args.out_dir, **given(args, "dtype"))
    print(f"{args.out_dir}: x{config.model.scale}, {config.schedule.timesteps} timesteps")
    return 0


def add_info(parser: Parser) -> None:
    """``sam-diffsr info``: what a bug report needs."""
    command = parser.add_command(
        "info",
        _info,
        help="print versions, devices, caches and bundled models",
        description="Print versions, devices, cache and offline settings, and the bundled models. Uses no "
        "network.",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")


def _info(args: argparse.Namespace) -> int:
    import json

    from sam_diffsr.evaluation.environment import describe_environment
    from sam_diffsr.evaluation.report import outline

    environment = describe_environment()
    print(json.dumps(environment, indent=2) if args.json else outline(environment))
    return 0


def add_export(parser: Parser) -> None:
    """``sam-diffsr export``: writes a training run as a folder that ``from_pretrained`` loads."""
    add = parser.add_command(
        "export",
        _export,
        help="turn a training run into a model folder",
        description="Write a model folder with the averaged weights of a diffusion run and its encoder. The "
        "model card describes training data and settings, if crops and logs still exist. To add scores: "
        "export, evaluate the folder with --json, export again with --scores.",
    ).add_argument
    spacing = "default spacing of the steps (default: linspace)"
    share = "part of the encoder's image in results (default: 0)"
    datasets = "name or Hub id of a training data set; can be repeated"
    add("run_dir", metavar="RUN", help="folder of the run, or one checkpoint")
    add("out_dir", metavar="OUT_DIR", help="folder to write")
    add("--sampler", choices=CHOICES["sampler"], required=True, help="default sampler of the model")
    add("--steps", type=int, required=True, metavar="N", help="default number of steps")
    add("--start", type=int, metavar="T", help="default start timestep (default: pure noise)")
    add("--spacing", choices=CHOICES["spacing"], help=spacing)
    add("--encoder-share", type=float, metavar="0..1", help=share)
    add("--dtype", choices=CHOICES["stored_precision"], help="stored precision (default: fp32)")
    add("--name", help="title of the model card (default: the folder's name)")
    add("--license", metavar="SPDX", help="licence of the weights, as an SPDX identifier")
    add("--dataset", action="append", dest="datasets", metavar="NAME", help=datasets)
    add("--scores", metavar="FILE", help="JSON file of `sam-diffsr evaluate` with this model and sampling")
    add("--details", metavar="FILE", help="Markdown file for the end of the card")


def _export(args: argparse.Namespace) -> int:
    from sam_diffsr.pipeline.config import SamplingConfig
    from sam_diffsr.training.export import export_run, read_details

    sampling = SamplingConfig(**given(args, "sampler", "steps", "start", "spacing", "encoder_share"))
    details = "" if args.details is None else read_details(args.details)
    chosen = given(args, "name", "license", "datasets", "scores", "dtype")
    config = export_run(args.run_dir, args.out_dir, sampling=sampling, details=details, **chosen)
    steps = f"{sampling.steps} step{'' if sampling.steps == 1 else 's'}"
    print(f"{args.out_dir}: x{config.model.scale}, {sampling.sampler}, {steps}")
    return 0


def add_export_onnx(parser: Parser) -> None:
    """``sam-diffsr export-onnx``: a model as two ONNX files, for programs without torch."""
    add = parser.add_command(
        "export-onnx",
        _export_onnx,
        help="write a model as ONNX files",
        description="Write encoder.onnx and denoiser.onnx with dynamic sizes, and compare both with torch. "
        "examples/08_onnx_upscale.py upscales an image with them, without torch. Needs the extra `onnx`.",
    ).add_argument
    add("model", metavar="MODEL", help="bundled name, folder, .safetensors file or Hub id")
    add("out_dir", metavar="OUT", help="folder to write")
    add("--half", action="store_true", help="store and compute in float16")


def _export_onnx(args: argparse.Namespace) -> int:
    from sam_diffsr.pipeline.resolver import SuperResolver

    resolver = SuperResolver.from_pretrained(args.model, device="cpu")
    difference = resolver.export_onnx(args.out_dir, half=args.half)
    print(f"{args.out_dir}: encoder.onnx, denoiser.onnx; largest difference from torch {difference:.1g}")
    return 0
