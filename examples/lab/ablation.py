r"""What structure in the noise brings: the same training with and without it, several seeds, one table.

Trains a denoiser for each variant and seed on one frozen encoder, with equal data, steps and seeds, exports
it, scores all on held-back photographs and prints mean and spread over the seeds. What is finished is kept:
the command can be repeated after a stop::

    python examples/lab/ablation.py ablation --encoder sam-diffsr-x4-small --hr data/holdout \
        --crops data/crops --region-crops data/crops-region --set model.denoiser.dim=16 --set run.steps=1000

``--region-crops`` are the same crops prepared with ``--reduction region``; without them those variants are
left out. E = 0 trains what no structure trains, to the bit; it is there to show that.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from sam_diffsr import SuperResolver
from sam_diffsr.data import find_dataset
from sam_diffsr.evaluation import evaluate_methods
from sam_diffsr.evaluation.methods import Setting, bicubic_method, model_methods
from sam_diffsr.evaluation.perceptual import PairDistance, lpips_distance
from sam_diffsr.evaluation.report import text_table, write_json
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import export_run, load_config, train

VARIANTS: dict[str, tuple[str, bool]] = {
    "none": ("ablation/none", False),
    "zero-structure": ("ablation/zero-structure", False),
    "released-image": ("ablation/released", False),
    "paper-image": ("ablation/paper", False),
    "released-region": ("ablation/released", True),
    "paper-region": ("ablation/paper", True),
}
"""Name to preset, and whether it trains on the crops whose values are divided by the region's area."""

SETTINGS = (
    SamplingConfig(sampler="ddpm", steps=8),
    SamplingConfig(sampler="ddim", steps=1, start=50),
)
"""From pure noise, where structure could help most, and from the encoder's image half-way down."""

COLUMNS = (
    ("psnr_y", 3, "PSNR-Y"),
    ("ssim_y", 4, "SSIM-Y"),
    ("artifacts", 5, "artefacts"),
    ("lpips", 4, "LPIPS"),
)
"""Score, digits and heading."""


def model_of(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Train and export one variant, unless that is done."""
    preset, region = VARIANTS[name]
    run, folder = arguments.out / f"{name}_{seed}", arguments.out / "models" / f"{name}_{seed}"
    if (folder / "config.json").is_file():
        return folder
    crops = arguments.region_crops if region else arguments.crops
    overrides = [f"data.crops={crops}", f"diffusion.encoder={arguments.encoder}", f"run.seed={seed}"]
    config = load_config(preset, overrides=[*overrides, *arguments.overrides])
    if not train("denoiser", config, run, resume="latest").finished:
        raise SystemExit(f"{run} was stopped; give the same command again to go on")
    export_run(run, folder, sampling=SETTINGS[0])
    return folder


def scores_of(
    folder: Path, files: list[Path], *, lpips: PairDistance | None = None
) -> dict[str, dict[str, float]]:
    """Means over the photographs for each setting, kept beside the model."""
    kept = folder / ("scores.json" if lpips is None else "scores-lpips.json")
    if not kept.is_file():
        resolver = SuperResolver.from_pretrained(folder)
        methods = model_methods(
            resolver, name=folder.name, settings=[Setting(sampling=one) for one in SETTINGS]
        )
        rows = evaluate_methods(
            files, [bicubic_method(resolver.scale), *methods], scale=resolver.scale, lpips=lpips
        ).rows
        names = ["bicubic", "encoder", *(str(index) for index in range(len(SETTINGS)))]
        write_json(
            kept,
            {
                name: {key: value for key, _, _ in COLUMNS if (value := getattr(row, key)) is not None}
                for name, row in zip(names, rows, strict=True)
            },
        )
    return json.loads(kept.read_text(encoding="utf-8"))


def table(scores: dict[str, list[dict[str, dict[str, float]]]], setting: str) -> str:
    """Mean and standard deviation over the seeds, one line a variant."""

    def cell(found: list[dict[str, dict[str, float]]], key: str, digits: int) -> str:
        values = [one[setting][key] for one in found]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    any_model = next(iter(scores.values()))[0]
    columns = [column for column in COLUMNS if column[0] in any_model["bicubic"]]
    rows = [
        [name, str(len(found)), *(cell(found, key, digits) for key, digits, _ in columns)]
        for name, found in scores.items()
    ]
    for name in ("bicubic", "encoder"):
        values = any_model[name]
        rows.append([name, "", *(f"{values[key]:.{digits}f}" for key, digits, _ in columns)])
    return text_table(["structure", "seeds", *(heading for _, _, heading in columns)], rows)


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for runs, models and scores")
    parser.add_argument(
        "--encoder", required=True, help="run, checkpoint or model whose encoder all stand on"
    )
    parser.add_argument("--crops", type=Path, required=True, help="training crops")
    parser.add_argument("--region-crops", type=Path, help="the same, prepared with --reduction region")
    parser.add_argument("--hr", type=Path, required=True, help="photographs that are not trained on")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--lpips", action="store_true", help="LPIPS too; needs its weights")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    arguments = parser.parse_args()
    files = find_dataset(arguments.hr, scale=4).hr
    lpips = lpips_distance() if arguments.lpips else None
    scores: dict[str, list[dict[str, dict[str, float]]]] = {}
    for seed in range(arguments.seeds):
        for name, (_, region) in VARIANTS.items():
            if region and arguments.region_crops is None:
                continue
            scores.setdefault(name, []).append(scores_of(model_of(name, seed, arguments), files, lpips=lpips))
            print(name, seed, flush=True)
    for index, setting in enumerate(SETTINGS):
        start = "pure noise" if setting.start is None else f"t = {setting.start}"
        print(f"\n{setting.sampler}, {setting.steps} steps from {start}\n\n{table(scores, str(index))}")


if __name__ == "__main__":
    main()
