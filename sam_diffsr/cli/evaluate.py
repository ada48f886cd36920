"""``sam-diffsr evaluate``: quality tables, files and a page for models and results side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sam_diffsr.cli.options as options
from sam_diffsr.cli.options import CHOICES, given, int_list, number_list, word_list
from sam_diffsr.cli.output import hush_pipeline, say
from sam_diffsr.cli.parser import Parser
from sam_diffsr.errors import ArgumentError
from sam_diffsr.files import printable

if TYPE_CHECKING:
    from sam_diffsr.evaluation.evaluate import ImageResult
    from sam_diffsr.evaluation.score_log import ScoreLog


def add_evaluate(parser: Parser) -> None:
    """Add the subcommand."""
    command = parser.add_command(
        "evaluate",
        _run,
        help="measure quality against high-resolution images",
        description="Enlarge low-resolution images with bicubic, with each model's encoder alone and with "
        "the models, and compare them with the high-resolution images; or score existing results (--sr). "
        "Lists of steps, samplers and so on give one row per combination; the default is one row per model.",
    )
    add = command.add_argument_group("images").add_argument
    truths = (
        "folder of high-resolution images, or a data set: HR and LR_bicubic/X4, GTmod12 and LRbicx4, "
        "DIV2K_valid_HR and DIV2K_valid_LR_bicubic/X4, img_001_SRF_4_HR.png and img_001_SRF_4_LR.png"
    )
    inputs = (
        "folder of the low-resolution images, 0001.png or 0001x4.png for 0001.png (default: those of the "
        "data set, else MATLAB bicubic of the high-resolution images, 8 bit)"
    )
    damages = (
        "make damaged inputs from the high-resolution images, one set of rows per damage: bicubic (none), "
        "jpeg50, noise10, blur1.5, blur1+noise5+jpeg75, photo"
    )
    results = "folder of results to score, named like the high-resolution images; repeatable"
    add("--hr", required=True, metavar="DIR", help=truths)
    add("--lr", metavar="DIR", help=inputs)
    add("--degrade", type=word_list, metavar="A,B,..", help=damages)
    add("--sr", action="append", metavar="[NAME=]DIR", help=results)
    add("--scale", type=int, metavar="N", help="scale of --sr where no --model has one (default: 4)")

    models = command.add_argument_group("models")
    add = models.add_argument
    sources = (
        "photo, small, base, a folder, a .safetensors file or a Hub id; repeatable (default: photo, or none "
        "with --sr)"
    )
    starts = "noise, or timesteps to start at from the encoder's image"
    fidelities = "instead of --start: 1 (closest to the input) to 0 (most texture)"
    add("-m", "--model", "-n", action="append", metavar="[NAME=]MODEL", help=sources)
    add("--steps", type=int_list, metavar="N,N,..", help="numbers of denoising steps")
    add("--sampler", type=word_list, metavar="A,B,..", help="ddpm, ddim, dpmpp_2m")
    add("--start", type=options.start_list, metavar="A,B,..", help=starts)
    add("--fidelity", type=number_list, metavar="A,B,..", help=fidelities)
    add("--spacing", type=word_list, metavar="A,B,..", help="linspace, trailing: where the steps lie")
    add("--seed", type=int, metavar="N", help="seed of noise and damage (default: 0)")
    options.add_device_options(models)

    add = command.add_argument_group("measures").add_argument
    protocols = (
        "matlab: border = scale, gray files scored on gray values; paper: no border, gray files scored as "
        "RGB (default: matlab)"
    )
    columns = f"further columns: {', '.join(CHOICES['measures'])}"
    add("--protocol", choices=CHOICES["protocol"], help=protocols)
    add("--measures", type=word_list, metavar="A,B,..", help=columns)
    add("--lpips", action="store_true", help="LPIPS; downloads AlexNet's weights if missing")
    add("--fid", action="store_true", help="FID; downloads Inception's weights if missing")

    add = command.add_argument_group("output").add_argument
    resume = (
        "continue a stopped run: scores are kept in FILE image by image, and those in it are reused "
        "(without FILE: in one next to the first output, deleted at the end); with --html or --save every "
        "image is made again"
    )
    add("--json", metavar="FILE", help="every value, with settings, commit and versions")
    add("--csv", metavar="FILE", help="one line per image and method")
    add("--html", metavar="FILE", help="one page with tables and before/after sliders")
    add("--save", metavar="DIR", help="inputs and enlarged images, one folder per row")
    add("--resume", nargs="?", const="", metavar="FILE", help=resume)


def _run(args: argparse.Namespace) -> int:
    from sam_diffsr.data.degrade import parse_degradation
    from sam_diffsr.evaluation import methods as rows
    from sam_diffsr.evaluation import perceptual
    from sam_diffsr.evaluation.evaluate import evaluate_methods, result_writer
    from sam_diffsr.evaluation.page import ComparisonPage
    from sam_diffsr.evaluation.pairs import find_pairs
    from sam_diffsr.evaluation.report import write_json, write_text
    from sam_diffsr.image.formats import check_file
    from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL
    from sam_diffsr.pipeline.resolver import SuperResolver

    # outputs, models and images
    if not args.debug:
        hush_pipeline()
    log = _score_log(args)
    outputs = [Path(file) for file in (args.json, args.csv, args.html, log and log.path) if file]
    for target in outputs:
        check_file(target)
    if len({target.resolve() for target in outputs}) < len(outputs):
        raise ArgumentError("two outputs have one name; give each its own")
    damages = [parse_degradation(text) for text in args.degrade or ()]
    folders = rows.split_labels(args.sr or [])
    sources = rows.split_labels(args.model or ([] if folders else [DEFAULT_MODEL]))
    load = partial(SuperResolver.from_pretrained, **given(args, "device", "dtype"))
    resolvers = [(name, load(source)) for name, source in sources]
    scale = rows.common_scale([resolver.scale for _, resolver in resolvers], asked=args.scale)
    hr_files, lr_files = find_pairs(args.hr, args.lr, scale=scale, inputs=bool(resolvers) and not damages)
    for file in (*hr_files, *(lr_files or ())):
        if any(target.exists() and target.samefile(file) for target in outputs):
            raise ArgumentError(f"{printable(file)} is an image to evaluate; give the output another name")

    # one method per row
    methods = [rows.bicubic_method(scale)]
    for name, resolver in resolvers:
        settings = rows.sampling_grid(
            resolver.config,
            samplers=args.sampler,
            steps=args.steps,
            starts=args.start,
            fidelities=args.fidelity,
            spacings=args.spacing,
        )
        methods += rows.model_methods(resolver, name=name, settings=settings)
    methods += rows.folder_methods(folders, hr_files, scale=scale)

    # what is done with each image
    page = ComparisonPage(methods, scale=scale)
    observers: list[Callable[[ImageResult], None]] = [page.add] if args.html is not None else []
    if args.save is not None:
        write = result_writer(
            args.save, methods, hr_files=hr_files, lr_files=lr_files, damages=[one.name for one in damages]
        )
        observers.append(write)

    def observe(result: ImageResult) -> None:
        for observer in observers:
            observer(result)

    device = {"device": resolvers[0][1].device} if resolvers else {}
    try:
        evaluation = evaluate_methods(
            hr_files,
            methods,
            scale=scale,
            lr_files=lr_files,
            damages=damages,
            lpips=perceptual.lpips_distance(**device) if args.lpips else None,
            features=perceptual.inception_features(**device) if args.fid else None,
            dataset=os.path.commonpath([file.parent for file in hr_files]),
            on_image=observe if observers else None,
            log=log,
            **device,
            **given(args, "protocol", "seed", "measures"),
        )
    except KeyboardInterrupt:
        if log is not None:
            how = f"--resume {log.path} without --html and --save" if observers else "--resume"
            say(f"scores so far are in {log.path}; the same command with {how} continues", error=True)
        raise

    # the table, then the files
    notes = evaluation.notes()
    notes += [f"{log.reused} scores were reused from {log.path}"] if log is not None and log.reused else []
    print("\n\n".join([evaluation.heading(), evaluation.table(), *notes]))
    if args.json is not None:
        write_json(args.json, evaluation.to_json())
    if args.csv is not None:
        write_text(args.csv, evaluation.to_csv())
    if args.html is not None:
        write_text(args.html, page.html(evaluation))
    if log is not None and not args.resume:
        log.path.unlink(missing_ok=True)
    return 0


def _score_log(args: argparse.Namespace) -> ScoreLog | None:
    """Where scores are kept: the file of ``--resume``, else one next to the first output, else nowhere."""
    from sam_diffsr.evaluation.score_log import ScoreLog

    output = args.json or args.csv or args.html or (args.save and str(Path(args.save)))
    if args.resume == "" and not output:
        raise ArgumentError("--resume needs a FILE here, or one of --json, --csv, --html and --save")
    path = args.resume or (f"{output}.partial.jsonl" if output else None)
    return None if path is None else ScoreLog(path, resume=args.resume is not None)
