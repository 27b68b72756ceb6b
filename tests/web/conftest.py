"""Leaves the tests that need a browser to `pytest -m slow`, and those that need Gradio to where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("gradio") else ["test_web_page.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests that `make test-all` runs."""
    config.addinivalue_line("markers", "slow: needs more than Python; run by `make test-all`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them unless `-m` says something."""
    if config.getoption("markexpr"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    for name in collect_ignore:
        terminalreporter.write_line(f"tests/web/{name} is left out: pip install -r requirements-web.txt", yellow=True)
