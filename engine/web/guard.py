"""What stands between the network and Gradio: whose requests are answered, and what answers let a browser do."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The browser loads nothing from anywhere else, whatever Gradio's files ask for.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
_LARGEST_REQUEST = 1 << 20  # bytes
_FILE_ELSEWHERE = re.compile("/file[=/]http", re.IGNORECASE)  # Gradio knows both forms
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


class OwnFiles:
    """Refuses requests for files at other addresses, which Gradio would fetch for a visitor, whatever their size.

    What is asked with more than a mebibyte, but for uploads, is refused as well: it would be kept in memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        elsewhere = scope["type"] == "http" and _FILE_ELSEWHERE.search(scope["path"]) is not None
        asks = scope["type"] == "http" and scope["method"] == "POST"
        if asks and not Headers(scope=scope).get("content-type", "").startswith("multipart/"):
            body = b""
            async for part in Request(scope, receive).stream():
                body += part
                if len(body) > _LARGEST_REQUEST:
                    await PlainTextResponse("This page is not asked that much.\n", 413)(scope, receive, send)
                    return
            with contextlib.suppress(ValueError, RecursionError):  # Gradio refuses it, too
                elsewhere = elsewhere or _names_address(json.loads(body))
            whole, later = [body], receive

            async def receive() -> Message:
                return {"type": "http.request", "body": whole.pop()} if whole else await later()

        answer = PlainTextResponse("This page fetches nothing from elsewhere.\n", 403) if elsewhere else self.app
        await answer(scope, receive, send)


def _names_address(value: Any) -> bool:
    """Whether a file among the values of a request is to come from somewhere else."""
    if isinstance(value, dict):
        return str(value.get("path")).lower().startswith("http") or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


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
