"""File names made from prompts."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.naming import MAX_BYTES, natural_key, safe_name, safe_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the red disc", "the_red_disc"),
        ("a / b \\ c: d?", "a_b_c_d"),
        ("..", "prompt"),
        ("", "prompt"),
        ("../../etc/passwd", "etc_passwd"),
        (".hidden", "hidden"),
        ("Größe", "Größe"),
        ("红色圆盘", "红色圆盘"),
        ("a😀b", "a_b"),
        ("CON", "CON_"),
        ("-rf", "rf"),
        ("line\nbreak\x00", "line_break"),
    ],
)
def test_safe_name(text: str, expected: str) -> None:
    assert safe_name(text) == expected


@given(st.lists(st.text(max_size=300), max_size=8))
def test_safe_names_are_safe_and_different(texts: list[str]) -> None:
    names = safe_names(texts, reserved=("all_prompts",))
    folded = [unicodedata.normalize("NFKD", name).casefold() for name in names]
    assert len(set(folded)) == len(texts)
    assert "all_prompts" not in folded
    for name in names:
        assert 0 < len(name.encode()) <= MAX_BYTES + 4
        assert Path(name).name == name
        assert name[0] not in ".-"
        assert not set(name) & set('/\\:*?"<>|\x00')


def test_texts_of_one_name_are_numbered() -> None:
    assert safe_names(["a b", "a/b", "A B", "a_b-2"], reserved=("all",)) == ["a_b", "a_b-2", "A_B-3", "a_b-2-2"]
    assert safe_names(["all"], reserved=("all",)) == ["all-2"]
    long = safe_names(["x" * 300, "x" * 301])
    assert long == ["x" * MAX_BYTES, "x" * MAX_BYTES + "-2"]


def test_natural_order() -> None:
    names = ["frame10", "frame2", "Frame1", "frame02", "b", "a10b2", "a10b10", "10", "9"]
    assert sorted(names, key=natural_key) == [
        "9",
        "10",
        "a10b2",
        "a10b10",
        "b",
        "Frame1",
        "frame02",
        "frame2",
        "frame10",
    ]


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_sort_as_numbers(numbers: list[int]) -> None:
    names = [f"frame {number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"frame {number}.png" for number in sorted(numbers)]
