"""Token ids of a training text, kept on the disk and read from there: memory does not grow with the text.

The text is cut into pieces of whole documents. A piece is one file: an Arrow stream with a record a document,
followed by the sha256 of its bytes. Its name is a hash of all that its ids follow from: the exact texts in
their order, the tokenizer, the version of the library, FORMAT. So a second run reads what the first one made,
an interrupted one goes on at the piece where it stopped, and a text that grew at its end is not read twice.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.artefacts import remove_oldest, written_whole
from ft_toolkit.text.documents import Document
from ft_toolkit.text.rows import Ids, Places

if TYPE_CHECKING:  # tests of rows and ft cache need no tokenizer
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of a piece's file, and of how a text is cut into pieces
PIECE_CHARACTERS = 2**24
AT_ONCE_CHARACTERS = 2**20  # in one call of the tokenizer, which takes some hundred bytes a token
READS_UNTIL_FORGOTTEN = 32  # a read may map 2 MiB of a file, where the page cache keeps it in such pages
DIGEST_BYTES = 32


@dataclass(frozen=True)
class _Piece:
    """Some documents' token ids, one after the other; in memory, or mapped from a file."""

    ids: NDArray[Any]  # (tokens,) uint16 where they fit, else int32
    offsets: Ids  # (documents + 1,) of each document's first token
    keys: NDArray[np.uint64]  # (documents,) 64 bits of each text's hash
    mapped: mmap.mmap | None = None

    def forget(self) -> None:
        """Give the memory of pages that were read back; the file still has them."""
        if self.mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


class Tokens:
    """Token ids of documents, as packing.TokenIds.

    lengths   (documents,) tokens of each, without special tokens
    labels    Document.corpus of all of them, each once
    label     (documents,) number of each document's label
    """

    def __init__(
        self, documents: Sequence[Document], pieces: Sequence[_Piece], labels: tuple[str, ...], label: Ids
    ) -> None:
        self.documents, self.labels, self.label = documents, labels, label
        self.lengths: Places = np.concatenate(
            [np.zeros(0, np.int64), *(np.diff(piece.offsets) for piece in pieces)]
        )
        self._pieces = pieces
        self._first = np.cumsum([0, *(len(piece.keys) for piece in pieces)])  # document of each piece
        self._reads, self._touched = 0, set[int]()
        for piece in pieces:
            piece.forget()

    def ids(self, document: int, start: int, stop: int) -> Ids:
        self._reads += 1
        if self._reads % READS_UNTIL_FORGOTTEN == 0:
            for number in self._touched:
                self._pieces[number].forget()
            self._touched.clear()
        piece, own = self._found(document)
        first = int(piece.offsets[own])
        return piece.ids[first + start : first + stop].astype(np.int32)

    def key(self, document: int) -> int:
        piece, own = self._found(document)
        return int(piece.keys[own])

    def _found(self, document: int) -> tuple[_Piece, int]:
        number = int(np.searchsorted(self._first, document, side="right")) - 1
        self._touched.add(number)
        return self._pieces[number], document - int(self._first[number])


