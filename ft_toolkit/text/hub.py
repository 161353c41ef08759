"""Rows of data sets on the Hub: small ones from the cache of `datasets`, large ones as a stream.

A stream is read once and leaves nothing on the disk: of a data set of a terabyte the first ten thousand rows
cost the bytes of these rows. But a later reading, as by ft compare, asks the Hub again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ft_toolkit.errors import FtError
from ft_toolkit.network import hub_or_cache, hub_reason
from ft_toolkit.references import TextReference

STREAMED_BYTES = 2**30  # of its files; a data set larger than this is streamed
BOUNDED_STREAMED_BYTES = 2**26  # likewise where corpus.most_documents says how much of it is read
_COMMIT = re.compile(r"[0-9a-f]{40}")
HubRow = tuple[str, int, dict[str, Any]]  # the data set's own split, the row in it, the columns


def hub_rows(reference: TextReference, most: int | None = None) -> Iterator[HubRow]:
    """Rows of a Hub dataset, every split of it: the parts are ours to choose, by hash.

    most     how many rows will be read; None: all
    raises   FtError for a data set that is neither on the Hub nor in the cache, or that ends in the middle
    """
    import datasets

    revision = reference.revision or ""
    where = f"corpus {reference.source.removesuffix(revision)}{revision[:12]}"
    faults = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    with hub_or_cache() as silence:
        try:
            # given a bare name, datasets prefers a folder of that name in the working folder
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{reference.name}", reference.config, revision=reference.revision
            )
            if is_streamed := silence is None and _is_large(builder, most):
                splits = builder.as_streaming_dataset()
            else:
                builder.download_and_prepare()
        except faults as error:
            fix = f"Check the {'network' if silence else 'name'}."
            reason = hub_reason(error, silence)
            raise FtError(where, "a dataset on the Hub or in the cache", reason, fix) from None
        if is_streamed:
            try:
                yield from islice(_rows(splits), most)
            except faults as error:
                reason = hub_reason(error, silence)
                raise FtError(where, "rows of the Hub, streamed", reason, "Check the network.") from None
            return
    if _COMMIT.fullmatch(revision) and builder.hash != revision:
        found = f"{builder.hash[:12]}, the newest in the cache"  # which datasets falls back to
        raise FtError(where, "that revision", found, "Check the network.")
    yield from _rows(builder.as_dataset())


def _rows(splits: Any) -> Iterator[HubRow]:
    for name, rows in splits.items():
        for row, columns in enumerate(rows):
            yield str(name), row, columns


def _is_large(builder: Any, most: int | None) -> bool:
    """Whether its files are worth streaming; one that is in the cache already is not."""
    if Path(builder.cache_dir).is_dir():
        return False
    return _size_bytes(builder) > (STREAMED_BYTES if most is None else BOUNDED_STREAMED_BYTES)


def _size_bytes(builder: Any) -> int:
    """Of the files that the builder would download, as the Hub states them."""
    from huggingface_hub import HfFileSystem

    files = HfFileSystem()
    paths = [path for paths in (builder.config.data_files or {}).values() for path in paths]
    return sum(files.info(path)["size"] for path in paths if path.startswith("hf://"))
