"""The page in a real browser: Debian's Chromium without a window, driven by Playwright, over a real small network."""

from __future__ import annotations

import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.media import open_media
from engine.infer import stream
from engine.web.jobs import RunOptions
from engine.web.limits import Limits
from engine.web.server import Address, open_page
from engine.web.view import picture_html
from engine.web.visits import Studio
from models.samwise import SAMWISE
from tests.conftest import build_micro
from tests.media_files import quadrants, write_video
from util.drawing import palette

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.filterwarnings("ignore::Warning:gradio.queueing")]

SCREENSHOTS = Path(__file__).resolve().parents[2] / "output" / "screenshots"
SENTENCES = ["the red thing on the left", "zebra 42 flies?"]
DESKTOP, PHONE = (1280, 900), (390, 844)
MS = 60_000


@pytest.fixture(scope="module")
def network() -> SAMWISE:
    """Random weights under which these sentences have masks that are neither empty nor the same."""
    return build_micro(seed=4)


@pytest.fixture(scope="module")
def served(network: SAMWISE) -> Iterator[tuple[str, Studio]]:
    with open_page(network, Limits(), RunOptions(), 0.5, Address(port=0)) as opened:
        yield opened


@pytest.fixture
def url(served: tuple[str, Studio]) -> str:
    return served[0]


@pytest.fixture
def studio(served: tuple[str, Studio]) -> Studio:
    return served[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("the tests of the web page need Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail("the tests of the web page need Playwright: pip install playwright")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--disable-background-networking"])
        yield chromium
        chromium.close()


