"""The fast paths against plain PyTorch, where each is used, and that kept filters follow the weights."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models import DenoiserConfig, UNet, fast

CHANNELS_LAST = torch.channels_last


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolve by the fast path on every CPU, also where it does not pay."""
    monkeypatch.setattr(fast, "_cpu_gains", lambda: True)


def reflecting(channels: int = 48, outputs: int = 48) -> nn.Conv2d:
    conv = nn.Conv2d(channels, outputs, 3, padding=1, padding_mode="reflect")
    return conv.to(memory_format=CHANNELS_LAST)


def features(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=CHANNELS_LAST)


class Counter:
    """Counts the calls of a function of ``fast``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.count = 0
        original: Callable[..., object] = getattr(fast, name)

        def counted(*args: object) -> object:
            self.count += 1
            return original(*args)

        monkeypatch.setattr(fast, name, counted)


# --- Mish ---


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 8, 1, 1), (1, 8, 128, 131), (3, 24, 150, 90)])
def test_mish_is_mish(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x = torch.randn(shape) * 4
    x.view(-1)[:8] = torch.tensor([-1e30, -1e4, -30.0, -1e-30, 0.0, 30.0, 1e4, 1e30])
    x = x.contiguous(memory_format=layout)
    expected = functional.mish(x)
    with torch.no_grad():
        result = fast.mish(x.clone(memory_format=torch.preserve_format))
    assert result.is_contiguous(memory_format=layout)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=2e-6)


def test_mish_hides_no_nan_and_no_infinity() -> None:
    x = features(1, 4, 2, 2)
    x[0, 0, 0], x[0, 1, 0, 0] = float("nan"), float("inf")
    with torch.no_grad():
        result = fast.mish(x.clone(memory_format=torch.preserve_format))
    assert torch.equal(result.isfinite(), x.isfinite())


def test_mish_overwrites_only_on_its_fast_path() -> None:
    x = features(2, 4, 6, 6)
    with torch.no_grad():
        copied = x.clone(memory_format=torch.preserve_format)
        assert fast.mish(copied) is copied
        for plain in (x.contiguous(), x[:, ::2], x[..., 1:], x.double(), x.half(), x[0]):
            kept = plain.clone(memory_format=torch.preserve_format)
            torch.testing.assert_close(fast.mish(plain), functional.mish(plain), rtol=0, atol=0)
            assert torch.equal(plain, kept)


def test_mish_in_bfloat16_rounds_once() -> None:
    x = (torch.randn(2, 24, 90, 80) * 4).bfloat16().contiguous(memory_format=CHANNELS_LAST)
    expected = functional.mish(x.float())
    with torch.no_grad():
        result = fast.mish(x.clone(memory_format=torch.preserve_format))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=2**-8, atol=2e-6)


def test_mish_under_another_default_dtype() -> None:
    x = features(1, 8, 5, 5)
    expected = functional.mish(x)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            result = fast.mish(x.clone(memory_format=torch.preserve_format))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


# --- convolutions ---


@pytest.mark.parametrize("size", [(4, 2), (5, 3), (7, 33), (8, 8), (30, 17), (33, 64)])
@pytest.mark.parametrize("channels", [(48, 64), (51, 49)])
@pytest.mark.parametrize("piece", [1, 60_000, 10**9])
def test_convolutions_are_as_exact_as_plain_ones(size, channels, piece, monkeypatch) -> None:
    monkeypatch.setattr(fast, "_PIECE", piece)
    conv, x = reflecting(*channels), features(2, channels[0], *size)
    with torch.no_grad():
        result, plain = fast.conv3x3(conv, x), conv(x)
        exact = copy.deepcopy(conv).double()(x.double())
        alone = fast.conv3x3(conv, x[1:])
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=5e-6)
    error, usual = ((value - exact).square().mean().sqrt() for value in (result, plain))
    assert error < 2.5 * usual + 2e-7
    assert result.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(alone, result[1:]), "an image depends on its batch"


def test_bias_and_memory_of_the_input() -> None:
    conv, x = reflecting(48, 50), features(1, 48, 9, 6)
    kept = x.clone()
    with torch.no_grad():
        conv.get_parameter("bias").copy_(torch.arange(50.0))
        torch.testing.assert_close(fast.conv3x3(conv, x), conv(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (reflecting(3, 48), (1, 3, 8, 8)),
        (reflecting(48, 24), (1, 48, 8, 8)),
        (reflecting(), (1, 48, 3, 8)),
        (reflecting().double(), (1, 48, 8, 8)),
        (reflecting().bfloat16(), (1, 48, 8, 8)),
    ],
)
def test_narrow_low_or_other_convolutions_are_plain(conv, shape, monkeypatch) -> None:
    used = Counter(monkeypatch, "_convolve")
    x = features(*shape).to(conv.weight.dtype)
    with torch.no_grad():
        assert torch.equal(fast.conv3x3(conv, x), conv(x))
    assert not used.count


def test_inference_tensors_as_weights_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Counter(monkeypatch, "_convolve")
    with torch.inference_mode():
        conv, x = reflecting(), features(1, 48, 8, 8)
        assert torch.equal(fast.conv3x3(conv, x), conv(x))
    assert not used.count


def test_rounded_matrix_products_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Counter(monkeypatch, "_convolve")
    conv, x = reflecting(), features(1, 48, 8, 8)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.no_grad():
            fast.conv3x3(conv, x)
        assert not used.count
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.no_grad():
        fast.conv3x3(conv, x)
    assert used.count == 1


def test_only_cpus_that_gain_convolve_by_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for capability in ("DEFAULT", "AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        assert fast._cpu_gains() == (capability == "AVX2" and torch.backends.mkl.is_available())


# --- where both are off ---


def both(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return fast.mish(fast.conv3x3(conv, x))


def test_disabled_is_plain_in_its_block_and_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    used, conv, x = Counter(monkeypatch, "_convolve"), reflecting(), features(1, 48, 8, 8)
    with torch.no_grad():
        with fast.disabled():
            assert torch.equal(both(conv, x), functional.mish(conv(x)))
            with fast.disabled():
                both(conv, x)
            both(conv, x)
            assert not used.count
            thread = threading.Thread(target=torch.no_grad()(both), args=(conv, x))
            thread.start()
            thread.join()
            assert used.count == 1
        both(conv, x)
        with pytest.raises(ZeroDivisionError), fast.disabled():
            raise ZeroDivisionError
        both(conv, x)
    assert used.count == 3


def test_autograd_and_autocast_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    used, conv, x = Counter(monkeypatch, "_convolve"), reflecting(), features(1, 48, 8, 8)
    both(conv, x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert both(conv, x).dtype == torch.bfloat16
    assert not used.count


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_traced_exported_and_compiled_networks_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Counter(monkeypatch, "_convolve")
    net = UNet(DenoiserConfig(dim=48, multipliers=(1, 1)), condition_channels=8, scale=4)
    net = net.eval().requires_grad_(False).to(memory_format=CHANNELS_LAST)
    arguments = (features(1, 3, 8, 8), torch.tensor([3]), features(1, 48, 8, 8))
    with torch.no_grad():
        expected = net(*arguments)
        assert used.count
        used.count = 0
        traced = torch.jit.trace(net, arguments, check_trace=False)
        exported = torch.export.export(net, arguments).module()
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        modules: list[Any] = [traced, exported, compiled]
        for module in modules:
            torch.testing.assert_close(module(*arguments), expected, rtol=1e-5, atol=1e-5)
        assert not used.count


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_is_the_plain_one(mode, batch, monkeypatch: pytest.MonkeyPatch) -> None:
    used = Counter(monkeypatch, "_convolve")
    net = UNet(DenoiserConfig(dim=48, multipliers=(1, 2)), condition_channels=8, scale=4)
    net.to(memory_format=CHANNELS_LAST)
    xt, projected = features(batch, 3, 26, 18), features(batch, 48, 26, 18)
    t, kept = torch.arange(batch) * 7, projected.clone()
    plain = net(xt, t, projected).detach()
    with mode():
        result = net(xt, t, projected)
        assert used.count == batch * 16, "every block but the first, which has three channels"
        with fast.disabled():
            torch.testing.assert_close(net(xt, t, projected), plain, rtol=0, atol=0)
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(projected, kept)


# --- kept filters ---


def change_in_place(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(2.0)


def load(conv: nn.Conv2d) -> None:
    conv.load_state_dict({"weight": torch.randn(48, 48, 3, 3) / 20, "bias": torch.zeros(48)})


def assign(conv: nn.Conv2d) -> None:
    state = {"weight": torch.randn(48, 48, 3, 3) / 20, "bias": torch.zeros(48)}
    conv.load_state_dict(state, assign=True)


def replace_data(conv: nn.Conv2d) -> None:
    conv.weight.data = torch.randn(48, 48, 3, 3) / 20


def train(conv: nn.Conv2d) -> None:
    conv(torch.randn(1, 48, 4, 4)).square().mean().backward()
    torch.optim.Adam(conv.parameters(), lr=0.1).step()


def narrow_and_widen(conv: nn.Conv2d) -> None:
    conv.bfloat16().float()
    with torch.no_grad():
        conv.get_parameter("bias").add_(1.0)


@pytest.mark.parametrize("change", [change_in_place, load, assign, replace_data, train, narrow_and_widen])
def test_filters_follow_the_weights(change) -> None:
    conv, x = reflecting(), features(1, 48, 8, 8)
    with torch.inference_mode():
        before = fast.conv3x3(conv, x)
    change(conv)
    with torch.inference_mode():
        after = fast.conv3x3(conv, x)
        expected = conv(x)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


def test_moved_weights_are_not_taken_for_the_old_ones() -> None:
    """Freed weights could give their address to the next ones, which have the same version."""
    conv, x = reflecting(), features(1, 48, 8, 8)
    for _ in range(8):
        with torch.no_grad():
            fast.conv3x3(conv, x)
            conv.weight.data = torch.randn(48, 48, 3, 3)
            torch.testing.assert_close(fast.conv3x3(conv, x), conv(x), rtol=1e-5, atol=1e-4)


def test_filters_are_made_once_and_freed_with_their_convolution() -> None:
    conv, x = reflecting(), features(1, 48, 8, 8)
    with torch.inference_mode():
        fast.conv3x3(conv, x)
    made = fast._filters[conv][2]
    assert made.shape == (3, 6, 48, 48)
    assert not made.is_inference()
    assert fast._filters_of(conv) is made
    gone = weakref.ref(made)
    del conv, made
    gc.collect()
    assert gone() is None


def test_filters_are_dropped_when_the_convolution_becomes_narrow() -> None:
    conv, x = reflecting(), features(1, 48, 8, 8)
    with torch.no_grad():
        fast.conv3x3(conv, x)
        assert conv in fast._filters
        fast.conv3x3(conv.bfloat16(), x.bfloat16())
    assert conv not in fast._filters


def test_copies_and_pickles_carry_no_filters() -> None:
    conv, x = reflecting(), features(1, 48, 8, 8)
    with torch.no_grad():
        expected = fast.conv3x3(conv, x)
        assert set(conv.state_dict()) == {"weight", "bias"}
        for copied in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
            assert copied not in fast._filters
            assert torch.equal(fast.conv3x3(copied, x), expected)


def test_threads_share_a_convolution() -> None:
    conv, x = reflecting(), features(1, 48, 16, 16)
    with torch.no_grad():
        expected = conv(x)
    results: list[Tensor] = []

    def work() -> None:
        with torch.no_grad():
            results.extend(fast.conv3x3(conv, x) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_uses_the_filters() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    try:
        conv, x = reflecting(), features(1, 48, 8, 8)
        with torch.no_grad():
            expected = fast.conv3x3(conv, x)
        child = os.fork()
        if child == 0:
            with torch.no_grad():
                os._exit(0 if torch.equal(fast.conv3x3(conv, x), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(threads)
