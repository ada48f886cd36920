"""Print how far the library is from the published procedure and from its own promises.

``python examples/lab/check_parity.py`` prints them. The numbers of the published procedure are those
of ``tests/golden``, whose README says how they were made. A minute or two on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr import SuperResolver
from sam_diffsr.diffusion import NoiseSchedule, ScheduleConfig, residual_to_image, sample_ddpm
from sam_diffsr.image import decode_image
from sam_diffsr.models import build_model, load_reference_checkpoint
from sam_diffsr.resize import imresize

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def distance(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference."""
    return (one.double() - other.double()).abs().max().item()


def report(what: str, value: float) -> None:
    """One row of a Markdown table."""
    print(f"| {what} | {value:.1e} |" if value else f"| {what} | 0 |")


def against_the_published_procedure() -> None:
    """Networks, then the whole reverse loop, on small random weights in the published layout."""
    settings = json.loads((GOLDEN / "reference_tiny.json").read_text(encoding="utf-8"))
    numbers = load_file(GOLDEN / "reference_tiny.safetensors")
    config, state = load_reference_checkpoint(GOLDEN / "reference_tiny.ckpt")
    model = build_model(config).eval()
    model.load_state_dict(state)
    schedule = NoiseSchedule.from_config(ScheduleConfig(timesteps=settings["T"]))
    condition = model.encode((numbers["lr"] + 1) / 2)
    image = model.encoder_image(condition) * 2 - 1
    report("encoder's image", distance(image, numbers["rrdb_sr"]))
    eps = model(numbers["unet_x"], numbers["unet_t"], condition)
    report("denoiser's noise", distance(eps, numbers["unet_noise_pred"]))
    draws = iter(numbers["sample_step_noise"])
    x0 = sample_ddpm(
        lambda xt, t: model(xt, t, condition),
        numbers["sample_x_T"],
        schedule,
        steps=schedule.timesteps,
        noise=lambda like: next(draws)[None],
    )
    sr = residual_to_image(x0, numbers["lr_up"], residual_scale=settings["res_rescale"])
    report("image of the whole reverse loop, in [-1, 1]", distance(sr, numbers["sample_sr"]))


def against_its_own_promises() -> None:
    """Batches, seeds and tiles with the bundled model at its defaults, images in [0, 1].

    From pure noise the first step divides by the square root of alpha_bar = 2e-7 and so makes rounding 2000
    times larger: there batches and singles differ by about 1e-3.
    """
    resolver = SuperResolver.from_pretrained(device="cpu")
    photo = decode_image(ROOT / "examples" / "chelsea.png").rgb
    crops = torch.cat(
        [photo[..., y : y + 32, x : x + 32] for y, x in ((0, 0), (64, 64), (128, 200), (200, 400))]
    )

    def run(lr: Tensor, seeds: list[int], tile: int = 0, halo: int | None = None) -> Tensor:
        return resolver.upscale_tensor(lr, seeds=seeds, tile=tile, halo=halo)

    together = run(crops, [0, 1, 2, 3])
    singles = torch.cat([run(crops[i : i + 1], [i]) for i in range(4)])
    report("batch of four against four singles", distance(together, singles))
    report("the same seed twice", distance(together, run(crops, [0, 1, 2, 3])))
    large = imresize(photo, 0.5).clamp(0, 1)
    whole = run(large, [0])
    field = -(-resolver.config.model.denoiser.receptive_field // resolver.scale)
    report("tiles with a full halo against none", distance(run(large, [0], 64, field), whole))
    report("tiles with the default halo against none", distance(run(large, [0], 64), whole))


@torch.inference_mode()
def main() -> None:
    """Print both tables as one."""
    print("| largest difference | |\n| --- | --- |")
    against_the_published_procedure()
    against_its_own_promises()


if __name__ == "__main__":
    main()
