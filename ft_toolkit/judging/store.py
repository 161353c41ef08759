"""Scores of a base, kept by content: a second comparison with the same base reads only the adapter.

One SQLite file holds the token scores of each document under (weights, tokenizer, protocol, precision,
library versions, text). A hundredth of what is found is computed again; if it differs, the store is stale.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.text.blocks import Encoded

RECHECKED_FRACTION = 0.01
RECHECK_NATS = 1e-4  # a token: batches of other shapes round differently by some 1e-6


def store_path() -> Path:
    """Where scores are kept: FT_CACHE, else the user's cache folder."""
    cache = os.environ.get("FT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ft_toolkit" / "base-scores.sqlite"


@dataclass
class Store:
    """Token scores by content. Every trouble with the file is told through `say`, then it is made anew."""

    path: Path = field(default_factory=store_path)
    say: Callable[[str], object] = lambda message: None

    def scores(
        self,
        identity: dict[str, object],
        documents: Sequence[Encoded],
        compute: Callable[[Sequence[Encoded]], list[TokenNll]],
    ) -> list[TokenNll]:
        """Scores of all documents: kept ones read, the others computed and kept.

        identity   everything but the text that a score depends on
        compute    scores documents afresh; called for the missing ones, and for the sample that is checked
        """
        keys = [_key(identity, document) for document in documents]
        kept = self._read(keys)
        least = min(kept, default=b"")  # so that something is always checked
        sample = [i for i, key in enumerate(keys) if key in kept and (key == least or _is_drawn(key))]
        again = compute([documents[i] for i in sample]) if sample else []
        for i, fresh in zip(sample, again, strict=True):
            if (
                len(fresh) != len(kept[keys[i]])
                or np.abs(fresh - kept[keys[i]]).max(initial=0) > RECHECK_NATS
            ):
                self.say(f"kept base scores are stale ({documents[i].document.id} differs); scoring anew")
                kept = {}
                break
        missing = [i for i, key in enumerate(keys) if key not in kept]
        computed = compute([documents[i] for i in missing]) if missing else []
        new = {keys[i]: nll for i, nll in zip(missing, computed, strict=True)}
        self._write(new)
        return [kept[key] if key in kept else new[key] for key in keys]

    def size_bytes(self) -> int:
        """Of the file; 0 when there is none."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def clear(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, TokenNll]:
        if not self.path.is_file():
            return {}
        found: dict[bytes, TokenNll] = {}
        try:
            with sqlite3.connect(self.path, timeout=30) as database:
                for key in keys:
                    row = database.execute("SELECT nll, sha256 FROM scores WHERE key = ?", (key,)).fetchone()
                    if row is None:
                        continue
                    if sha256(row[0]).digest() != row[1]:
                        raise sqlite3.DatabaseError("a checksum does not hold")
                    found[key] = np.frombuffer(row[0], dtype=np.float64)
        except sqlite3.DatabaseError as error:
            self.say(f"kept base scores in {self.path} are damaged ({error}); scoring anew")
            self.clear()
            return {}
        return found

    def _write(self, scores: dict[bytes, TokenNll]) -> None:
        if not scores:
            return
        rows = [(key, nll.tobytes(), sha256(nll.tobytes()).digest()) for key, nll in scores.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(self.path, timeout=30) as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS scores"
                    " (key BLOB PRIMARY KEY, nll BLOB, sha256 BLOB) WITHOUT ROWID"
                )
                database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)
        except (OSError, sqlite3.Error) as error:  # a full or read-only cache must not cost a result
            self.say(f"base scores could not be kept in {self.path} ({error})")


def _key(identity: dict[str, object], document: Encoded) -> bytes:
    content = identity | {"text": document.document.sha256}
    return sha256(json.dumps(content, sort_keys=True).encode()).digest()


def _is_drawn(key: bytes) -> bool:
    return int.from_bytes(key[:8]) / 2**64 < RECHECKED_FRACTION
