"""Split documents into training, validation and test parts that stay stable when documents are added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np

from ft_toolkit.errors import FtError
from ft_toolkit.run import Row
from ft_toolkit.sections import Corpus, Split
from ft_toolkit.text.corpus import Reading, read_corpora
from ft_toolkit.text.documents import Document, first_bits
from ft_toolkit.text.screening import Screened, screen

Part = Literal["train", "validation", "test"]
# Fewest independent documents of each part. A test part under 8 has no interval (statistics.py); in a
# validation part under 4 one document would decide.
LEAST_TRAIN, LEAST_VALIDATION, LEAST_TEST = 8, 4, 8
LEAST = LEAST_TRAIN + LEAST_VALIDATION + LEAST_TEST
BOOK_CHARACTERS = 20_000  # a document longer than this, some ten pages, can be cut


@dataclass(frozen=True)
class Parts:
    """The three parts of a corpus: train, validation and test.

    near_duplicates   how many were left out, since they count once
    tainted           ids of the test documents that mostly stand in training, too (overlap.py)
    most_judged       the verdict is about no more test documents than these, chosen by hash; None: all
    """

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    near_duplicates: int = 0
    tainted: frozenset[str] = frozenset()
    most_judged: int | None = None

    @property
    def clean_test(self) -> list[Document]:
        """The test documents that the verdict is about; tainted ones, where none is clean."""
        clean = [document for document in self.test if document.id not in self.tainted]
        return self._judged(clean or self.test)

    @property
    def tainted_test(self) -> list[Document]:
        return self._judged([document for document in self.test if document.id in self.tainted])

    def _judged(self, documents: list[Document]) -> list[Document]:
        """In their order; of a mixture as many of each source."""
        if self.most_judged is None or len(documents) <= self.most_judged:
            return documents
        chosen = {document.id for document in sample_evenly(documents, self.most_judged)}
        return [document for document in documents if document.id in chosen]

    @property
    def kept(self) -> frozenset[str]:
        """Ids of the held-out documents whose text a run keeps: those that are read."""
        some = (self._judged(self.validation), self.clean_test, self.tainted_test)
        return frozenset(document.id for documents in some for document in documents)

    def __iter__(self) -> Iterator[tuple[Part, list[Document]]]:
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test


def read_parts(*corpora: Corpus, keep_text: bool = True) -> tuple[Reading, Parts]:
    """Read a recipe's text and split it; near-duplicates share a part, and count once in training.

    keep_text  as for read_corpora
    raises   FtError for what cannot be read, or is too little
    """
    reading = read_corpora(*corpora, keep_text=keep_text)
    screened = screened_together(reading.documents, corpora)
    return reading, parted(screened, corpora, reading.copies)


def screened_together(documents: Sequence[Document], corpora: Sequence[Corpus]) -> Screened:
    """Screen the documents of all sources, which agree in how (sections.py)."""
    return screen(documents, corpora[0].near_duplicates, keep=corpora[0].keep_duplicates)


def parted(screened: Screened, corpora: Sequence[Corpus], copies: int) -> Parts:
    """Split what was screened, each source by its own shares; of near-duplicates training gets the first.

    A group that several sources share goes where the first of them puts it.

    copies   how many documents were left out as copies, for the message of a text alone
    raises   FtError when a source has too few groups for all three parts
    """
    homes = _homes(screened.documents) if len(corpora) > 1 else ["" for _ in screened.documents]
    parts = Parts([], [], [])
    for corpus in corpora:
        label = corpus.label if len(corpora) > 1 else ""
        own = [one for one, home in zip(screened.documents, homes, strict=True) if home == label]
        try:
            found = split(own, corpus.split, 0 if label else copies)
        except FtError as error:
            raise FtError(f"corpus {label}".strip(), error.expected, error.found, error.fix) from None
        for (_, documents), (_, more) in zip(parts, found, strict=True):
            documents.extend(more)
    return _counted_once(screened, parts, keep=corpora[0].keep_duplicates)


def _homes(documents: Sequence[Document]) -> list[str]:
    """Of each document the source that its group is split with: the first that has one of the group."""
    # 64 bits of each group's hash, as in first_of_equal
    keys = first_bits(document.group for document in documents)
    _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
    labels = [document.corpus for document in documents]
    return [labels[first] for first in firsts[inverse].tolist()]


def _counted_once(screened: Screened, parts: Parts, *, keep: bool) -> Parts:
    train = parts.train
    if not keep:
        train = [document for document in train if document.id not in screened.second]
    validation, test = (
        [document for document in held if document.id not in screened.copies]
        for held in (parts.validation, parts.test)
    )
    left_out = screened.left_out + len(parts.train) - len(train)
    return Parts(train, validation, test, left_out)


def split(documents: Sequence[Document], plan: Split, copies: int = 0) -> Parts:
    """Assign each document to a part by a hash of the seed and its group: adding one never moves another.

    A group is a document with its near-duplicates, or all pieces of one file. Where a part would have too
    few groups, the groups with the nearest hashes are moved into it; only then does a part depend on other
    documents.

    copies   how many documents were left out as copies, for the message
    raises   FtError when there are too few groups for all three parts
    """
    places = np.fromiter((_place(d.group, plan.seed) for d in documents), np.float64, len(documents))
    values, ranks = np.unique(places, return_inverse=True)  # one for each group
    if len(values) < LEAST:
        raise _too_few(documents, len(values), copies, plan.group)
    test_end = int(np.searchsorted(values, plan.test))
    validation_end = int(np.searchsorted(values, plan.test + plan.validation))
    test_end = min(max(test_end, LEAST_TEST), len(values) - LEAST_VALIDATION - LEAST_TRAIN)
    validation_end = min(max(validation_end, test_end + LEAST_VALIDATION), len(values) - LEAST_TRAIN)
    parts = Parts([], [], [])
    for document, rank in zip(documents, ranks.tolist(), strict=True):
        part = parts.test if rank < test_end else parts.validation if rank < validation_end else parts.train
        part.append(document)
    return parts


def sample(documents: Sequence[Document], size: int) -> list[Document]:
    """At most `size` documents, chosen by a hash of their text, since the first files may share one topic."""
    ranked = sorted(documents, key=lambda document: sha256(f"sample:{document.sha256}".encode()).digest())
    return ranked[:size]


def sample_evenly(documents: Sequence[Document], size: int) -> list[Document]:
    """A sample in which each source of a mixture has as many documents, as far as it has them."""
    labels = list(dict.fromkeys(document.corpus for document in documents))
    of_each = max(1, size // max(1, len(labels)))
    parts = ([document for document in documents if document.corpus == label] for label in labels)
    return [document for part in parts for document in sample(part, of_each)]


def document_rows(parts: Parts, *, keep_text: bool = False) -> Iterator[Row]:
    """Rows of documents.parquet; keep_text keeps the text of what is read of validation and test part."""
    kept = parts.kept if keep_text else frozenset()
    return (
        {
            "id": document.id,
            "sha256": document.sha256,
            "text_sha256": document.text_sha256,
            "group": document.group,
            "split": part,
            "corpus": document.corpus,
            "source": document.source,
            "row": document.row,
            "tainted": document.id in parts.tainted,
            "text": document.text if document.id in kept else None,
        }
        for part, documents in parts
        for document in documents
    )


def hash_rows(rows: Iterable[Row], *columns: str) -> str:
    """sha256 over some columns of documents.parquet, whatever the order of the rows."""
    return sha256(
        "".join(sorted("".join(row[name] for name in columns) for row in rows)).encode()
    ).hexdigest()


def _place(group: str, seed: int) -> float:
    """In [0, 1): test from 0 upwards, then validation, then train."""
    return int.from_bytes(sha256(f"{seed}:{group}".encode()).digest()[:8]) / 2**64


def _too_few(documents: Sequence[Document], groups: int, copies: int, column: str | None) -> FtError:
    wanted = (
        f"{LEAST} documents ({LEAST_TRAIN} to train, {LEAST_VALIDATION} to choose, {LEAST_TEST} to judge)"
    )
    found = f"{groups}, without {copies} copies" if copies else f"{groups}"
    fix = f"Add {LEAST - groups} more."
    twins = len({document.sha256 for document in documents if document.near_group})
    if column is not None:
        wanted = wanted.replace("documents", f"values of {column}", 1)
        found = f"{found}, of {len(documents)} rows"
        fix = "Rows of one value stay in one part: add rows of others, or leave split.group out."
    elif any(document.whole_sha256 for document in documents):
        wanted = wanted.replace("documents", "files", 1)
        found = f"{found}, of {len(documents)} pieces"
        fix = "Pieces of a file stay in one part: cut it in files, or put independent lines in a .jsonl."
    elif groups and sum(len(document.text) for document in documents) > BOOK_CHARACTERS * groups:
        fix = "Cut it, one file a chapter (documents: paragraph keeps a file in one part)."
    elif copies:
        fix = f"Add {LEAST - groups} more; a copy is no second document."
    elif twins:
        found = f"{found}, since {twins} documents have near-duplicates"
        fix = f"Add {LEAST - groups} more; a near-duplicate is no second document."
    return FtError("corpus", f"at least {wanted}", found, fix)
