"""Leaves the tests that need Gradio to where it is installed: the environment of `make test` has it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("gradio") else ["test_web_page.py", "test_web_users.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    for name in collect_ignore:
        terminalreporter.write_line(f"tests/web/{name} is left out: pip install -r requirements-web.txt", yellow=True)
