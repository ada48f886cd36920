"""Convolutions with half the products against plain ones, and that their filters follow the weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models import DenoiserConfig, UNet, layers
from sam_diffsr.models.layers import ConvBlock
from sam_diffsr.models.rims import Rimmed, inside
from sam_diffsr.models.winograd import LEAST_LINES, RowFilters, convolved_lines, has_row_filters

CHANNELS_LAST = torch.channels_last


def assembled(pieces: Iterator[tuple[int, Tensor]], height: int) -> tuple[Tensor, int]:
    """All lines, and how many pieces there were."""
    result, count = torch.empty(0), 0
    for first, lines in pieces:
        if not count:
            result = torch.full((height, *lines.shape[1:]), float("nan"))
        result[first : first + len(lines)] = lines
        count += 1
    return result, count


@pytest.mark.parametrize("size", [(4, 2), (5, 3), (7, 33), (8, 8), (30, 17), (33, 64)])
@pytest.mark.parametrize(("channels", "outputs"), [(48, 64), (7, 5)])
@pytest.mark.parametrize("elements", [1, 60_000, 10**9])
def test_half_the_products_give_the_same_as_exactly_as_all(size, channels, outputs, elements) -> None:
    height, width = size
    x = torch.randn(1, channels, height + 2, width + 2).contiguous(memory_format=CHANNELS_LAST)
    weight, bias = torch.randn(outputs, channels, 3, 3) / (3 * channels**0.5), torch.randn(outputs)
    pieces = convolved_lines(x[0].permute(1, 2, 0), RowFilters().of(weight), bias, elements=elements)
    lines, count = assembled(pieces, height)
    exact = functional.conv2d(x.double(), weight.double(), bias.double())[0].permute(1, 2, 0)
    plain = functional.conv2d(x, weight, bias)[0].permute(1, 2, 0)
    error, usual = ((result - exact).square().mean().sqrt() for result in (lines, plain))
    assert error < 2.5 * usual + 2e-7
    assert (lines - exact).abs().max() < 1e-5
    assert count == 1 or elements < 10**9 or height % 4


@pytest.mark.parametrize("plus", [None, "time", "shortcut"])
@pytest.mark.parametrize("rim", [False, True])
@pytest.mark.parametrize("size", [(2, 5), (4, 4), (27, 40)])
def test_a_wide_block_without_autograd_is_the_plain_one(plus, rim, size) -> None:
    block = ConvBlock(48, 56).to(memory_format=CHANNELS_LAST)
    x = torch.randn(2, 48, *size).contiguous(memory_format=CHANNELS_LAST)
    shape = (2, 56, 1, 1) if plus == "time" else (2, 56, *size)
    addition = None if plus is None else torch.randn(shape).contiguous(memory_format=CHANNELS_LAST)
    expected = block(x.clone(), plus=addition)
    rimmed = Rimmed.like(x, 48)
    rimmed.inside.copy_(x)
    calls: list[int] = []
    block.conv.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        for features in (x, rimmed):
            result = block(features, plus=addition, rim=rim)
            assert isinstance(result, Rimmed) == rim
            torch.testing.assert_close(inside(result), expected.detach(), atol=1e-5, rtol=1e-5)
            if not rim:
                assert result.is_contiguous(memory_format=CHANNELS_LAST)
        one = block(x[1:], plus=None if addition is None else addition[1:], rim=rim)
    if size[0] < LEAST_LINES:
        assert calls
    else:
        assert not calls, "the plain convolution was used"
        assert torch.equal(inside(one), inside(result)[1:]), "an image depends on its batch"


def test_a_wide_network_without_autograd_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net = UNet(DenoiserConfig(dim=48, multipliers=(1, 2)), condition_channels=8, scale=4)
    net.to(memory_format=CHANNELS_LAST).prepare()
    xt = torch.randn(2, 3, 24, 20).contiguous(memory_format=CHANNELS_LAST)
    projected = torch.randn(2, 48, 24, 20).contiguous(memory_format=CHANNELS_LAST)
    t = torch.tensor([0, 7])
    plain = net(xt, t, projected)
    used: list[int] = []

    def counted(*args, **kwargs):
        used.append(1)
        return convolved_lines(*args, **kwargs)

    monkeypatch.setattr(layers, "convolved_lines", counted)
    with torch.no_grad():
        torch.testing.assert_close(net(xt, t, projected), plain.detach(), atol=1e-5, rtol=1e-5)
    assert len(used) == 2 * 16, "two images in all blocks but the first one, which has three channels"
    used.clear()
    net(xt, t, projected).sum().backward()
    assert not used
    assert net.mid1.block1.conv.weight.grad is not None


def change_in_place(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(2.0)


def load(conv: nn.Conv2d) -> None:
    conv.load_state_dict({"weight": torch.randn(48, 48, 3, 3) / 20, "bias": torch.zeros(48)})


def assign(conv: nn.Conv2d) -> None:
    state = {"weight": torch.randn(48, 48, 3, 3) / 20, "bias": torch.zeros(48)}
    conv.load_state_dict(state, assign=True)


def train(conv: nn.Conv2d) -> None:
    conv(torch.randn(1, 48, 4, 4)).square().mean().backward()
    torch.optim.Adam(conv.parameters(), lr=0.1).step()


@pytest.mark.parametrize("change", [change_in_place, load, assign, train])
def test_filters_follow_the_weights(change) -> None:
    block = ConvBlock(48, 48).to(memory_format=CHANNELS_LAST)
    x = torch.randn(1, 48, 8, 8).contiguous(memory_format=CHANNELS_LAST)
    with torch.no_grad():
        before = block(x)
    change(block.conv)
    with torch.no_grad():
        after = block(x)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, block(x.clone()).detach(), atol=1e-5, rtol=1e-5)


def test_filters_are_made_once_and_forgotten_when_weights_move() -> None:
    block = ConvBlock(48, 48)
    block.prepare()
    filters = block._filters
    made = filters.of(block.conv.weight)
    assert filters.of(block.conv.weight) is made
    assert made.shape == (3, 6, 48, 48)
    for copied in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert copied._filters._made is None
    exact = made.clone()
    block.bfloat16().float()  # the weights may have their old address by now
    assert filters._made is None
    assert not torch.equal(filters.of(block.conv.weight), exact)
    assert set(block.state_dict()) == {"conv.weight", "conv.bias"}


def test_filters_made_while_inferring_serve_elsewhere() -> None:
    block = ConvBlock(48, 48)
    with torch.inference_mode():
        block.prepare()
    assert not block._filters.of(block.conv.weight).is_inference()


def test_where_the_plain_convolution_stays() -> None:
    wide = nn.Conv2d(48, 48, 3)
    assert has_row_filters(wide) == torch.backends.mkl.is_available()
    assert not has_row_filters(nn.Conv2d(3, 48, 3))
    assert not has_row_filters(nn.Conv2d(48, 24, 3))
    assert not has_row_filters(nn.Conv2d(48, 48, 3, device="meta"))
    assert not has_row_filters(nn.Conv2d(48, 48, 3, dtype=torch.bfloat16))
    with torch.inference_mode():
        assert not has_row_filters(nn.Conv2d(48, 48, 3))


def test_not_where_matrix_products_may_be_rounded() -> None:
    wide = nn.Conv2d(48, 48, 3)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not has_row_filters(wide)
    finally:
        torch.set_float32_matmul_precision(before)
    assert has_row_filters(wide) == torch.backends.mkl.is_available()
