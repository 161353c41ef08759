"""The NLL of each token under base and adapter; every figure of a comparison is a sum of these.

They are kept in the run folder, so that comparing and reporting need no model. Nothing here imports torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from ft_toolkit.errors import FtError
from ft_toolkit.judging.frequency import UNKNOWN
from ft_toolkit.judging.protocols import Protocol
from ft_toolkit.judging.totals import TokenNll, Totals, token_totals
from ft_toolkit.run import Run

SCHEMA = 1
TOKENS, DOCUMENTS = "scores/tokens.parquet", "scores/documents.parquet"
# In "drift" and "divergence" no NLL is kept: adapter_nats is KL(base ‖ tuned) of the predictions at a token,
# base_nats is 0, and adapter_top1 says whether their likeliest word is the same.
# "tainted" is held-out text that mostly stands in the training text, too. "source" is of comparisons alone:
# the held-out text of one source of a mixture, whose scores are among those of "held-out".
Kind = Literal["held-out", "source", "tainted", "general", "train", "other", "drift", "divergence"]
_METADATA = b"ft_toolkit"
# The nats are float32 stored as float64: split into byte planes, the low planes are zeros and compress away.
_ENCODING: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["corpus", "split", "side", "train_count_bits"],
    "column_encoding": {
        "document": "DELTA_BINARY_PACKED",
        "position": "DELTA_BINARY_PACKED",
        "id": "BYTE_STREAM_SPLIT",
        "base_nats": "BYTE_STREAM_SPLIT",
        "adapter_nats": "BYTE_STREAM_SPLIT",
    },
}
_SIDES = ("base", "adapter", "both")
_COLUMNS = (
    "document",
    "position",
    "id",
    "side",
    "is_fresh",
    "train_count_bits",
    "base_nats",
    "base_top1",
    "adapter_nats",
    "adapter_top1",
)
_CURE = "Score anew: ft compare --rescore."


@dataclass(frozen=True)
class Subject:
    """What was compared, and how."""

    name: str
    base_name: str
    tokenizer_sha256: str
    own_tokenizer_sha256: str | None  # of the trained model, where it is not the base's
    knows_training_text: bool  # False for an adapter from elsewhere, which may have seen any text
    protocol: Protocol


@dataclass(frozen=True, eq=False)
class Side:
    """One document under one model; every array is (n,)."""

    ids: NDArray[np.int32] | None  # None where the text is not kept: ids are text
    is_fresh: NDArray[np.bool_]  # outside lines that other documents have too
    nats: TokenNll  # NaN where the protocol does not score
    is_top1: NDArray[np.bool_]  # no other token had a higher probability
    train_count_bits: NDArray[np.int8] | None = None  # frequency.count_bits; None where nothing was counted


@dataclass(frozen=True, eq=False)
class DocumentScores:
    """One document under both models; they read the same tokens unless the adapter has its own tokenizer."""

    id: str
    group: int  # the unit of resampling; a number, since a hash would let a short text be guessed
    bytes: int
    words: int | None
    base: Side
    adapter: Side
    source: str | None = None  # in a mixture the label of the source that it is of

    def totals(self, *, fresh: bool = False) -> tuple[Totals, Totals]:
        """(base, adapter), both divided by the base's token count, so that they share one unit.

        fresh   of the tokens outside repeated lines alone
        """
        base, adapter = (
            token_totals(
                np.where(side.is_fresh, side.nats, np.nan) if fresh else side.nats, self.bytes, self.words
            )
            for side in (self.base, self.adapter)
        )
        return base, replace(adapter, tokens=base.tokens)


@dataclass(frozen=True, eq=False)
class CorpusScores:
    """One set of documents under both models, paired by document."""

    corpus: str
    kind: Kind
    documents: list[DocumentScores]
    scored_fraction: float  # of the tokens; below 1 they are a seeded sample
    unknown_fraction: float  # of the tokens that are [UNK]

    @property
    def base(self) -> list[Totals]:
        """Of each document."""
        return [base for base, _ in self.totals()]

    @property
    def adapter(self) -> list[Totals]:
        """Of each document, with the base's number of tokens."""
        return [adapter for _, adapter in self.totals()]

    def totals(self, *, fresh: bool = False) -> list[tuple[Totals, Totals]]:
        """(of the base, of the adapter) of each document; fresh: of the tokens outside repeated lines."""
        return [document.totals(fresh=True) for document in self.documents] if fresh else self._totals

    @cached_property
    def _totals(self) -> list[tuple[Totals, Totals]]:
        return [document.totals() for document in self.documents]

    def rows(self) -> list[dict[str, Any]]:
        """A row a document and side, as scores/documents.parquet holds them."""
        return [
            {"corpus": self.corpus, "split": self.kind, "document": document.id, "group": document.group}
            | {"side": side}
            | totals.as_dict()
            for side, scored in (("base", self.base), ("adapter", self.adapter))
            for document, totals in zip(self.documents, scored, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class TokenScores:
    """All that a comparison is computed from; written once, and read back bit by bit.

    made_from   a hash of what was scored, and of how that was asked for: whoever reads it can tell what
                has changed since
    """

    subject: Subject
    corpora: Sequence[CorpusScores]
    made_from: str | None = None

    def write(self, run: Run) -> None:
        """Write both files to a run's folder, or to one like it, each whole or not at all."""
        run.write_table(DOCUMENTS, self._document_rows())
        run.write_parquet(TOKENS, self._table(), **_ENCODING)

    @classmethod
    def read(cls, run: Run) -> TokenScores:
        """Read what write wrote.

        raises   FtError for a file that is missing, damaged, newer, or not of the other one's documents
        """
        path = run.folder / TOKENS
        try:
            rows = run.read_table(DOCUMENTS)
        except FtError as error:
            raise FtError(error.where, error.expected, error.found, _CURE) from None
        try:
            data = io.BytesIO(path.read_bytes())  # pyarrow would keep a file handle open
            if run.recorded_sha256(TOKENS) not in (None, sha256(data.getbuffer()).hexdigest()):
                raise ValueError("not the bytes that were written")
            table = parquet.read_table(data, page_checksum_verification=True)
            about = json.loads(table.schema.metadata[_METADATA])
            if about["schema"] > SCHEMA:
                wanted, found = f"schema {SCHEMA} or older", f"schema {about['schema']}"
                raise FtError(path, wanted, found, "Upgrade ft-toolkit.")
            protocol = Protocol.from_dict(about["subject"].pop("protocol"))
            scores = cls(
                Subject(**about["subject"], protocol=protocol),
                list(_corpora(table, rows, about["corpora"])),
                about["made_from"],
            )
            if scores._document_rows() != rows:
                raise ValueError(f"its sums are not those of {DOCUMENTS}")
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise FtError(path, "the scores of each token", f"a damaged file ({reason})", _CURE) from None
        return scores

    def _document_rows(self) -> list[dict[str, Any]]:
        """With the source of each document, where any is of a mixture."""
        named = [
            (row, source)
            for corpus in self.corpora
            for row, source in zip(corpus.rows(), 2 * [each.source for each in corpus.documents], strict=True)
        ]
        is_mixed = any(source for _, source in named)
        return [row | {"source": source} if is_mixed else row for row, source in named]

    def _table(self) -> pa.Table:
        """A row a token, in the order of the corpora, their documents and their tokens.

        Where both models read the same tokens a row holds both sides; else each side has rows of its own.
        """
        is_shared = self.subject.own_tokenizer_sha256 is None
        rows = [
            [row for number, one in enumerate(corpus.documents) for row in _rows(number, one, is_shared)]
            for corpus in self.corpora
        ]
        sizes = [sum(len(row["id"]) for row in some) for some in rows]
        joined = {name: np.concatenate([row[name] for some in rows for row in some]) for name in _COLUMNS}
        columns = {
            "corpus": _repeated([corpus.corpus for corpus in self.corpora], sizes),
            "split": _repeated([corpus.kind for corpus in self.corpora], sizes),
            "document": pa.array(joined["document"]),
            "position": pa.array(joined["position"]),
            "id": pa.array(joined["id"], mask=joined["id"] < 0),
            "side": pa.DictionaryArray.from_arrays(joined["side"], list(_SIDES)),
            "is_fresh": pa.array(joined["is_fresh"]),
            "train_count_bits": pa.array(joined["train_count_bits"], mask=joined["train_count_bits"] < 0),
        }
        for side in ("base", "adapter"):
            is_left_out = np.isnan(joined[f"{side}_nats"])
            columns[f"{side}_nats"] = pa.array(joined[f"{side}_nats"], mask=is_left_out)
            columns[f"{side}_top1"] = pa.array(joined[f"{side}_top1"], mask=is_left_out)
        about = {
            "schema": SCHEMA,
            "subject": asdict(self.subject) | {"protocol": self.subject.protocol.as_dict()},
            "made_from": self.made_from,
            "corpora": [
                {
                    "corpus": corpus.corpus,
                    "kind": corpus.kind,
                    "documents": len(corpus.documents),
                    "rows": size,
                    "scored_fraction": corpus.scored_fraction,
                    "unknown_fraction": corpus.unknown_fraction,
                }
                for corpus, size in zip(self.corpora, sizes, strict=True)
            ],
        }
        return pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(about).encode()})


