"""Devices and precisions of the command line."""

from __future__ import annotations

import pytest
import torch

from engine import runtime
from engine.runtime import autocast, float32_arithmetic, resolve_device, take_device
from util.errors import InputError


def test_missing_device_becomes_the_cpu_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert not caplog.text
    available = torch.cuda.is_available()
    assert resolve_device("cuda") == torch.device("cuda" if available else "cpu")
    assert ("using the CPU" in caplog.text) is not available


def test_a_device_can_be_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda: expected one of this computer, found none"):
        resolve_device("cuda", fall_back=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("cpu", "cuda", "cuda:0"):
        assert resolve_device(name, fall_back=False) == torch.device(name)
    with pytest.raises(InputError, match="has 1 GPUs"):
        resolve_device("cuda:1", fall_back=False)


def test_the_gpu_of_a_script_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random state that a checkpoint holds is its own then, and its page-locked memory burdens no other GPU."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        assert take_device(name) == torch.device(name)
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta", "xla"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}': expected cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_no_device_at_all() -> None:
    with pytest.raises(InputError, match="device None: expected cpu, cuda, cuda:N or mps"):
        resolve_device(None)  # type: ignore[arg-type]


def test_float32_arithmetic_is_put_back() -> None:
    def state() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = state()
    with float32_arithmetic("tf32"):
        assert state() == (True, True)
        with float32_arithmetic("fp32"):
            assert state() == (False, False)
        assert state() == (True, True)
    assert state() == before


@pytest.mark.parametrize("made_for_it", [True, False])
def test_bf16_on_a_cpu_that_is_not_made_for_it_is_said_once(
    made_for_it: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_bfloat16_products", lambda: made_for_it)
    runtime._warn_of_slow_products.cache_clear()
    for precision in ("fp32", "tf32", "bf16", "bf16"):
        with autocast(precision, torch.device("cpu")):
            assert torch.is_autocast_enabled("cpu") is (precision == "bf16")
    assert caplog.text.count("fp32 is faster") == (0 if made_for_it else 1)
