"""A cache of base scores: a second comparison with the same base scores only the adapter.

One SQLite file; the key is a hash of everything that changes a score. A list of documents is one entry: its
texts share batches, and a text in another batch rounds differently, which would look like a difference
between base and adapter. One per cent of a hit is scored again; if it differs, the entry is stale.
Samples that were drawn from a base (drift.py) are entries of their own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from ft_toolkit.judging.totals import Scored, TokenNll
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.rows import Ids

RECHECKED_FRACTION = 0.01
FORMAT = 2  # of what is kept under a key: nats, then top-1 flags
RECHECK_NATS = 1e-4  # a token: batches of other shapes round differently by some 1e-6


@dataclass
class Store:
    """Token scores by content. Problems with the file are reported through `say` and never cost a result.

    A damaged file is replaced. A file that is locked or not readable is left alone.
    """

    path: Path
    say: Callable[[str], object] = lambda message: None
    patience_seconds: float = 10  # for another process that writes

    def scores(
        self,
        identity: dict[str, object],
        documents: Sequence[Encoded],
        compute: Callable[[Sequence[Encoded]], list[Scored]],
    ) -> list[Scored]:
        """Scores of all documents: from the cache if exactly this list was scored before, else computed and
        kept.

        identity   everything but the text that a score depends on
        compute    scores documents, each by itself; called for all of them, or for the sample that is checked
        """
        if not documents:
            return []
        key = _key(identity, documents)
        try:
            data = self._read(key)
        except sqlite3.OperationalError as error:
            self.say(f"kept base scores in {self.path} cannot be read ({error}); scoring without them")
            return compute(documents)
        if data is not None:
            kept = _unpacked(data)
            cuts = np.cumsum([len(document.ids) for document in documents])[:-1]
            parts = zip(*(np.split(column, cuts) for column in kept), strict=True)
            scores = [Scored(*part) for part in parts]
            sample = _sample(documents)
            again = compute([documents[i] for i in sample])
            stale = [
                i for i, fresh in zip(sample, again, strict=True) if not _agree(fresh.nats, scores[i].nats)
            ]
            if not stale:
                return scores
            self.say(f"kept base scores are stale ({documents[stale[0]].document.id} differs); scoring anew")
        computed = compute(documents)
        nats, is_top1 = (np.concatenate(column) for column in zip(*computed, strict=True))
        self._write(key, nats.tobytes() + is_top1.tobytes())
        return computed

    def samples(self, identity: dict[str, object], draw: Callable[[], list[Ids]]) -> list[Ids]:
        """Token ids that a base wrote: read where they were drawn before, else drawn and kept.

        identity   everything that a draw depends on
        """
        key = _key({"drawn": identity}, [])
        try:
            data = self._read(key)
        except sqlite3.OperationalError as error:
            self.say(f"kept samples in {self.path} cannot be read ({error}); drawing them anew")
            return draw()
        if data is not None:
            count, *_ = values = np.frombuffer(data, dtype=np.int32)
            return np.split(values[1 + count :], np.cumsum(values[1 : 1 + count])[:-1])
        drawn = draw()
        lengths = [len(ids) for ids in drawn]
        self._write(key, np.concatenate([[len(drawn)], lengths, *drawn]).astype(np.int32).tobytes())
        return drawn

    def clear(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=self.patience_seconds)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS scores"
                " (key BLOB PRIMARY KEY, nll BLOB, sha256 BLOB) WITHOUT ROWID"
            )
            yield database

    def _read(self, key: bytes) -> bytes | None:
        """raises   sqlite3.OperationalError where the file is whole but cannot be read now"""
        if not self.path.is_file():
            return None
        try:
            with self._open() as database:
                row = database.execute("SELECT nll, sha256 FROM scores WHERE key = ?", (key,)).fetchone()
            if row is not None and sha256(row[0]).digest() != row[1]:
                raise sqlite3.DatabaseError("a checksum does not hold")
        except sqlite3.OperationalError:  # locked, or not ours to read: a kind of DatabaseError
            raise
        except sqlite3.DatabaseError as error:
            self.say(f"kept base scores in {self.path} are damaged ({error}); scoring anew")
            self.clear()
            return None
        return None if row is None else bytes(row[0])

    def _write(self, key: bytes, data: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database:
                row = (key, data, sha256(data).digest())
                database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", row)
        except (OSError, sqlite3.Error) as error:  # a full or read-only cache must not cost a result
            self.say(f"base scores could not be kept in {self.path} ({error})")


def _key(identity: dict[str, object], documents: Sequence[Encoded]) -> bytes:
    digest = sha256(json.dumps([FORMAT, identity], sort_keys=True).encode())
    for document in documents:
        # seeded draws depend on the text, and whole-word masking on its words
        for part in (document.key.to_bytes(8), document.ids.tobytes(), document.word_ids.tobytes()):
            digest.update(len(part).to_bytes(8) + part)
    return digest.digest()


def _sample(documents: Sequence[Encoded]) -> list[int]:
    """Which documents are checked: a hundredth, drawn by hash, and always one."""
    shares = [document.key / 2**64 for document in documents]
    least = min(shares)
    return [i for i, share in enumerate(shares) if share < RECHECKED_FRACTION or share == least]


def _unpacked(data: bytes) -> Scored:
    """Nine bytes a token: float64, and one for true or false."""
    tokens = len(data) // 9
    flags = np.frombuffer(data, dtype=np.bool_, offset=8 * tokens)
    return Scored(np.frombuffer(data, dtype=np.float64, count=tokens), flags)


def _agree(fresh: TokenNll, kept: TokenNll) -> bool:
    """Equal within a tolerance, and with the same tokens left out; a NaN would pass any comparison."""
    return fresh.shape == kept.shape and np.allclose(fresh, kept, rtol=0, atol=RECHECK_NATS, equal_nan=True)
