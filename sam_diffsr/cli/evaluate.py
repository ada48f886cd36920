"""``sam-diffsr evaluate``: quality tables, files and a page, of models and of results side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from sam_diffsr.cli.options import (
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    given,
    hush_pipeline,
    int_list,
    number_list,
    start_list,
    word_list,
)

if TYPE_CHECKING:
    from sam_diffsr.evaluation.evaluate import ImageResult

__all__ = ["register"]

PROTOCOL_CHOICES = ("matlab", "paper")
"""The library's ``Protocol``; a test compares them."""
MEASURE_CHOICES = ("ringing", "grain", "colour")
"""The library's ``MEASURES``; a test compares them."""


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "evaluate",
        help="measure quality against high-resolution images",
        description="Enlarge low-resolution images by bicubic, by each model's encoder alone and by the "
        "models, and compare with the high-resolution ones; or compare results that are there (--sr). "
        "Lists of steps, samplers and so on give one row for each combination; without them there is one "
        "row a model, at its defaults.",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--hr",
        required=True,
        metavar="DIR",
        help="folder of high-resolution images, or a data set: HR and "
        "LR_bicubic/X4, GTmod12 and LRbicx4, DIV2K_valid_HR and DIV2K_valid_LR_bicubic/X4 and the like",
    )
    images.add_argument(
        "--lr",
        metavar="DIR",
        help="folder of their low-resolution images, 0001.png or 0001x4.png for 0001.png (default: those of "
        "the data set, else MATLAB bicubic of the high-resolution ones, 8 bit)",
    )
    images.add_argument(
        "--sr",
        action="append",
        metavar="[NAME=]DIR",
        help="folder of results to score, named like the high-resolution images; may be given several times",
    )
    images.add_argument(
        "--scale", type=int, metavar="N", help="factor of --sr where no --model says it (default: 4)"
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "-m",
        "--model",
        "-n",
        action="append",
        metavar="[NAME=]MODEL",
        help="bundled name, folder, .safetensors file or Hub id; may be given several times (default: the "
        "bundled model, or none with --sr)",
    )
    models.add_argument("--steps", type=int_list, metavar="N,N,..", help="numbers of denoising steps")
    models.add_argument("--sampler", type=word_list, metavar="A,B,..", help="ddpm, ddim, dpmpp_2m")
    models.add_argument(
        "--start",
        type=start_list,
        metavar="A,B,..",
        help="noise, or timesteps to start at from the encoder's image",
    )
    models.add_argument(
        "--fidelity",
        type=number_list,
        metavar="A,B,..",
        help="instead of --start: 1 (closest to the input) to 0 (most texture)",
    )
    models.add_argument(
        "--spacing", type=word_list, metavar="A,B,..", help="linspace, trailing: where the steps lie"
    )
    models.add_argument("--seed", type=int, metavar="N", help="chooses the noise (default: 0)")
    add_device_options(models)
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--protocol",
        choices=PROTOCOL_CHOICES,
        help="matlab: border = scale; paper: no border (default: matlab)",
    )
    measures.add_argument(
        "--measures",
        type=word_list,
        metavar="A,B,..",
        help=f"further columns: {', '.join(MEASURE_CHOICES)}",
    )
    measures.add_argument(
        "--lpips", action="store_true", help="LPIPS too; downloads AlexNet's weights when they are not there"
    )
    measures.add_argument(
        "--fid", action="store_true", help="FID too; downloads Inception's weights when they are not there"
    )
    output = parser.add_argument_group("output, beside the table")
    output.add_argument("--json", metavar="FILE", help="every value, with settings, commit and versions")
    output.add_argument("--csv", metavar="FILE", help="one line for each image and method")
    output.add_argument("--html", metavar="FILE", help="one page with tables, crops and error maps")
    output.add_argument("--save", metavar="DIR", help="the enlarged images, one folder a method")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table and write the files."""
    from sam_diffsr.evaluation.compare import (
        ResultFolders,
        common_scale,
        find_pairs,
        load_models,
        results_methods,
        split_labels,
    )
    from sam_diffsr.evaluation.evaluate import evaluate_methods
    from sam_diffsr.evaluation.methods import bicubic_method, model_methods, sampling_grid
    from sam_diffsr.evaluation.page import ComparisonPage
    from sam_diffsr.evaluation.perceptual import inception_features, lpips_distance
    from sam_diffsr.evaluation.report import check_target, write_json, write_text

    if not args.debug:
        hush_pipeline()
    for target in filter(None, (args.json, args.csv, args.html)):
        check_target(target)
    folders = split_labels(args.sr or [])
    dtype = {} if args.precision is None else {"dtype": args.precision}
    resolvers = load_models(
        split_labels(args.model or []), default=not folders, **given(args, "device"), **dtype
    )
    scale = common_scale([resolver.scale for _, resolver in resolvers], asked=args.scale)
    hr_files, lr_files = find_pairs(args.hr, args.lr, scale=scale)
    methods = [bicubic_method(scale)]
    for name, resolver in resolvers:
        settings = sampling_grid(
            resolver.config,
            samplers=args.sampler,
            steps=args.steps,
            starts=args.start,
            fidelities=args.fidelity,
            spacings=args.spacing,
        )
        methods += model_methods(resolver, name=name, settings=settings)
    methods += results_methods(folders, hr_files, scale=scale)

    device = {"device": resolvers[0][1].device} if resolvers else {}
    page = ComparisonPage(methods, scale=scale)
    observers: list[Callable[[ImageResult], None]] = [page.add] if args.html is not None else []
    if args.save is not None:
        observers.append(ResultFolders(args.save, methods, hr_files=hr_files).add)

    def observe(result: ImageResult) -> None:
        for observer in observers:
            observer(result)

    evaluation = evaluate_methods(
        hr_files,
        methods,
        scale=scale,
        lr_files=lr_files,
        lpips=lpips_distance(**device) if args.lpips else None,
        features=inception_features(**device) if args.fid else None,
        dataset=args.hr,
        on_image=observe,
        **device,
        **given(args, "protocol", "seed", "measures"),
    )
    print(f"{evaluation.heading()}\n\n{evaluation.table()}")
    for note in evaluation.notes():
        print(f"\n{note}")
    for reference, row in evaluation.cheapest():
        print(f"\nfewest steps that lose nothing to {reference.label}: {row.label}")
    if args.json is not None:
        write_json(args.json, evaluation.to_json())
    if args.csv is not None:
        write_text(args.csv, evaluation.to_csv())
    if args.html is not None:
        write_text(args.html, page.html(evaluation))
    return 0
