"""Devices and precisions of the command line."""

from __future__ import annotations

import pytest
import torch

from engine.runtime import float32_arithmetic, resolve_device
from util.errors import InputError


def test_missing_device_becomes_the_cpu_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert not caplog.text
    available = torch.cuda.is_available()
    assert resolve_device("cuda") == torch.device("cuda" if available else "cpu")
    assert ("using the CPU" in caplog.text) is not available


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta", "xla"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--device: expected cpu, cuda, cuda:N or mps, found '{name}'"):
        resolve_device(name)


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
