"""Pieces of the page as HTML: the picture, the legend and the status line. Everything a visitor typed is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np

from engine.web.jobs import Job
from engine.web.store import encode_jpeg
from util.drawing import palette

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
:root { --body-text-color-subdued: #5c626d; --block-info-text-color: #5c626d; }
#title h1 { margin-bottom: 0; }
#title p { margin-top: .25rem; }
#title p, .sw-fine { color: var(--body-text-color) !important; opacity: .75; }
#legend .html-container, #status .html-container, #limits .html-container, #picture .html-container { padding: 0; }
.sw-picture { margin: 0; border-radius: var(--block-radius); overflow: hidden; background: #14161a;
  display: flex; align-items: center; justify-content: center; }
.sw-picture img { width: 100%; max-height: 70vh; object-fit: contain; display: block; margin: 0; border-radius: 0; }
.sw-picture.empty { color: #b9bec8; text-align: center; padding: 2rem; min-height: 14rem; box-sizing: border-box; }
.sw-legend { display: flex; flex-wrap: wrap; gap: .4rem; margin: 0 !important; padding: 0 !important;
  list-style: none !important; }
.sw-legend li { display: flex; align-items: center; gap: .4rem; padding: .15rem .6rem; margin: 0 !important;
  border-radius: 999px; background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  font-size: .85rem; max-width: 100%; overflow-wrap: anywhere; }
.sw-legend i { width: .8rem; height: .8rem; border-radius: .2rem; flex: none; }
.sw-status { border-radius: var(--block-radius); padding: .6rem .8rem; background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.sw-status.error { border-color: #d03b3b; border-left-width: 4px; }
.sw-status.done { border-color: #2f9e5b; border-left-width: 4px; }
.sw-bar { height: .4rem; border-radius: 999px; margin-top: .45rem; background: var(--border-color-primary); }
.sw-bar div { height: 100%; border-radius: 999px; background: var(--color-accent); transition: width .2s; }
.sw-fine { font-size: .8rem; margin: 0; }
#collect { display: none; }
"""

_EMPTY = '<div class="sw-picture empty">The first frame appears here as soon as there is a video or an image.</div>'


def picture_html(frame: np.ndarray | None, description: str = "") -> str:
    """A frame (h, w, 3) uint8 RGB inside the page itself, so that it has no address; a hint where there is none."""
    if frame is None:
        return _EMPTY
    data = base64.b64encode(encode_jpeg(frame)).decode("ascii")
    return f'<div class="sw-picture"><img alt="{_escape(description)}" src="data:image/jpeg;base64,{data}"></div>'


def legend_html(sentences: Sequence[str]) -> str:
    """The sentences with their colours."""
    items = (
        f'<li><i style="background: rgb{colour}"></i>{_escape(sentence)}</li>'
        for sentence, colour in zip(sentences, palette(len(sentences)), strict=True)
    )
    return f'<ul class="sw-legend">{"".join(items)}</ul>' if sentences else ""


def status_html(text: str, kind: str = "", share: float | None = None) -> str:
    """The line that says what is going on.

    Args:
        text: what.
        kind: "error", "done" or nothing.
        share: how much is done, 0 to 1; None for no bar.
    """
    bar = "" if share is None else f'<div class="sw-bar"><div style="width: {100 * share:.1f}%"></div></div>'
    return f'<div class="sw-status {kind}" role="status" aria-live="polite">{_escape(text)}{bar}</div>'


def job_html(job: Job, ahead: int) -> str:
    """How a run is going.

    Args:
        job: the run.
        ahead: how many come before it.
    """
    done, total = len(job.store), job.media.length
    counted = f"{done} of {total} frames" if total else f"{done} frames"
    if job.state == "waiting":
        return status_html("Waiting for a free place…" if not ahead else f"Waiting: {ahead} before you…", share=0.0)
    rate = done / job.seconds if job.seconds > 0 else 0.0
    if job.state == "running":
        if job.cancelled:
            return status_html(f"Stopping after this clip: {counted}")
        left = f" · about {_seconds((total - done) / rate)} left" if total and rate > 0 and done < total else ""
        pace = f" · {rate:.1f} frames/s" if done else ""
        return status_html(f"Segmenting: {counted}{pace}{left}", share=done / total if total else None)
    if job.state == "cancelled":
        return status_html(
            f"Cancelled after {counted}." + (" What is done can be looked at and saved." if done else "")
        )
    if job.state == "failed":
        return status_html(job.message, "error")
    return status_html(f"Done: {counted} in {_seconds(job.seconds)} · {rate:.1f} frames/s", "done")


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _escape(text: str) -> str:
    """Text for HTML inside a template of the page, where braces, dollars and back-quotes have a meaning, too."""
    escaped = html.escape(text)
    for letter in "{}$`\\":
        escaped = escaped.replace(letter, f"&#{ord(letter)};")
    return escaped
