"""The page itself: what is where, and what happens when something is clicked. All work is done behind `Studio`."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from engine.web.examples import Example, list_examples
from engine.web.exports import EXPORTS
from engine.web.jobs import Job, shortage_of
from engine.web.limits import parse_sentences
from engine.web.view import job_html, legend_html, picture_html, status_html
from engine.web.visits import Studio, Visit
from util.errors import InputError

logger = logging.getLogger(__name__)

Update = dict[Any, Any]

_NEWS_SECONDS = 0.5  # between two notices at most
_PAUSE_SECONDS = 0.1  # and at least
_FETCH = "() => setTimeout(() => document.getElementById('collect').click(), 100)"
_SAVE_VIDEO, _SAVE_PICTURE = "Save video", "Save picture"
_TITLE = "# SAMWISE\nSay what you mean, and see its mask in every frame."
_HINT = "One sentence per line:\nthe dog that jumps\nthe person in red"


def build_page(studio: Studio, examples: Sequence[Example] | None = None) -> gr.Blocks:
    """The page for a studio.

    Args:
        studio: the network, the limits and the visits.
        examples: what can be picked instead of an upload; None for those of the repository.

    Returns:
        to be served by `engine.web.server.serve`, which also gives it its style.
    """
    return _Page(studio, list_examples() if examples is None else examples).blocks


class _Page:
    """The components, and a method for each thing that can happen to them."""

    def __init__(self, studio: Studio, examples: Sequence[Example]) -> None:
        self.studio = studio
        self.examples = examples
        with gr.Blocks(title="SAMWISE", analytics_enabled=False, delete_cache=(60, 600)) as self.blocks:
            gr.Markdown(_TITLE, elem_id="title")
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._lay_out_input()
                with gr.Column(scale=3, min_width=320):
                    self._lay_out_result()
            limits = studio.limits.summary()
            gr.HTML(f'<p class="sw-fine">{limits} Uploads are deleted when you leave.</p>', elem_id="limits")
            self._connect()

    def _lay_out_input(self) -> None:
        limits = self.studio.limits
        self.file = gr.File(label="Video or image", height=140, elem_id="file")
        self.picks = []
        if self.examples:
            with gr.Row():
                for example in self.examples:
                    self.picks.append(gr.Button(f"Example: {example.title}", size="sm", min_width=140))
        self.text = gr.Textbox(
            label="Sentences", placeholder=_HINT, lines=3, max_lines=limits.sentences, elem_id="sentences"
        )
        self.legend = gr.HTML("", elem_id="legend")
        with gr.Row():
            self.run = gr.Button("Segment", variant="primary", min_width=120, elem_id="run")
            self.cancel = gr.Button("Cancel", min_width=120, interactive=False, elem_id="cancel")
        self.status = gr.HTML(status_html("Upload a video or an image, or pick an example."), elem_id="status")

    def _lay_out_result(self) -> None:
        self.picture = gr.HTML(picture_html(None), elem_id="picture")
        self.frame = gr.Slider(1, 2, 1, step=1, label="Frame", visible=False, buttons=[], elem_id="frame")
        self.threshold = gr.Slider(
            *(0.01, 0.99, self.studio.threshold),
            step=0.01,
            label="Threshold",
            info="How sure the network must be of a pixel; acts at once, without a new run.",
            elem_id="threshold",
        )
        with gr.Row():
            labels = {"overlays": _SAVE_VIDEO, "masks": "Save masks", "record": "Save JSON"}
            self.saves = {
                kind: gr.Button(label, size="sm", min_width=90, interactive=False, elem_id=f"save-{kind}")
                for kind, label in labels.items()
            }
        self.collect = gr.DownloadButton("", elem_id="collect")

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "undocumented"}
        buttons = [self.run, self.cancel, *self.saves.values()]
        shown = [self.legend, self.status, self.picture, self.frame, *buttons]
        opening = {"outputs": [self.file, self.text, *shown], "concurrency_id": "open", "concurrency_limit": 2, **quiet}
        self.file.upload(self.on_upload, self.file, api_name="upload", **opening)
        self.file.clear(self.on_clear, None, api_name="clear", **opening)
        for number, (button, example) in enumerate(zip(self.picks, self.examples, strict=True)):
            button.click(self._pick(example), None, api_name=f"example_{number}", **opening)
        latest = {"trigger_mode": "always_last", **quiet}
        self.text.change(self.on_typing, self.text, self.legend, queue=False, api_name="legend", **latest)
        visits = self.studio.limits.visits
        self.run.click(
            self.on_run, [self.text, self.threshold], shown, api_name="run", concurrency_limit=visits, **quiet
        )
        self.cancel.click(self.on_cancel, None, self.status, queue=False, api_name="cancel", **quiet)
        chosen, drawn = [self.frame, self.threshold], [self.picture, self.status]
        looking = {"concurrency_id": "look", "concurrency_limit": 4, **latest}
        self.frame.input(self.on_look, chosen, drawn, api_name="look", **looking)
        self.threshold.input(self.on_look, chosen, drawn, api_name="look_again", **looking)
        saving = {"concurrency_id": "save", "concurrency_limit": 1, **quiet}
        for kind, button in self.saves.items():
            outputs = [self.collect, self.status]
            saved = button.click(self._save(kind), self.threshold, outputs, api_name=f"save_{kind}", **saving)
            saved.then(None, js=_FETCH)
        self.blocks.unload(self.on_leave)

    def _complain(self, error: Exception) -> Update:
        """Say what went wrong: to the visitor if it is theirs to mend, otherwise to the log."""
        if isinstance(error, InputError):
            return {self.status: status_html(str(error), "error")}
        if shortage := shortage_of(error):
            logger.warning("%s", shortage)
            return {self.status: status_html(shortage, "error")}
        logger.error("a request failed", exc_info=error)
        return {self.status: status_html("Something went wrong; the log of the server says what.", "error")}

    def _answer(self, request: gr.Request, work: Callable[[Visit], Update]) -> Update:
        """Do something in the visit of whoever asks."""
        try:
            return work(self.studio.visit(request.session_hash))
        except Exception as error:
            return self._complain(error)

    def _answers(self, request: gr.Request, work: Callable[[Visit], Iterator[Update]]) -> Iterator[Update]:
        """The same, step by step."""
        try:
            yield from work(self.studio.visit(request.session_hash))
        except Exception as error:
            yield self._complain(error)

    def on_upload(self, file: str, request: gr.Request) -> Update:
        """A file has arrived."""
        return self._answer(request, lambda visit: self._open(visit, Path(file)))

    def on_clear(self, request: gr.Request) -> Update:
        """The file was taken away."""

        def work(visit: Visit) -> Update:
            visit.forget()
            return {**self._nothing(), self.status: status_html("The upload and its results are deleted.")}

        return self._answer(request, work)

    def on_typing(self, text: str) -> str:
        """The sentences changed."""
        return self._legend(text)

    def on_cancel(self, request: gr.Request) -> Update:
        """Stop the run."""

        def work(visit: Visit) -> Update:
            if visit.job is None or visit.job.over:
                return {self.status: gr.skip()}
            visit.job.cancel()
            return {self.status: job_html(visit.job, 0)}

        return self._answer(request, work)

    def on_look(self, number: float, threshold: float, request: gr.Request) -> Update:
        """A slider was moved: draw the frame anew from what is stored."""

        def work(visit: Visit) -> Update:
            visit.threshold = threshold
            count = 0 if visit.job is None else len(visit.job.store)
            if visit.job is None or not count:
                return {self.status: gr.skip()}
            visit.follows = number >= count
            return {self.picture: self._draw(visit.job, min(int(number), count), threshold)}

        return self._answer(request, work)

    def on_run(self, text: str, threshold: float, request: gr.Request) -> Iterator[Update]:
        """Segment; goes on until the run is over."""
        yield from self._answers(request, lambda visit: self._watch(visit, text, threshold))

    def on_leave(self, request: gr.Request) -> None:
        """The tab was closed or loaded anew."""
        self.studio.end_visit(request.session_hash)

    def _pick(self, example: Example) -> Callable[[gr.Request], Update]:
        """What a click on an example does."""

        def work(visit: Visit) -> Update:
            given = {self.file: None, self.text: example.sentences, self.legend: self._legend(example.sentences)}
            return {**self._open(visit, example.path), **given}

        def on_pick(request: gr.Request) -> Update:
            return self._answer(request, work)

        return on_pick

    def _save(self, kind: str) -> Callable[[float, gr.Request], Iterator[Update]]:
        """What a click on one of the buttons that save does."""

        def on_save(threshold: float, request: gr.Request) -> Iterator[Update]:
            yield {self.collect: None}
            yield from self._answers(request, lambda visit: self._write(visit, kind, threshold))

        return on_save

    def _open(self, visit: Visit, file: Path) -> Update:
        """Take a file and show its first frame."""
        try:
            visit.open(file, file.name, self.studio.limits)
        except Exception as error:
            return {**self._nothing(), **self._complain(error)}
        media = visit.media
        assert media is not None
        height, width = media.frame_size
        length = "" if media.fps is None or media.length is None else f", {media.length} frames"
        return {
            **self._nothing(),
            self.picture: picture_html(visit.first, "the first frame"),
            self.status: status_html(f"{media.path}: {width} x {height} pixels{length}. Now say what to look for."),
            self.saves["overlays"]: gr.update(
                value=_SAVE_PICTURE if media.fps is None else _SAVE_VIDEO, interactive=False
            ),
        }

    def _nothing(self) -> Update:
        """The page without a run."""
        return {self.picture: picture_html(None), self.frame: gr.update(visible=False), **self._buttons(False, False)}

    def _watch(self, visit: Visit, text: str, threshold: float) -> Iterator[Update]:
        """Start a run and tell how it goes, until it is over or given up."""
        visit.threshold = threshold
        job = self.studio.start(visit, text)
        yield {self.legend: legend_html(job.store.sentences), **self._buttons(True, False)}
        known = 0
        while True:
            visit.touch()
            over, count = job.over, len(job.store)
            try:
                newest = self._show_newest(visit, job, count) if count > known else {}
            except InputError:  # given up at this very moment
                newest = {}
            if visit.job is not job:  # another run has taken its place
                return
            status = {self.status: job_html(job, self.studio.ahead(job))}
            yield {**status, **newest, **(self._buttons(False, count > 0) if over else {})}
            if over:
                return
            known = count
            time.sleep(_PAUSE_SECONDS)
            job.wait(known, _NEWS_SECONDS)

    def _show_newest(self, visit: Visit, job: Job, count: int) -> Update:
        """The newest frame, or only that there are more, if the visitor looks at an earlier one."""
        end: Update = {"maximum": max(count, 2), "visible": count > 1}
        if not visit.follows:
            return {self.frame: gr.update(**end)}
        return {self.frame: gr.update(value=count, **end), self.picture: self._draw(job, count, visit.threshold)}

    def _write(self, visit: Visit, kind: str, threshold: float) -> Iterator[Update]:
        """Make a file of the run and hand it over."""
        if visit.job is None or not len(visit.job.store):
            raise InputError("There is nothing to save yet. Segment a video first.")
        told = time.monotonic()
        for done in EXPORTS[kind](visit.job, threshold, visit.downloads / secrets.token_hex(8)):
            visit.touch()
            if isinstance(done, Path):
                yield {self.collect: str(done), self.status: status_html(f"Saved as {done.name}", "done")}
            elif time.monotonic() > told + _NEWS_SECONDS:
                told = time.monotonic()
                yield {self.status: status_html("Writing the file…", share=done)}

    def _draw(self, job: Job, number: int, threshold: float) -> str:
        description = f"frame {number} with the masks of {len(job.store.sentences)} sentences"
        return picture_html(job.store.overlay(number - 1, threshold), description)

    def _buttons(self, running: bool, results: bool) -> Update:
        saves = {button: gr.update(interactive=results) for button in self.saves.values()}
        cancel = gr.update(interactive=running, variant="stop" if running else "secondary")
        return {self.run: gr.update(interactive=not running), self.cancel: cancel, **saves}

    def _legend(self, text: str) -> str:
        """Of what has been typed so far, as far as it can be used."""
        try:
            return legend_html(parse_sentences(text, self.studio.limits))
        except InputError:
            return ""
