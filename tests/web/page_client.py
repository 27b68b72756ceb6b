"""A visitor without a browser: speaks to the page as its own JavaScript does, and can be as rude as it likes."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import httpx
from gradio_client.utils import apply_diff

_SECONDS = 120.0


class PageClient:
    """One visitor.

    Args:
        url: of the page.
        key: of the visitor's session.
    """

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        self.http = httpx.Client(base_url=url, timeout=_SECONDS, trust_env=False)
        config = self.http.get("config").json()
        self._functions = {entry["api_name"]: entry["id"] for entry in config["dependencies"] if entry["api_name"]}
        names = {entry["id"]: entry["props"].get("elem_id", "") for entry in config["components"]}
        self._outputs = {e["id"]: [names[output] for output in e["outputs"]] for e in config["dependencies"]}

    def upload(self, name: str, data: bytes) -> httpx.Response:
        """Send a file; the answer lists where the server put it."""
        return self.http.post("gradio_api/upload", files={"files": (name, data)})

    def call(self, function: str, *values: Any) -> dict[str, Any]:
        """Do what a click does; returns the last value of every component that was given one, by its id."""
        number = self._functions[function]
        body = {"fn_index": number, "data": list(values), "session_hash": self.key}
        self.http.post("gradio_api/queue/join", json=body).raise_for_status()
        seen: dict[str, Any] = {}
        last: list[Any] = []
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.key}) as events:
            for line in events.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_generating" and message["success"]:
                    changes = message["output"]["data"]
                    last = list(map(apply_diff, last, changes)) if last else changes
                elif message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(str(message["output"].get("error")))
                    last = message["output"]["data"]
                else:
                    continue
                seen |= {n: v for n, v in zip(self._outputs[number], last, strict=True) if not _is_skip(v)}
                if message["msg"] == "process_completed":
                    return seen
        raise RuntimeError("the server said nothing more")

    def open(self, name: str, data: bytes) -> str:
        """Upload a file and open it; returns the text of the status line."""
        (path,) = self.upload(name, data).raise_for_status().json()
        return text_of(self.call("upload", {"path": path, "meta": {"_type": "gradio.FileData"}})["status"])

    def leave(self) -> None:
        """Close the tab: the connection that says that it is open is opened and ended."""
        with self.http.stream("GET", f"gradio_api/heartbeat/{self.key}") as beats:
            next(beats.iter_lines())
        self.http.close()


def text_of(html: str) -> str:
    """What is read in a piece of HTML."""
    return re.sub(r"<[^>]*>", "", html)


def together(*works: Any) -> list[BaseException]:
    """Call functions at the same time; returns what they raised."""
    errors: list[BaseException] = []

    def call(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def _is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update"
