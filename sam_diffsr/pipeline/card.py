"""Writes model cards: front matter for the Hub, usage, and facts about the model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sam_diffsr.pipeline.config import Degradation, ResolverConfig, SamplingConfig

__all__ = ["markdown_table", "model_card"]

_TAGS = ("super-resolution", "image-super-resolution", "diffusion", "pytorch")


_PLAUSIBLE = (
    "Fine detail in its output is plausible, not measured: do not use it to identify people or to read what "
    "cannot be read in the original."
)
_LIMITS: dict[Degradation | None, str] = {
    "photo": "The model was trained on photographs with blur, noise and JPEG compression and removes them as "
    f"far as it can. {_PLAUSIBLE}",
    "bicubic": "The model inverts bicubic downscaling. It does not remove blur, noise or compression: for "
    f"photographs that have them, use a photo model. {_PLAUSIBLE}",
}
_LIMITS[None] = _LIMITS["bicubic"]


def model_card(
    config: ResolverConfig,
    *,
    name: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
    details: str = "",
    front: Sequence[str] = (),
) -> str:
    """Write the card of one model.

    Args:
        config: the model's config.
        name: title, and the name in the example: a Hub id, folder or bundled name.
        license: SPDX identifier of the weights' licence in lower case; None leaves it out.
        datasets: Hub ids or names of the training data.
        details: Markdown for the end: scores, data, training.
        front: further lines of the front matter.

    Returns:
        Markdown with YAML front matter.
    """
    header = ["library_name: sam_diffsr", "pipeline_tag: image-to-image"]
    if license is not None:
        header.append(f"license: {license}")
    header += ["tags:", *(f"- {tag}" for tag in _TAGS)]
    if datasets:
        header += ["datasets:", *(f"- {json.dumps(dataset)}" for dataset in datasets)]
    model, sampling = config.model, config.sampling
    facts = {
        "encoder": f"{model.encoder.blocks} RRDB blocks, {model.encoder.channels} channels, "
        f"growth {model.encoder.growth}",
        "denoiser": f"{' - '.join(str(width) for width in model.denoiser.channels)} channels",
        "schedule": f"{config.schedule.name}, {config.schedule.timesteps} timesteps",
        "structure in training": config.modulation,
        "default sampling": _sampling_in_words(sampling),
    }
    lines = [
        "---",
        *header,
        *front,
        "---",
        "",
        f"# {name}",
        "",
        f"Image super-resolution by a factor of {model.scale} with "
        "[SAM-DiffSR](https://arxiv.org/abs/2402.17133): residual diffusion whose noise carried the "
        "structure of the image in training. It needs no segmentation when it is used.",
        "",
        "```python",
        "from PIL import Image",
        "from sam_diffsr import SuperResolver",
        "",
        f"resolver = SuperResolver.from_pretrained({json.dumps(name)})",
        'resolver.upscale(Image.open("photo.png")).save("photo_large.png")',
        "```",
        "",
        *markdown_table(["", ""], [list(fact) for fact in facts.items()]),
        "",
        _LIMITS[config.degradation],
    ]
    if details:
        lines += ["", details.strip()]
    return "\n".join(lines) + "\n"


def _sampling_in_words(sampling: SamplingConfig) -> str:
    if sampling.steps == 0:
        return "the encoder's image, without diffusion"
    start = "pure noise" if sampling.start is None else f"the encoder's image, noised to t = {sampling.start}"
    return f"{sampling.sampler}, {sampling.steps} step{'s' if sampling.steps > 1 else ''}, from {start}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; bars inside cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        return "|" + "|".join(f" {cell} " if cell else " " for cell in escaped) + "|"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]
