"""Compressed files and archives: each member is a file of its own, none leads out or fills the memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import MADE, tar_of, zip_of, zst

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import read_corpora, read_source

COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}


def link(to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "a.zip": zip_of,
    "a.tar": tar_of,  # type: ignore[dict-item]
    "a.tgz": lambda files: gzip.compress(tar_of(files)),  # type: ignore[arg-type]
    "a.tar.xz": lambda files: lzma.compress(tar_of(files)),  # type: ignore[arg-type]
    "a.tar.zst": lambda files: zst(tar_of(files)),  # type: ignore[arg-type]
}


def fault(folder: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        read_source(str(folder))
    return str(caught.value)


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_compressed_file_is_read_as_the_file_in_it(tmp_path: Path, ending: str) -> None:
    pack = COMPRESSED[ending]
    text = "감기 🙂\n" * 1000
    (tmp_path / f"a.txt{ending}").write_bytes(pack(text.encode()))
    (tmp_path / f"b.jsonl{ending}").write_bytes(pack(b'{"text": "b"}\n'))
    (tmp_path / f"c.docx{ending}").write_bytes(pack(MADE[".docx"]()))
    first, second, third = read_source(str(tmp_path)).documents
    assert (first.text, second.text) == (text, "b")
    assert third.text.startswith("Colds")


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_compressed_file_of_several_streams_is_read_to_its_end(tmp_path: Path, ending: str) -> None:
    pack = COMPRESSED[ending]
    (tmp_path / f"a.txt{ending}").write_bytes(pack(b"Salt. ") + pack(b"Oil."))
    assert [document.text for document in read_source(str(tmp_path)).documents] == ["Salt. Oil."]


@pytest.mark.parametrize("damage", ["cut", "alien", "changed", "empty"])
@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_damaged_compressed_file_is_named(tmp_path: Path, ending: str, damage: str) -> None:
    data = COMPRESSED[ending](os.urandom(4000).hex().encode())
    half = len(data) // 2
    data = {
        "cut": data[:half],
        "alien": b"no such file",
        "changed": data[:half] + bytes([data[half] ^ 255]) + data[half + 1 :],
        "empty": b"",
    }[damage]
    (tmp_path / f"a.txt{ending}").write_bytes(data)
    try:
        documents = read_source(str(tmp_path)).documents
    except FtError as error:
        assert "a.txt" in str(error) or damage == "empty"
    else:  # zstd without a checksum may unpack to other text
        assert ending == ".zst" and damage == "changed" and documents


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_members_of_an_archive_are_documents_of_their_own(tmp_path: Path, name: str) -> None:
    files = {
        "b/salt.txt": b"Salt.",
        "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
        "page.html.gz": gzip.compress(b"<p>Oil"),
        ".hidden.txt": b"x",
        "__MACOSX/b/._salt.txt": b"x",
        "photo.jpg": b"x",
    }
    (tmp_path / name).write_bytes(ARCHIVES[name](files))
    expected = {f"{name}/b/salt.txt#0": "Salt.", f"{name}/a.jsonl#0": "one", f"{name}/a.jsonl#1": "two"}
    expected[f"{name}/page.html.gz#0"] = "Oil"
    for source in (tmp_path, tmp_path / name, tmp_path / "*"):
        assert {d.id: d.text for d in read_source(str(source)).documents} == expected


@pytest.mark.parametrize(
    "member", ["../x.txt", "/etc/x.txt", "a/../../x.txt", "..\\x.txt", "C:\\x.txt", "a\nb.txt"]
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_member_that_leads_out_of_its_archive_is_refused(tmp_path: Path, name: str, member: str) -> None:
    (tmp_path / name).write_bytes(ARCHIVES[name]({"fine.txt": b"Salt.", member: b"Oil."}))
    assert f"{name}: expected members inside the archive, found " in fault(tmp_path)


@pytest.mark.parametrize("to", ["fine.txt", "/etc/passwd"])
def test_a_link_in_an_archive_is_refused(tmp_path: Path, to: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"fine.txt": b"Salt.", "b.txt": link(to)}))
    assert "a.tar: expected plain files in the archive, found b.txt, a link or device" in fault(tmp_path)


def test_an_archive_in_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of({"b.zip": zip_of({"c.txt": b"Salt."})}))
    assert "a.zip/b.zip: expected a file, found an archive in an archive" in fault(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "Salt.")
        archive.writestr("a.txt", "Oil.")
    assert "a.zip: expected members of different names, found a.txt twice" in fault(tmp_path)


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.txt": b"Salt."}))
    data[6] |= 1  # the flag of encryption, in both headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    assert "a.zip/a.txt: expected a readable member, found " in fault(tmp_path)


ZEROS = b"a " * 2**20
BOMBS: dict[str, Callable[[], bytes]] = {
    "a.zip": lambda: zip_of({f"{n}.txt": ZEROS for n in range(20)}),
    "a.tgz": lambda: gzip.compress(tar_of({f"{n}.txt": ZEROS for n in range(20)})),
    "b.zip": lambda: zip_of({"a.txt.gz": gzip.compress(ZEROS * 20)}),
    "a.txt.xz": lambda: lzma.compress(ZEROS) * 20,
    "a.txt.bz2": lambda: bz2.compress(bytes(2**20)) * 40,
    "a.txt.zst": lambda: zst(ZEROS * 20),
    "a.docx": lambda: zip_of({"_rels/.rels": ZEROS * 20}),
    "a.epub": lambda: zip_of({"META-INF/container.xml": ZEROS * 20}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_far_more_than_lies_on_the_disk_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    assert f"{name}: expected at most 16 MiB unpacked" in fault(tmp_path).replace("/a.txt.gz", "")


def test_an_xz_file_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28, "mf": lzma.MF_HC3, "mode": lzma.MODE_FAST}]
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"Salt.", filters=filters))
    assert "a.txt.xz: expected a readable file, found " in fault(tmp_path)


# --- files that cannot be read, left out ----------------------------------------------------------------


def test_unreadable_files_are_left_out_and_listed_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Salt.")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (tmp_path / "d.txt").write_bytes(b"NUL \0")
    (tmp_path / "e.zip").write_bytes(zip_of({"f.txt": b"Oil.", "g.txt": b"\xff\xfe\xff", "h.docx": b"x"}))
    (tmp_path / "i.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(Unreadable, match=r"b\.pdf"):
        read_source(str(tmp_path))
    reading = read_corpora(Corpus(source=str(tmp_path), skip_unreadable=True))
    # of a file with one bad row nothing is read: its rows are not a sample that anybody chose
    assert [document.text for document in reading.documents] == ["Salt.", "Oil."]
    named = ["b.pdf", "c.jsonl, line 2", "d.txt, row 0", "e.zip/g.txt, byte 0", "e.zip/h.docx", "i.tar"]
    assert [line.partition(": ")[0].removeprefix(f"{tmp_path}/") for line in reading.unreadable] == named


def test_a_fault_of_the_recipe_is_never_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "one"}\n')
    with pytest.raises(FtError, match="expected column text"):
        read_corpora(Corpus(source=str(tmp_path), skip_unreadable=True))