@dataclass
class TokenStore:
    """Pieces by name. Problems with the disk are reported through `say` and never cost a result.

    most_bytes   of all pieces together, unless the text in hand alone has more; 0: none are kept
    """

    folder: Path
    most_bytes: int
    say: Callable[[str], object] = lambda words: None
    _used: set[str] = field(default_factory=set)
    _made: int = 0
    _is_failing: bool = False

    def piece(self, name: str, make: Callable[[], _Piece]) -> _Piece:
        """From its file if that is whole, else made and kept."""
        path = self.folder / f"{name}.arrow"
        self._used.add(path.name)
        if self.most_bytes and (found := self._read(path)):
            return found
        if self._made == 1:
            self.say("tokenising the text takes a while; what is done is kept for the next time")
        self._made += 1
        made = make()
        if not self.most_bytes or self._is_failing:
            return made
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with written_whole(path) as unfinished:
                os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))  # ids are text
                unfinished.write_bytes(_packed(made))
            return self._read(path) or made
        except OSError as error:  # a full disk
            self._is_failing = True
            self.say(f"token ids could not be kept in {self.folder} ({error}); they stay in memory")
            return made

    def shrink(self) -> None:
        """Remove the files that were used longest ago, until the others are no more than most_bytes."""
        if self._made:
            remove_oldest(self.folder, self.most_bytes, self._used)

    def _read(self, path: Path) -> _Piece | None:
        import pyarrow

        try:
            found = _opened(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            self.say(f"kept token ids are damaged ({path.name[:12]}…: {error}); tokenising them anew")
            return None
        with suppress(OSError):  # a cache that may only be read
            os.utime(path)
        return found


def tokenised(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_sha256: str,
    store: TokenStore,
) -> Tokens:
    """Tokenise whole documents as blocks.encode does, once; they are walked once, in their order."""
    labels: dict[str, int] = {}
    label = array("i")
    pieces = []
    for some in _cut(documents, PIECE_CHARACTERS):
        label.extend(labels.setdefault(document.corpus, len(labels)) for document in some)
        pieces.append(store.piece(_name(some, tokenizer_sha256), partial(_encoded, some, tokenizer)))
        pieces[-1].forget()
    store.shrink()
    return Tokens(documents, pieces, tuple(labels), np.array(label, np.int32))


def _cut(documents: Sequence[Document], most_characters: int) -> Iterator[list[Document]]:
    """Documents in portions that end as soon as they have so many characters."""
    some: list[Document] = []
    characters = 0
    for document in documents:
        some.append(document)
        characters += len(document.text)
        if characters >= most_characters:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _name(documents: Sequence[Document], tokenizer_sha256: str) -> str:
    import tokenizers

    digest = sha256(json.dumps([FORMAT, tokenizers.__version__, tokenizer_sha256]).encode())
    for document in documents:
        digest.update(bytes.fromhex(document.text_sha256))
    return digest.hexdigest()


def _encoded(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> _Piece:
    found = [np.array(ids, np.int32) for ids in _ids(documents, tokenizer)]
    ids = np.concatenate([np.zeros(0, np.int32), *found])
    return _Piece(
        ids.astype(np.uint16) if ids.max(initial=0) < 2**16 else ids,
        np.cumsum([0, *(len(one) for one in found)], dtype=np.int32),
        np.array([int(document.text_sha256[:16], 16) for document in documents], np.uint64),
    )


def _ids(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # `<|endoftext|>` written in a text is just characters
    for some in _cut(documents, AT_ONCE_CHARACTERS):
        texts = [document.text for document in some]
        yield from (one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False))


def _packed(piece: _Piece) -> bytes:
    """A file's content."""
    import pyarrow

    def column(values: NDArray[Any]) -> Any:  # pyarrow.array and to_numpy import pandas, which takes 0.2 s
        kind = pyarrow.from_numpy_dtype(values.dtype)
        return pyarrow.Array.from_buffers(kind, len(values), [None, pyarrow.py_buffer(values)])

    ids = pyarrow.ListArray.from_arrays(column(piece.offsets), column(piece.ids))
    batch = pyarrow.RecordBatch.from_arrays([ids, column(piece.keys)], names=["ids", "text"])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content + sha256(content).digest()


def _opened(path: Path) -> _Piece:
    """raises   OSError, ValueError or pyarrow.ArrowException for what is not a whole file of ours"""
    import pyarrow

    with path.open("rb") as file:
        # without a descriptor of its own for each of a thousand pieces
        lean: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, **lean)
    content = memoryview(mapped)
    if sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise ValueError("its checksum does not hold")
    batch = pyarrow.ipc.open_stream(pyarrow.py_buffer(content[:-DIGEST_BYTES])).read_next_batch()
    ids = batch.column("ids")
    values, offsets, keys = (
        np.frombuffer(each.buffers()[1], each.type.to_pandas_dtype(), len(each))
        for each in (ids.values, ids.offsets, batch.column("text"))
    )
    return _Piece(values, offsets, keys, mapped)