def _repeated(names: Sequence[str], sizes: Sequence[int]) -> pa.DictionaryArray:
    """Each name so many times."""
    different = list(dict.fromkeys(names))
    codes = np.array([different.index(name) for name in names], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(np.repeat(codes, sizes), different)


def _rows(number: int, scored: DocumentScores, is_shared: bool) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns of one document: once with both sides, or once for each."""
    base, adapter = scored.base, scored.adapter
    for code, first in enumerate([base] if is_shared else [base, adapter]):
        count, bits = len(first.nats), first.train_count_bits
        nothing = np.full(count, np.nan), np.zeros(count, dtype=np.bool_)
        of_base = (base.nats, base.is_top1) if is_shared or first is base else nothing
        of_adapter = (adapter.nats, adapter.is_top1) if is_shared or first is adapter else nothing
        yield {
            "document": np.full(count, number, dtype=np.int32),
            "position": np.arange(count, dtype=np.int32),
            "id": np.full(count, -1, dtype=np.int32) if first.ids is None else first.ids,
            "side": np.full(count, _SIDES.index("both") if is_shared else code, dtype=np.int8),
            "is_fresh": first.is_fresh,
            "train_count_bits": np.full(count, UNKNOWN, dtype=np.int8) if bits is None else bits,
            "base_nats": of_base[0],
            "base_top1": of_base[1],
            "adapter_nats": of_adapter[0],
            "adapter_top1": of_adapter[1],
        }


def _corpora(
    table: pa.Table, rows: Sequence[dict[str, Any]], about: Sequence[dict[str, Any]]
) -> Iterator[CorpusScores]:
    """The corpora of a table of tokens, with the documents of their rows in scores/documents.parquet."""
    if "train_count_bits" not in table.column_names:  # a file of an older release
        table = table.append_column("train_count_bits", pa.nulls(len(table), pa.int8()))
    values = {name: _numbers(table[name]) for name in _COLUMNS if name != "side"}
    values["side"] = np.array([_SIDES.index(name) for name in table["side"].to_pylist()], dtype=np.int8)
    ends = accumulate((each["rows"] for each in about), initial=0)
    of_documents = accumulate((2 * each["documents"] for each in about), initial=0)
    for each, (start, stop), first in zip(about, pairwise(ends), of_documents, strict=False):
        some = {name: column[start:stop] for name, column in values.items()}
        edges = np.searchsorted(some["document"], np.arange(each["documents"] + 1))
        documents = []
        for row, (begin, end) in zip(rows[first:], pairwise(edges), strict=False):
            own = {name: column[begin:end] for name, column in some.items()}
            base, adapter = (_side(own, side) for side in ("base", "adapter"))
            about_it = row["document"], row["group"], row["bytes"], row["words"]
            documents.append(DocumentScores(*about_it, base, adapter, row.get("source")))
        fractions = each["scored_fraction"], each["unknown_fraction"]
        yield CorpusScores(each["corpus"], each["kind"], documents, *fractions)


def _side(columns: dict[str, NDArray[Any]], side: str) -> Side:
    """One side of one document's rows."""
    is_own = np.isin(columns["side"], (_SIDES.index(side), _SIDES.index("both")))
    ids, bits = columns["id"][is_own], columns["train_count_bits"][is_own]
    return Side(
        None if (ids < 0).any() else ids,
        columns["is_fresh"][is_own],
        columns[f"{side}_nats"][is_own],
        columns[f"{side}_top1"][is_own],
        None if (bits == UNKNOWN).any() else bits,
    )


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """NaN, False and -1 where there is nothing."""
    if pa.types.is_boolean(column.type):
        column = column.fill_null(False)
    elif pa.types.is_integer(column.type):
        column = column.fill_null(-1)
    return np.asarray(column.to_numpy())
