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
from typing import Any

from engine.web.jobs import RunOptions
from engine.web.limits import Limits
from engine.web.view import CSS
from engine.web.visits import Studio
from models.samwise import SAMWISE
from util.errors import InputError
from util.interrupts import sigterm_as_interrupt

logger = logging.getLogger(__name__)

_WAITING_REQUESTS = 256


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: name or number, an IPv6 one with or without brackets; 127.0.0.1 is reached from this computer only.
        port: number; 0 for any that is free.
    """

    host: str = "127.0.0.1"
    port: int = 7860

    @property
    def bare_host(self) -> str:
        """The host without brackets."""
        return self.host.removeprefix("[").removesuffix("]")

    @property
    def url_host(self) -> str:
        """The host as it is written in a URL."""
        return f"[{self.bare_host}]" if ":" in self.host else self.host


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
        own = {"GRADIO_TEMP_DIR": str(studio.uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
        stack.enter_context(_environment({**own, **_without_proxy(address)}))
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
            server_name=address.url_host,
            server_port=_free_port(address),
            css=CSS,
            max_file_size=limits.file_bytes,
            **_launching(address),
        )
        yield url, studio


def _launching(address: Address) -> dict[str, Any]:
    """What a visitor is not asked: no link to the outside, no fonts from elsewhere, no more than is needed."""
    import gradio as gr
    from starlette.middleware import Middleware

    from engine.web.guard import OwnFiles, OwnHeaders, OwnNames, names_of

    guards = [Middleware(OwnHeaders), Middleware(OwnNames, names_of(address.bare_host)), Middleware(OwnFiles)]
    own, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # those of the visitor's computer
    return {
        "app_kwargs": {"middleware": guards, "docs_url": None, "redoc_url": None},
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


def _free_port(address: Address) -> int:
    """The port to listen at, found to be free."""
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.bare_host, address.port))
        except OSError as error:
            raise InputError(
                f"cannot listen at {address.host}, port {address.port} ({error.strerror}): give others with --host "
                "and --port"
            ) from error
        return int(probe.getsockname()[1])


def _without_proxy(address: Address) -> dict[str, str]:
    """Environment variables that keep Gradio's requests to itself from a proxy; what they held stays in them."""
    names = ("NO_PROXY", "no_proxy")
    earlier = [host for name in names for host in os.environ.get(name, "").split(",") if host]
    hosts = ",".join(dict.fromkeys([*earlier, address.bare_host, "localhost", "127.0.0.1"]))
    return dict.fromkeys(names, hosts)


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
