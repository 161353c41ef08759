"""A file of the web is known by its hash, fetched once by https, and never anything else."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from ft_toolkit.errors import FtError
from ft_toolkit.references import is_safe_text, parse_text
from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.text.download import downloaded

TEXT = "감기 Salt.\n".encode()
DIGEST = sha256(TEXT).hexdigest()
PLACE = "https://example.org/notes/a%20b.txt"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_CACHE", str(tmp_path / "cache"))


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> httpx2.Client:
    return httpx2.Client(transport=httpx2.MockTransport(answer))


def test_a_file_is_fetched_once_and_then_read_without_the_network() -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(200, content=TEXT)

    path = downloaded(PLACE, DIGEST, client(answer))
    assert (path.name, path.read_bytes()) == ("a b.txt", TEXT)
    reading = read_corpora(Corpus(source=PLACE, sha256=DIGEST))
    assert [(document.id, document.text) for document in reading.documents] == [("a b.txt#0", TEXT.decode())]
    assert len(asked) == 1


def test_a_damaged_copy_in_the_cache_is_fetched_again() -> None:
    serve = client(lambda request: httpx2.Response(200, content=TEXT))
    path = downloaded(PLACE, DIGEST, serve)
    path.write_bytes(b"changed")
    assert downloaded(PLACE, DIGEST, serve).read_bytes() == TEXT


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda request: httpx2.Response(200, content=b"other"), f"expected sha256 {DIGEST[:12]}…, found"),
        (lambda request: httpx2.Response(404), "expected the file, found status 404"),
        (
            lambda request: httpx2.Response(302, headers={"location": "http://example.org/a.txt"}),
            "expected an answer by https",
        ),
        (lambda request: httpx2.Response(302, headers={"location": PLACE}), "found five redirections"),
    ],
)
def test_what_is_not_that_file_is_refused_and_not_kept(
    tmp_path: Path, answer: Callable[[httpx2.Request], httpx2.Response], words: str
) -> None:
    with pytest.raises(FtError, match=f"corpus https://example.org/notes/a%20b.txt: .*{words}"):
        downloaded(PLACE, DIGEST, client(answer))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_server_that_does_not_answer_is_named() -> None:
    def silent(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no route to host")

    with pytest.raises(FtError, match="expected an answer, or the file in the cache, found no route to host"):
        downloaded(PLACE, DIGEST, client(silent))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (PLACE, "expected its corpus.sha256, found none. Set it to what this prints: curl"),
        ("https://example.org/", "expected the address of a file ending in"),
        ("https://example.org/a.exe", "expected the address of a file ending in"),
        ("https://me:secret@example.org/a.txt", "expected an address without a password"),
        ("https://[/a.txt", "expected an https:// address"),
        ("https://example.org/..%2F..%2Fa%00.txt", "expected the address of a file"),
    ],
)
def test_an_address_that_is_not_of_one_known_file_is_refused_before_anything_is_sent(
    source: str, words: str
) -> None:
    with pytest.raises(FtError) as caught:
        read_corpora(Corpus(source=source))
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_stands_behind_the_question_mark_is_not_passed_on() -> None:
    reference = parse_text("https://example.org/a.txt?token=secret")
    assert (reference.shown, reference.label) == ("a.txt", "a.txt")
    assert not is_safe_text("https://example.org/a.txt")


def test_a_hash_is_64_hexadecimal_digits() -> None:
    with pytest.raises(ValueError, match="sha256"):
        Corpus(source=PLACE, sha256="x")
