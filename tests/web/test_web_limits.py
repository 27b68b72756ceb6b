"""What the page refuses, and with which words."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.web.limits import Limits, check_upload, parse_sentences, shown_name
from tests.media_files import without_decoder, write_video
from tests.web.hostile_files import HOSTILE, postscript
from util.errors import InputError

LIMITS = Limits(frames=20, file_bytes=1 << 20)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_get_a_message_before_they_are_decoded(name: str, tmp_path: Path) -> None:
    make, word = HOSTILE[name]
    path = make(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(InputError, match=word) as caught:
        check_upload(path, f"../../{name}", LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(name)
    assert str(tmp_path) not in str(caught.value)
    assert peak < 20 << 20


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match=r"clip\.mp4 has .* takes up to"):
        check_upload(path, "clip.mp4", Limits(file_bytes=100))
    with pytest.raises(InputError, match="not arrived"):
        check_upload(tmp_path / "missing.mp4", "clip.mp4", LIMITS)


def test_a_file_whose_pictures_nothing_here_decodes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^clip\.avi: there is no decoder"):
        check_upload(without_decoder(tmp_path / "1f0c.avi"), "clip.avi", LIMITS)


def test_good_uploads_go_by_their_owners_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "1f0c.mp4", 5)
    media = check_upload(path, "C:\\videos\\../Bär \u202e🐻.mp4", LIMITS)
    assert (media.path, media.kind, media.length, media.frame_size) == ("Bär 🐻.mp4", "video", 5, (48, 64))
    assert len(list(media)) == len(list(media)) == 5


def test_damage_in_the_middle_does_not_tell_paths(tmp_path: Path) -> None:
    path = write_video(tmp_path / "own.avi", 12, codec="mpeg4")
    media = check_upload(path, "clip.avi", LIMITS)
    path.unlink()
    with pytest.raises(InputError) as caught:
        list(media)
    assert str(tmp_path) not in str(caught.value)


def test_a_video_that_pillow_takes_for_postscript_stays_a_video(tmp_path: Path) -> None:
    """Only Pillow's plugin for EPS would start a program on it."""
    path = write_video(tmp_path / "plain.mpg", 12, codec="mpeg1video", rate=Fraction(25))
    both = tmp_path / "both.mpg"
    both.write_bytes(postscript(tmp_path / "picture.eps").read_bytes() + path.read_bytes())
    with Image.open(both) as image:
        assert image.format == "EPS"
    media = check_upload(both, "both.mpg", LIMITS)
    assert (media.path, media.kind, media.frame_size, len(list(media))) == ("both.mpg", "video", (48, 64), 12)


def test_sentences() -> None:
    assert parse_sentences("  the  dog\n\n\tthe cat \r\nthe dog\n", LIMITS) == ["the dog", "the cat"]
    assert parse_sentences("\n".join(f"thing {number}" for number in range(8)), LIMITS)[7] == "thing 7"
    with pytest.raises(InputError, match="There are 50 sentences; this page takes up to 8"):
        parse_sentences("\n".join(f"thing {number}" for number in range(50)), LIMITS)
    with pytest.raises(InputError, match="Sentence 2 has 301 letters; this page takes up to 300"):
        parse_sentences("the dog\n" + "x" * 301, LIMITS)
    for nothing in ("", " \n\t\n "):
        with pytest.raises(InputError, match="at least one sentence"):
            parse_sentences(nothing, LIMITS)
    with pytest.raises(InputError, match="Unicode"):
        parse_sentences("the \udcff dog", LIMITS)


@given(st.text(max_size=200))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        sentences = parse_sentences(text, LIMITS)
    except InputError:
        return
    assert 1 <= len(sentences) <= 8
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in sentences)


@given(st.text(max_size=300))
def test_any_name_can_be_shown(name: str) -> None:
    shown = shown_name(name)
    assert shown
    assert shown.isprintable()
    assert len(shown) <= 60
    assert "/" not in shown
    assert "\\" not in shown