class Visitor:
    """Somebody with a browser window; notes what should not happen."""

    def __init__(self, browser: Any, url: str, name: str, size: tuple[int, int]) -> None:
        self.name = name
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, is_mobile=size == PHONE)
        self.page = self.context.new_page()
        self.page.set_default_timeout(MS)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.page.on("request", self._check_request)
        self._url = url
        self.page.goto(url)
        self.page.wait_for_selector("#run")

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.faults.append(request.url)

    def wait_for(self, text: str) -> str:
        """Wait for a status that contains a text; returns all of it."""
        self.page.wait_for_function("text => document.querySelector('#status').innerText.includes(text)", arg=text)
        return str(self.page.locator("#status").inner_text())

    def wait_for_frame(self, number: int) -> None:
        self.page.wait_for_selector(f"#picture img[alt^='frame {number} ']")

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8: what the browser shows as the picture."""
        return np.array(Image.open(io.BytesIO(self.page.locator("#picture img").screenshot())).convert("RGB"))

    def source(self) -> str:
        return str(self.page.locator("#picture img").get_attribute("src"))

    def press(self, slider: str, key: str, times: int = 1) -> None:
        """Move a slider by its keys, and wait for another picture."""
        before = self.source()
        handle = self.page.locator(f"#{slider} input[type=range]")
        handle.focus()
        for _ in range(times):
            handle.press(key)
        self.page.wait_for_function("old => document.querySelector('#picture img').src != old", arg=before)

    def screenshot(self, moment: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{self.name}-{moment}.png"
        self.page.screenshot(path=path, full_page=True, animations="disabled")

    def leave(self) -> None:
        """Close the window; nothing unusual may have happened."""
        self.context.close()
        assert self.faults == []


def pixels_of(colour: tuple[int, int, int], picture: np.ndarray) -> int:
    """How many pixels have nearly this colour, below the legend of the picture."""
    lower = picture[picture.shape[0] // 2 :].astype(int)
    return int((np.abs(lower - colour).max(axis=2) < 40).sum())


def test_a_video_from_upload_to_zip(network: SAMWISE, url: str, studio: Studio, browser: Any, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "Bär & dog.mp4", 28, (96, 128))
    visitor = Visitor(browser, url, "desktop", DESKTOP)
    page = visitor.page
    visitor.screenshot("empty")
    page.set_input_files("#file input[type=file]", clip)
    assert "128 x 96 pixels, 28 frames" in visitor.wait_for("Bär & dog.mp4")
    page.wait_for_selector("#picture img")
    assert quadrants(visitor.picture())[:3] == ["red", "green", "blue"]

    page.fill("#sentences textarea", "\n".join(SENTENCES))
    page.wait_for_function("document.querySelectorAll('#legend li').length == 2")
    assert "rgb(255, 64, 64)" in page.locator("#legend li").first.inner_html()
    page.click("#run")
    assert "Done: 28 of 28 frames" in visitor.wait_for("Done")
    visitor.wait_for_frame(28)
    shown = visitor.picture()
    assert all(pixels_of(colour, shown) > 300 for colour in palette(2))
    visitor.screenshot("done")

    calls: list[int] = []
    counter = network.sam.sam_mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    visitor.press("threshold", "ArrowLeft", 20)
    job = next(visit.job for visit in studio.visits if visit.job is not None)
    expected = picture_html(job.store.overlay(27, 0.3)).partition('src="')[2].partition('"')[0]
    page.wait_for_function("data => document.querySelector('#picture img').src == data", arg=expected)
    assert np.abs(visitor.picture().astype(int) - shown).mean() > 3
    visitor.press("frame", "Home")
    visitor.wait_for_frame(1)
    counter.remove()
    assert calls == []

    with page.expect_download() as saved:
        page.click("#save-masks")
    with zipfile.ZipFile(saved.value.path()) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 56
        stored = np.array(Image.open(io.BytesIO(archive.read("zebra_42_flies/00027.png"))))
    *_, last = stream(network, SENTENCES, open_media(str(clip)))
    assert np.array_equal(stored > 0, last.masks(0.3)[1])
    assert saved.value.suggested_filename == "Bär_dog-masks.zip"
    visitor.leave()


def test_cancelling_and_saving_what_is_done(
    network: SAMWISE, url: str, studio: Studio, browser: Any, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "long.mp4", 300)
    visitor = Visitor(browser, url, "cancelling", DESKTOP)
    page = visitor.page
    page.set_input_files("#file input[type=file]", clip)
    visitor.wait_for("300 frames")
    page.fill("#sentences textarea", "the dog")
    held, cancelled = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        if any(visit.job is not None and len(visit.job.store) == 8 for visit in studio.visits):
            held.set()
            cancelled.wait(MS / 1000)  # the second clip lasts until it is cancelled

    hook = network.sam.sam_mask_decoder.register_forward_pre_hook(hold)
    try:
        page.click("#run")
        visitor.wait_for("Segmenting: 8 of 300")
        visitor.wait_for("frames/s")
        page.wait_for_selector("#frame input[type=range]")
        visitor.screenshot("running")
        assert held.wait(MS / 1000)
        page.click("#cancel")
        visitor.wait_for("Stopping")
        cancelled.set()
        visitor.wait_for("Cancelled after 16 of 300 frames")
    finally:
        cancelled.set()
        hook.remove()
    for kind, check in (("record", None), ("overlays", b"ftyp")):
        with page.expect_download() as saved:
            page.click(f"#save-{kind}")
        data = Path(saved.value.path()).read_bytes()
        assert len(json.loads(data)["frames"]) == 16 if check is None else check in data[:16]
    page.get_by_label("Clear").click()
    visitor.wait_for("deleted")
    page.set_input_files("#file input[type=file]", write_text(tmp_path / "text.mp4"))
    assert "no image or video" in visitor.wait_for("text.mp4")
    visitor.screenshot("refused")
    visitor.leave()


def write_text(path: Path) -> Path:
    path.write_text("no video")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(url: str, browser: Any, scheme: str) -> None:
    visitor = Visitor(browser, url, f"phone-{scheme}", PHONE)
    visitor.page.emulate_media(color_scheme=scheme)
    visitor.page.reload()
    visitor.page.get_by_text("Example: shapes").click()
    visitor.wait_for("shapes.mp4")
    visitor.page.click("#run")
    visitor.wait_for("Done")
    visitor.screenshot("done")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    shown = visitor.picture()
    assert shown.shape[1] > 300
    visitor.leave()
