"""Finds training text again, also where it was joined or cut differently.

A text is compared by its runs of 13 words (Brown et al. 2020, arXiv:2005.14165, appendix C): unseen text of
the same domain shares hardly any of them, a copy nearly all. Of each run a hash is kept, never its words.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ft_toolkit.text.corpus import pieces
from ft_toolkit.text.documents import Document, identity
from ft_toolkit.text.ngrams import Hashes, ngrams, word_hashes

RUN_WORDS = 13
KNOWN_FRACTION = 0.5  # a document with at least this share of training text counts as known
KEPT_RUNS = 2**21  # 16 MB; of a larger corpus the runs of the smallest hashes are kept, a random sample
LEAST_SAMPLED_RUNS = 8  # with fewer sampled runs a document's share cannot be estimated
Runs = Hashes


def word_runs(documents: Iterable[Document], most: int = KEPT_RUNS) -> Runs:
    """Hashes of all runs of 13 words of some documents, sorted; at most the `most` smallest of them."""
    kept, waiting, size = np.empty(0, dtype=np.uint64), [np.empty(0, dtype=np.uint64)], 0
    for document in documents:
        runs = ngrams(document.words, RUN_WORDS)
        waiting.append(runs[runs < kept[-1]] if len(kept) == most else runs)  # others are not kept anyway
        size += len(waiting[-1])
        if size > most:  # of a large corpus never all runs at once
            kept, waiting, size = np.unique(np.concatenate([kept, *waiting]))[:most], [], 0
    return np.unique(np.concatenate([kept, *waiting]))[:most]


def known_fraction(text: str, identities: frozenset[str], runs: Runs, most: int = KEPT_RUNS) -> float:
    """The share of a text that is in the training text which `identities` and `runs` were made from.

    The largest of four shares: of its characters in whole documents that were trained on (itself, its
    paragraphs, its lines), and of its runs of 13 words. A shorter text is compared as a whole.
    """
    shares = [0.0]
    for unit in ("file", "paragraph", "line"):
        found = [(len(piece.strip()), identity(piece) in identities) for piece in pieces(text, unit)]
        shares.append(sum(size for size, is_known in found if is_known) / max(1, sum(s for s, _ in found)))
    own, is_sample = _runs(text), len(runs) == most
    if is_sample:
        own = own[own <= runs[-1]]
    if len(own) >= (LEAST_SAMPLED_RUNS if is_sample else 1):
        shares.append(float(np.isin(own, runs).mean()))
    return max(shares)


def _runs(text: str) -> Runs:
    """A hash of each run of RUN_WORDS words, without case and punctuation."""
    return ngrams(word_hashes(text), RUN_WORDS)
