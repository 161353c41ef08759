"""Token ids on the disk: the tokenizer's own, read again where nothing changed, never trusted if damaged."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.session import kept_text
from ft_toolkit.text import tokens
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.tokens import Tokens, TokenStore, tokenised

GIGABYTE = 10**9


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(shipped.starter(request.param))
    return found


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    """A text of several pieces."""
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 3000)
    monkeypatch.setattr(tokens, "AT_ONCE_CHARACTERS", 500)
    paths = sorted(shipped.corpus("everyday-medicine").glob("*.md"))[:6]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    texts += ["<|endoftext|> [SEP] written out", "\u200d", "한국어 문장 🙂", "x" * 700]
    return [TextDocument(f"{n}.md", 0, text, corpus="ab"[n % 2]) for n, text in enumerate(texts)]


def content(found: Tokens) -> list[list[int]]:
    return [found.ids(n, 0, int(size)).tolist() for n, size in enumerate(found.lengths)]


def expected(documents: list[Document], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """As scoring reads each document, by itself."""
    return [one[0].ids.tolist() if (one := encode([d], tokenizer)) else [] for d in documents]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def test_the_ids_are_those_that_scoring_reads(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    in_memory = tokenised(documents, tokenizer, "t", TokenStore(tmp_path / "none", 0))
    made, read = (
        tokenised(documents, tokenizer, "t", TokenStore(tmp_path / "kept", GIGABYTE)) for _ in range(2)
    )
    for found in (in_memory, made, read):
        assert content(found) == expected(documents, tokenizer)
        assert found.ids(0, 3, 7).tolist() == content(found)[0][3:7]
        assert [found.key(n) for n in range(10)] == [int(d.text_sha256[:16], 16) for d in documents]
        assert [found.labels[n] for n in found.label] == [d.corpus for d in documents]
    assert not (tmp_path / "none").exists()
    kept = files(tmp_path / "kept")
    assert len(kept) > 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many documents each piece had that was tokenised."""
    sizes: list[int] = []
    exact = tokens._encoded

    def noted(some: list[Document], tokenizer: PreTrainedTokenizerBase) -> object:
        sizes.append(len(some))
        return exact(some, tokenizer)

    monkeypatch.setattr(tokens, "_encoded", noted)
    return sizes


@pytest.fixture
def gpt2() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    return found


def test_only_what_changed_is_tokenised_again(
    documents: list[Document], gpt2: PreTrainedTokenizerBase, tmp_path: Path, counted: list[int]
) -> None:
    def made(some: list[Document], tokenizer_sha256: str = "t") -> list[int]:
        counted.clear()
        tokenised(some, gpt2, tokenizer_sha256, TokenStore(tmp_path, GIGABYTE))
        return list(counted)

    whole = made(documents)
    assert sum(whole) == len(documents) and len(whole) > 2
    assert made(documents) == []
    moved = [TextDocument("elsewhere", n, d.text) for n, d in enumerate(documents)]
    assert made(moved) == []  # a name moves no id
    assert made([*documents, TextDocument("new", 0, "at the end")]) == [whole[-1] + 1]
    assert made([TextDocument("0", 0, "another"), *documents[1:]])[0] >= 1
    assert sum(made(documents[::-1])) == len(documents)  # the order is part of the key
    assert made(documents, "another tokenizer") == whole


def test_an_interrupted_tokenising_goes_on_at_the_piece_where_it_stopped(
    documents: list[Document],
    gpt2: PreTrainedTokenizerBase,
    tmp_path: Path,
    counted: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = tokens._encoded

    def stopped(some: list[Document], tokenizer: PreTrainedTokenizerBase) -> object:
        if len(counted) == 2:
            raise KeyboardInterrupt
        return exact(some, tokenizer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tokens, "_encoded", stopped)
        tokenised(documents, gpt2, "t", TokenStore(tmp_path, GIGABYTE))
    before = sum(counted)
    found = tokenised(documents, gpt2, "t", TokenStore(tmp_path, GIGABYTE))
    assert sum(counted) == len(documents) and 0 < before < len(documents)
    assert content(found) == expected(documents, gpt2)


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "none of ours"])
def test_a_damaged_file_is_made_anew_and_named(
    documents: list[Document], gpt2: PreTrainedTokenizerBase, tmp_path: Path, damage: str
) -> None:
    tokenised(documents, gpt2, "t", TokenStore(tmp_path, GIGABYTE))
    path = files(tmp_path)[1]
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes(
        {"cut": whole[:-9], "empty": b"", "one bit": bytes(changed), "none of ours": b"x" * 900}[damage]
    )
    said: list[str] = []
    found = tokenised(documents, gpt2, "t", TokenStore(tmp_path, GIGABYTE, said.append))
    assert len(said) == 1 and path.name[:12] in said[0] and "damaged" in said[0]
    assert content(found) == expected(documents, gpt2)
    assert path.read_bytes() == whole


def test_a_full_disk_is_told_once_and_costs_nothing_but_memory(
    documents: list[Document],
    gpt2: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        found = tokenised(documents, gpt2, "t", TokenStore(tmp_path, GIGABYTE, said.append))
    assert content(found) == expected(documents, gpt2)
    assert [words for words in said if "No space left" in words] and len(said) == 2
    assert files(tmp_path) == []


def test_a_file_that_is_removed_while_it_is_read_is_still_read(
    documents: list[Document], gpt2: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "READS_UNTIL_FORGOTTEN", 3)
    store = TokenStore(tmp_path, GIGABYTE)
    found = tokenised(documents, gpt2, "t", store)
    assert files(tmp_path)
    for name in files(tmp_path):
        (tmp_path / name).unlink()
    assert content(found) == content(found) == expected(documents, gpt2)


def test_what_was_used_longest_ago_is_removed_first_and_never_the_text_in_hand(
    documents: list[Document], gpt2: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenised(documents, gpt2, "first", TokenStore(tmp_path, GIGABYTE))
    first = files(tmp_path)
    for path in first:
        os.utime(path, (1, 1))
    (tmp_path / ".killed.unfinished").write_bytes(b"x")
    tokenised(documents, gpt2, "second", TokenStore(tmp_path, GIGABYTE))
    second = sorted({*files(tmp_path)} - {*first} - {tmp_path / ".killed.unfinished"})
    for path in second:
        os.utime(path, (2, 2))
    room = sum(path.stat().st_size for path in files(tmp_path))
    tokenised(documents, gpt2, "third", TokenStore(tmp_path, room))
    assert {*second} < {*files(tmp_path)} and not {*first} & {*files(tmp_path)}
    tokenised(documents, gpt2, "fourth", TokenStore(tmp_path, 1))
    assert len(files(tmp_path)) == len(first)


def test_a_text_without_documents_has_no_tokens(gpt2: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    found = tokenised([], gpt2, "t", TokenStore(tmp_path, GIGABYTE))
    assert found.lengths.tolist() == [] and found.lengths.dtype == np.int64


def test_the_limit_is_set_in_gigabytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FT_CACHE", str(tmp_path))
    monkeypatch.setenv("FT_KEPT_GB", "0.5")
    assert kept_text("tokens") == (tmp_path / "ft_toolkit" / "tokens", 5 * 10**8)
    for given in ("-1", "some", "nan", "inf"):
        monkeypatch.setenv("FT_KEPT_GB", given)
        with pytest.raises(FtError, match="FT_KEPT_GB"):
            kept_text("tokens")
