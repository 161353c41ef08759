"""Files and folders are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_toolkit.artefacts import (
    damaged_files,
    file_sha256,
    folder_sha256s,
    folder_written_whole,
    read_json,
    value_sha256,
    written_whole,
)
from ft_toolkit.errors import FtError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256 of "abc", FIPS 180-2


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "file.txt"
    with written_whole(place) as unfinished:
        unfinished.write_text("new")
        assert not place.exists()
    assert place.read_text() == "new"
    assert [path.name for path in place.parent.iterdir()] == ["file.txt"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "file.txt"
    place.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(place) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert place.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    for name in ("first", "second"):
        with folder_written_whole(place) as unfinished:
            (unfinished / name).write_text(name)
    assert [path.name for path in place.iterdir()] == ["second"]
    with pytest.raises(ZeroDivisionError), folder_written_whole(place) as unfinished:
        (unfinished / "third").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in place.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_hash_is_that_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == ABC
    assert folder_sha256s(tmp_path, tmp_path) == {"file": ABC}


def test_a_value_is_known_by_its_content_and_not_by_the_order_of_its_keys() -> None:
    assert value_sha256({"a": 1, "b": [2, 3]}) == value_sha256({"b": [2, 3], "a": 1})
    assert value_sha256({"a": 1, "b": [2, 3]}) != value_sha256({"a": 1, "b": [3, 2]})


@pytest.mark.parametrize("harm", ["truncated", "emptied", "bit-flipped", "removed", "a folder"])
def test_a_file_that_is_not_what_it_was_is_found(tmp_path: Path, harm: str) -> None:
    (tmp_path / "whole").write_bytes(b"abc")
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(b"abc")
    if harm == "truncated":
        spoilt.write_bytes(b"ab")
    elif harm == "emptied":
        spoilt.write_bytes(b"")
    elif harm == "bit-flipped":
        spoilt.write_bytes(b"abb")
    else:
        spoilt.unlink()
        if harm == "a folder":
            spoilt.mkdir()
    assert damaged_files(tmp_path, {"whole": ABC, "spoilt": ABC}) == ["spoilt"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("{", "a damaged file"), ("[]", "a list"), ('{"a": "1"}', "a str"), (None, "nothing there")],
)
def test_a_json_file_that_is_not_as_it_should_be_is_named(
    tmp_path: Path, text: str | None, found: str
) -> None:
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FtError, match=r"run\.json") as fault:
        read_json(path, {"a": int})
    assert found in str(fault.value)
