"""Text of a model card: front matter that the Hub indexes, how to use the model, what it is made of."""

from __future__ import annotations

from collections.abc import Sequence

from sam_diffsr.pipeline.config import ResolverConfig

__all__ = ["model_card"]

_TAGS = ("super-resolution", "image-super-resolution", "diffusion", "pytorch")


def model_card(
    config: ResolverConfig,
    *,
    name: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
    details: str = "",
) -> str:
    """Write the card of one model.

    Args:
        config: the model's config.
        name: title, and what ``from_pretrained`` is called with in the example: a Hub id, folder or bundled
            name.
        license: SPDX identifier of the weights' licence in lower case; None leaves it out.
        datasets: Hub ids or names of what it was trained on.
        details: Markdown that is put at the end: training, scores.

    Returns:
        Markdown with YAML front matter.
    """
    front = ["library_name: sam_diffsr", "pipeline_tag: image-to-image"]
    if license is not None:
        front.append(f"license: {license}")
    front += ["tags:", *(f"- {tag}" for tag in _TAGS)]
    if datasets:
        front += ["datasets:", *(f"- {dataset}" for dataset in datasets)]
    model, sampling = config.model, config.sampling
    start = "pure noise" if sampling.start is None else f"the encoder's image, noised to t = {sampling.start}"
    lines = [
        "---",
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
        f'resolver = SuperResolver.from_pretrained("{name}")',
        'resolver.upscale(Image.open("photo.png")).save("photo_large.png")',
        "```",
        "",
        "| | |",
        "| --- | --- |",
        f"| encoder | {model.encoder.blocks} RRDB blocks, {model.encoder.channels} channels, "
        f"growth {model.encoder.growth} |",
        f"| denoiser | {' - '.join(str(width) for width in model.denoiser.channels)} channels |",
        f"| schedule | {config.schedule.name}, {config.schedule.timesteps} timesteps |",
        f"| structure in training | {config.modulation} |",
        f"| default sampling | {sampling.sampler}, {sampling.steps} steps, from {start} |",
        "",
        "The model inverts bicubic downscaling. On photographs that were blurred, compressed or noisy in "
        "another way it does not remove the damage, and fine detail in its output is plausible, not "
        "measured: do not use it to identify people or to read what cannot be read in the original.",
    ]
    if details:
        lines += ["", details.strip()]
    return "\n".join(lines) + "\n"
