"""Serving the page: on this computer only unless told otherwise, without telemetry, and with nothing left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.web.jobs import RunOptions
from engine.web.limits import Limits
from engine.web.view import CSS
from engine.web.visits import Studio
from models.samwise import SAMWISE
from util.errors import InputError
from util.interrupts import sigterm_as_interrupt

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

# The browser loads nothing from anywhere else, whatever Gradio's files ask for.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
_WAITING_REQUESTS = 256


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: name or number; 127.0.0.1 is reached from this computer only.
        port: number; 0 for any that is free.
    """

    host: str = "127.0.0.1"
    port: int = 7860


def serve(model: SAMWISE, limits: Limits, options: RunOptions, threshold: float, address: Address) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args: see `Studio` and `open_page`.

    Raises:
        InputError: Gradio is not installed.
        OSError: the port is taken.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio calls itself as it starts
    page = open_page(model, limits, options, threshold, address)
    with contextlib.suppress(KeyboardInterrupt), sigterm_as_interrupt(), page as (url, _):
        logger.info("the page is at %s (Ctrl-C stops it)", url)
        threading.Event().wait()
    logger.info("the page is closed, and all uploads are deleted")


@contextlib.contextmanager
def open_page(
    model: SAMWISE, limits: Limits, options: RunOptions, threshold: float, address: Address
) -> Iterator[tuple[str, Studio]]:
    """Serve the page from other threads as long as the block lasts; afterwards no file of it is left.

    Yields:
        its URL, and what is behind it.

    Raises:
        InputError: Gradio is not installed.
        OSError: the port is taken.
    """
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="samwise-web-", ignore_cleanup_errors=True)))
        studio = Studio(model, limits, root, options, threshold)
        stack.callback(studio.close)
        stack.enter_context(_environment({"GRADIO_TEMP_DIR": str(studio.uploads), "GRADIO_ANALYTICS_ENABLED": "False"}))
        try:
            from engine.web.page import build_page  # it needs Gradio, which nothing else does
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise InputError(
                "Gradio is not installed: run `make web`, or pip install -r requirements-web.txt"
            ) from error
        page = build_page(studio)
        stack.callback(page.close, verbose=False)
        page.queue(max_size=_WAITING_REQUESTS)
        _, url, _ = page.launch(
            server_name=address.host,
            server_port=_free_port(address),
            css=CSS,
            max_file_size=limits.file_bytes,
            **_launching(),
        )
        yield url, studio


def _launching() -> dict[str, Any]:
    """What does not depend on anything: no link to the outside, no fonts from elsewhere, no more than is needed."""
    import gradio as gr
    from starlette.middleware import Middleware

    own, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # those of the visitor's computer
    return {
        "app_kwargs": {"middleware": [Middleware(_Headers)], "docs_url": None, "redoc_url": None},
        "enable_monitoring": False,
        "footer_links": [],
        "mcp_server": False,
        "prevent_thread_lock": True,
        "pwa": False,
        "quiet": True,
        "run_history": False,
        "share": False,
        "show_error": False,
        "ssr_mode": False,
        "theme": gr.themes.Default(primary_hue="blue", font=own, font_mono=mono),
    }


class _Headers:
    """Adds to every answer what the browser may load, and that addresses stay here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in own.items())]
            await send(message)

        await self.app(scope, receive, send_more)


def _free_port(address: Address) -> int:
    """The port to listen at, found to be free."""
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise InputError(
                f"cannot listen at {address.host}, port {address.port} ({error.strerror}): give others with --host "
                "and --port"
            ) from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables as long as the block lasts."""
    earlier = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
