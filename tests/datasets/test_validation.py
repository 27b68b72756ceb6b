"""Faults as text, checks in threads, and the small rules of what is a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.validation import (
    Fault,
    follow_link_file,
    is_path_component,
    missing_files,
    raise_on_faults,
    run_checks,
)
from util.errors import InputError


def test_no_faults_no_error() -> None:
    raise_on_faults([], "mevis (valid)")


@pytest.mark.parametrize("count", [1, 3, 4, 50])
def test_the_error_names_the_first_faults_and_how_many_more(count: int) -> None:
    faults = [Fault(Path("meta.json"), f"videos/{number}", "no frames") for number in range(count)]
    with pytest.raises(InputError) as caught:
        raise_on_faults(faults, "mevis (valid)")
    message = str(caught.value)
    assert message.startswith("mevis (valid) cannot be used: meta.json: videos/0: no frames")
    assert message.count("no frames") == min(count, 3)
    assert ("check_dataset.py" in message) == (count > 3)
    if count > 3:
        assert f"{count - 3} more" in message


def test_a_fault_of_a_whole_file_has_no_key() -> None:
    assert str(Fault(Path("meta.json"), "", "the file is missing")) == "meta.json: the file is missing"


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 8))
def test_checks_run_once_and_keep_their_order(counts: list[int], workers: int) -> None:
    def check(place: int, count: int) -> list[Fault]:
        return [Fault(Path(str(place)), str(number), "x") for number in range(count)]

    checks = [lambda place=place, count=count: check(place, count) for place, count in enumerate(counts)]
    found = run_checks(checks, workers)
    assert [(int(str(fault.path)), int(fault.key)) for fault in found] == [
        (place, number) for place, count in enumerate(counts) for number in range(count)
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "/", "a\0", "a\ud83d", None, 3])
def test_names_that_would_leave_their_folder(name: object) -> None:
    assert not is_path_component(name)


@pytest.mark.parametrize("name", ["00000", "0062f687f1", "dogs-jump", "...", "a b", "é"])
def test_names_of_files(name: str) -> None:
    assert is_path_component(name)


def test_a_missing_parent_is_left_to_who_knows_it(tmp_path: Path) -> None:
    assert missing_files(tmp_path / "a" / "b", ["x"], "key", "frames") == []
    assert [str(fault) for fault in missing_files(tmp_path / "b", ["x"], "key", "frames")] == [
        f"{tmp_path / 'b'}: key: the folder is missing"
    ]


def test_only_files_that_name_a_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    link = tmp_path / "link"
    assert follow_link_file(link) == link
    for content, target in (("frames", tmp_path / "frames"), ("nowhere", link), ("\0", link), ("x" * 5000, link)):
        link.write_text(content)
        assert follow_link_file(link) == target
    link.write_bytes(b"\xff\xfe")
    assert follow_link_file(link) == link
    assert follow_link_file(tmp_path / "frames") == tmp_path / "frames"
