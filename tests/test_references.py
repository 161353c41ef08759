"""Each kind of reference is parsed in one place, and nothing of this machine is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.references import (
    BaseReference,
    TextReference,
    is_also_here,
    is_safe_base,
    is_safe_text,
    parse_base,
    parse_run,
    parse_text,
)


def test_a_base_is_a_starter_a_folder_a_gguf_file_or_a_hub_id(tmp_path: Path) -> None:
    starter = parse_base("starter/gpt2")
    assert (starter.kind, starter.folder) == ("starter", shipped.starter("gpt2"))
    assert starter.shown == "starter/gpt2"
    folder = parse_base(str(tmp_path))
    assert (folder.kind, folder.folder, folder.shown) == ("folder", tmp_path, tmp_path.name)
    file = tmp_path / "x.gguf"
    file.touch()
    gguf = parse_base(str(file))
    assert (gguf.kind, gguf.place, gguf.folder, gguf.shown) == ("gguf", str(file), None, "x.gguf")
    plain, pinned = parse_base("owner/name"), parse_base("owner/name@v1")
    assert plain == BaseReference("owner/name", "hub", "owner/name", "main")
    assert pinned == BaseReference("owner/name@v1", "hub", "owner/name", "v1")
    assert (pinned.shown, pinned.folder) == ("owner/name@v1", None)
    assert parse_base("gpt2@refs/pr/1").revision == "refs/pr/1"


def test_a_folder_is_a_folder_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.gguf", "owner@v1", "hub:x"):
        Path(name).mkdir()
        assert parse_base(name).kind == "folder"
    Path("starter/gpt2").mkdir(parents=True)
    assert parse_base("starter/gpt2").folder == shipped.starter("gpt2")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("starter/gpt3", "found gpt3"),
        ("models/x.gguf", "expected a .gguf file, found nothing there"),
        ("./x", "expected a checkpoint's folder, found nothing there"),
        ("/x", "expected a checkpoint's folder, found nothing there"),
        ("~/x", "expected a checkpoint's folder, found nothing there"),
        ("a/b/c", "expected a checkpoint's folder, found nothing there"),
        ("/" + "x" * 5000, "expected a checkpoint's folder, found nothing there"),
        ("notes.txt", "expected a checkpoint's folder, or a .gguf file, found another file"),
    ],
)
def test_a_base_that_is_not_there_is_refused_without_asking_the_hub(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").touch()
    with pytest.raises(FtError) as refused:
        parse_base(name)
    assert words in str(refused.value)


def test_a_revision_is_not_dropped_where_a_folder_bears_the_name_of_the_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/name").mkdir(parents=True)
    assert parse_base("owner/name").kind == "folder"
    with pytest.raises(FtError, match="expected a revision of a Hub id, found a folder owner/name"):
        parse_base("owner/name@v1")


@pytest.mark.parametrize(
    ("source", "expected", "shown", "label"),
    [
        ("package:probe", ("package", "probe", None, None), "package:probe", "probe"),
        ("hf:owner/set", ("hub", "owner/set", None, None), "hf:owner/set", "owner/set"),
        ("hf:o/set/en@abc", ("hub", "o/set", "en", "abc"), "hf:o/set/en@abc", "o/set/en@abc"),
        ("hf:o/set@refs/x@y", ("hub", "o/set", None, "refs/x@y"), "hf:o/set@refs/x@y", "o/set@refs/x@y"),
        ("/srv/me/notes", ("path", "/srv/me/notes", None, None), "notes", "notes"),
        ("texts/a.jsonl", ("path", "texts/a.jsonl", None, None), "a.jsonl", "a.jsonl"),
        ("C:notes", ("path", "C:notes", None, None), "C:notes", "C:notes"),
        ("package", ("path", "package", None, None), "package", "package"),
        ("notes/*.md", ("path", "notes/*.md", None, None), "*.md", "*.md"),
        ("https://me:key@host/notes", ("web", "https://me:key@host/notes", None, None), "notes", "notes"),
    ],
)
def test_a_text_is_a_package_a_hub_data_set_or_a_path(
    source: str, expected: tuple[str, str, str | None, str | None], shown: str, label: str
) -> None:
    found = parse_text(source)
    assert found == TextReference(source, *expected)  # type: ignore[arg-type]
    assert (found.shown, found.label) == (shown, label)


@pytest.mark.parametrize("name", ["", "x", "./x", "/etc", "a//b", "a/..", "a/b/", "a/b@", "buckets/a/b"])
def test_hf_without_a_data_set_is_refused(name: str) -> None:
    with pytest.raises(FtError, match="expected hf:owner/name of the Hub"):
        parse_text(f"hf:{name}")


def test_a_run_is_a_folder_or_a_repository_of_the_hub() -> None:
    there = parse_run("hub:me/x-lora@refs/pr/1")
    assert (there.kind, there.place, there.revision) == ("hub", "me/x-lora", "refs/pr/1")
    assert parse_run("hub:me/x-lora").revision == parse_run("hub:me/x-lora@").revision == "main"
    assert (parse_run("runs/hub").kind, parse_run("runs/a@b").place) == ("folder", "runs/a@b")


@pytest.mark.parametrize("name", ["starter/gpt2", "gpt2", "owner/name", "owner/name@v1", "o/n@refs/pr/1"])
def test_a_stranger_may_name_a_starter_or_a_hub_id(name: str) -> None:
    assert is_safe_base(name)


@pytest.mark.parametrize(
    "name",
    ["", "/etc", "./x", "~/x", "a/../b", "a/b/c", "x.gguf", "x.gguf@v1", "a/b@../x", "a b", "a\n", "a" * 201],
)
def test_a_stranger_names_no_base_of_this_machine(name: str) -> None:
    assert not is_safe_base(name)


def test_a_hub_id_that_a_folder_here_bears_too_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("owner/name", "starter/gpt2"):
        Path(place).mkdir(parents=True)
    assert is_also_here("owner/name") and is_also_here("owner/name@v1")
    assert not is_also_here("owner/other") and not is_also_here("starter/gpt2")


def test_a_stranger_names_texts_of_the_package_and_of_the_hub_alone() -> None:
    for source in ("package:general-probe", "hf:owner/set", "hf:owner/set/en@abc"):
        assert is_safe_text(source)
    for source in ("notes", "/etc", "package", "hf:", "hf:a", "hf:/etc/x", "hf:a/b/../c", "https://host/x"):
        assert not is_safe_text(source)
