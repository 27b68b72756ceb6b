"""What stands between the network and Gradio: whose requests are answered, and what answers let a browser do."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The browser loads nothing from anywhere else, whatever Gradio's files ask for.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
_THIS_COMPUTER = ("127.0.0.1", "localhost", "::1")


class OwnHeaders:
    """Adds to every answer what the browser may load, and that addresses stay here; uploads may break off."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in own.items())]
            await send(message)

        with contextlib.suppress(ClientDisconnect):
            await self.app(scope, receive, send_more)


class OwnNames:
    """Refuses requests that go by another name than the page's, or come from the pages of other sites.

    Otherwise a site that somebody on this computer looks at could have its name point here and use the page.

    Args:
        app: what answers the others.
        names: of the page; None for any.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.names is not None and scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            for name in (f"//{headers.get('host', '')}", *([] if origin is None else [origin])):
                if _host_of(name) not in self.names:
                    answer = PlainTextResponse("This page answers this computer and its own pages only.\n", 403)
                    await answer(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def names_of(host: str) -> Collection[str] | None:
    """The names by which a page that listens at a host is reached; None, any, unless only this computer reaches it."""
    with contextlib.suppress(ValueError):
        if host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback:
            return {*_THIS_COMPUTER, host.lower()}
    return None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
