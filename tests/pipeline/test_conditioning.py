"""Conditions of windows, however they are kept, and the denoiser that works on them."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.pipeline.conditioning import TiledDenoiser, condition_source, encoder_estimate
from sam_diffsr.pipeline.planning import Halos, MemoryPlan
from sam_diffsr.pipeline.tiling import TileRunner

CPU = torch.device("cpu")
LR, T = (1, 3, 24, 32), torch.tensor([7])


def runner_for(config, *, size: int, halo: int | None = None) -> TileRunner:
    field = config.model.denoiser.receptive_field
    return TileRunner(
        LR[-2] * 4,
        LR[-1] * 4,
        size=(size, size),
        halo=field if halo is None else halo,
        receptive_field=field,
        align=config.model.lr_multiple * 4,
        device=CPU,
    )


def plan_for(kind: str, size: int) -> MemoryPlan:
    """Features kept that were encoded at once or in tiles, or nothing kept."""
    encoder_tile = {"encoded": (96, 128), "stored": (size, size), "recomputed": None}[kind]
    return MemoryPlan(tile=(size, size), encoder_tile=encoder_tile, canvas=CPU, store=CPU)


def estimate(source, runner: TileRunner) -> torch.Tensor:
    sweep = encoder_estimate(source, runner=runner, device=CPU)
    sweep.until(runner.height)
    return sweep.rows(0, runner.height)


def halos_for(config, halo: int | None) -> Halos:
    return Halos.both(config.model.denoiser.receptive_field if halo is None else halo)


def evaluate(model, config, kind, *, size: int, halo: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    lr, xt = torch.rand(LR), torch.randn(1, 3, LR[-2] * 4, LR[-1] * 4)
    runner, plan = runner_for(config, size=size, halo=halo), plan_for(kind, size)
    with torch.inference_mode():
        source = condition_source(model, lr, plan=plan, halos=halos_for(config, halo))
        return TiledDenoiser(model, source, runner=runner)(xt, T)


@pytest.fixture
def direct(model) -> torch.Tensor:
    torch.manual_seed(0)
    lr, xt = torch.rand(LR), torch.randn(1, 3, LR[-2] * 4, LR[-1] * 4)
    with torch.inference_mode():
        return model(xt, T, model.encode(lr))


@pytest.mark.parametrize("kind", ["encoded", "stored", "recomputed"])
def test_in_one_piece_it_is_the_model(model, config, direct, kind):
    torch.testing.assert_close(evaluate(model, config, kind, size=128), direct, atol=1e-6, rtol=0)


def test_full_halos_give_what_the_whole_gives(model, config, direct):
    """Also where the condition is projected window by window."""
    assert config.model.denoiser.receptive_field < 64
    torch.testing.assert_close(evaluate(model, config, "encoded", size=16), direct, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["stored", "recomputed"])
def test_full_halos_of_both_networks_do_so_with_the_encoder_in_tiles(model, config, kind):
    field = config.model.encoder.receptive_field * 4
    torch.manual_seed(0)
    lr, xt = torch.rand(1, 3, 8, 150), torch.randn(1, 3, 32, 600)
    halos = Halos(encoder=field, denoiser=config.model.denoiser.receptive_field)
    runner = TileRunner(
        *(32, 600),
        size=(32, 64),
        halo=halos.denoiser,
        receptive_field=halos.denoiser,
        align=config.model.lr_multiple * 4,
        device=CPU,
    )
    with torch.inference_mode():
        source = condition_source(model, lr, plan=plan_for(kind, 64), halos=halos)
        assert field < 200
        image = estimate(source, runner)
        eps = TiledDenoiser(model, source, runner=runner)(xt, T)
        condition = model.encode(lr)
        torch.testing.assert_close(image, model.encoder_image(condition), atol=1e-5, rtol=0)
        torch.testing.assert_close(eps, model(xt, T, condition), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["stored", "recomputed"])
def test_encoding_in_tiles_is_near(model, config, direct, kind):
    error = (evaluate(model, config, kind, size=32, halo=64) - direct).abs().max()
    assert float(error) < 1e-3


@pytest.mark.parametrize("kind", ["encoded", "stored", "recomputed"])
def test_the_encoders_image_is_had_from_every_kind(model, config, kind):
    torch.manual_seed(0)
    lr = torch.rand(LR)
    runner = runner_for(config, size=32, halo=64)
    with torch.inference_mode():
        source = condition_source(model, lr, plan=plan_for(kind, 32), halos=halos_for(config, 64))
        image = estimate(source, runner)
        expected = model.encoder_image(model.encode(lr))
    torch.testing.assert_close(image, expected, atol=1e-3, rtol=0)


def test_an_encoder_that_runs_out_of_memory_goes_on_in_tiles(model, config, direct, caplog):
    def scarce(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        if max(args[0].shape[-2:]) > 26:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    model.encoder.trunk[0].register_forward_pre_hook(scarce)
    result = evaluate(model, config, "encoded", size=128, halo=40)
    assert "out of memory on cpu with a tile of 96 x 128 output pixels; going on with 48 x 64" in caplog.text
    torch.testing.assert_close(result, direct, atol=1e-3, rtol=0)


def test_other_errors_of_the_encoder_pass(model, config):
    def fail(*args: object) -> None:
        raise RuntimeError("shapes do not fit")

    model.encoder.trunk[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        evaluate(model, config, "encoded", size=128)


def test_an_image_in_one_piece_is_projected_once(model, config):
    calls: list[int] = []
    model.denoiser.condition_projection.register_forward_hook(lambda *args: calls.append(1))
    with torch.inference_mode():
        for size, expected in ((128, 1), (64, 8)):
            calls.clear()
            plan = plan_for("encoded", size)
            source = condition_source(model, torch.rand(LR), plan=plan, halos=halos_for(config, None))
            denoiser = TiledDenoiser(model, source, runner=runner_for(config, size=size))
            for _ in range(2):
                denoiser(torch.zeros(1, 3, LR[-2] * 4, LR[-1] * 4), T)
            assert len(calls) == expected


def test_what_is_not_finite_is_remembered(model, config):
    runner = runner_for(config, size=32)
    with torch.inference_mode():
        source = model.encode(torch.rand(LR))
        shares: list[float] = []
        denoiser = TiledDenoiser(model, source, runner=runner, on_tile=shares.append)
        xt = torch.zeros(1, 3, LR[-2] * 4, LR[-1] * 4)
        assert denoiser(xt, T).is_contiguous()
        assert denoiser.finite
        assert shares[-1] == 1
        xt[0, 0, 0, 0] = float("inf")
        denoiser(xt, T)
        denoiser(torch.zeros_like(xt), T)
        assert not denoiser.finite


def test_the_networks_type_is_used_inside_and_the_canvas_type_outside(model, config):
    model.to(torch.bfloat16)
    seen: list[torch.dtype] = []
    model.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    assert evaluate(model, config, "stored", size=32).dtype == torch.float32
    assert set(seen) == {torch.bfloat16}
