"""Split documents into training, validation and test parts that stay stable when documents are added."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from ft_toolkit.errors import FtError
from ft_toolkit.run import Row
from ft_toolkit.sections import Corpus, Split
from ft_toolkit.text.corpus import Document, Reading, read_corpora
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
    """

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    near_duplicates: int = 0
    tainted: frozenset[str] = frozenset()

    @property
    def clean_test(self) -> list[Document]:
        """The test documents that the verdict is about; all of them, where none is clean."""
        return [document for document in self.test if document.id not in self.tainted] or self.test

    @property
    def tainted_test(self) -> list[Document]:
        return [document for document in self.test if document.id in self.tainted]

    def __iter__(self) -> Iterator[tuple[Part, list[Document]]]:
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test


def read_parts(*corpora: Corpus) -> tuple[Reading, Parts]:
    """Read a recipe's text and split it; near-duplicates share a part, and count once in training.

    raises   FtError for what cannot be read, or is too little
    """
    reading = read_corpora(*corpora)
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
    homes: dict[str, str] = {}
    for document in screened.documents:
        homes.setdefault(document.group, document.corpus)
    parts = Parts([], [], [])
    for corpus in corpora:
        label = corpus.label if len(corpora) > 1 else ""
        own = [document for document in screened.documents if homes[document.group] == label]
        try:
            found = split(own, corpus.split, 0 if label else copies)
        except FtError as error:
            raise FtError(f"corpus {label}".strip(), error.expected, error.found, error.fix) from None
        for (_, documents), (_, more) in zip(parts, found, strict=True):
            documents.extend(more)
    return _counted_once(screened, parts, keep=corpora[0].keep_duplicates)


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
    places = {group: _place(group, plan.seed) for group in dict.fromkeys(d.group for d in documents)}
    ranked = sorted(places, key=lambda group: places[group])
    if len(ranked) < LEAST:
        raise _too_few(documents, len(ranked), copies, plan.group)
    values = [places[group] for group in ranked]
    test_end = bisect_left(values, plan.test)
    validation_end = bisect_left(values, plan.test + plan.validation)
    test_end = min(max(test_end, LEAST_TEST), len(ranked) - LEAST_VALIDATION - LEAST_TRAIN)
    validation_end = min(max(validation_end, test_end + LEAST_VALIDATION), len(ranked) - LEAST_TRAIN)
    rank = {group: number for number, group in enumerate(ranked)}
    parts = Parts([], [], [])
    for document in documents:
        at = rank[document.group]
        part = parts.test if at < test_end else parts.validation if at < validation_end else parts.train
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


def document_rows(parts: Parts, *, keep_text: bool = False) -> list[Row]:
    """Rows of documents.parquet; keep_text keeps the text of all but the training part."""
    return [
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
            "text": document.text if keep_text and part != "train" else None,
        }
        for part, documents in parts
        for document in documents
    ]


def hash_rows(rows: Sequence[Row], *columns: str) -> str:
    """sha256 over some columns of documents.parquet, whatever the order of the rows."""
    return sha256(
        "".join(sorted("".join(row[name] for name in columns) for row in rows)).encode()
    ).hexdigest()


def hash_documents(documents: Sequence[Document]) -> str:
    """sha256 over the exact texts of documents, in their order."""
    return sha256("".join(document.text_sha256 for document in documents).encode()).hexdigest()


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
