"""How many planted near-duplicates are found, at what price: python bench/twins.py [DOCUMENTS] [PAIRS].

Documents of random words of a natural frequency; of some a twin is planted, with words replaced here and
there or with its end cut off, so that the Jaccard similarity of the pair lies between 0.7 and 1. The exact
similarity of each pair is computed from Python sets of its runs of five words, as the toolkit does not.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Sequence
from itertools import accumulate

from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.screening import screen

THRESHOLD = 0.8
EDGES = (0.7, 0.75, 0.8, 0.82, 0.85, 0.9, 0.95, 1.0)
Pair = tuple[int, int]


def planted(documents: int, pairs: int, seed: int = 0) -> tuple[list[Document], list[Pair]]:
    """Documents of 60 to 400 words, the last `pairs` of them twins of the first; and the pairs."""
    draw = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(20_000)]
    weights = list(accumulate(1 / (rank + 2) for rank in range(len(vocabulary))))
    texts = [
        draw.choices(vocabulary, cum_weights=weights, k=draw.randint(60, 400))
        for _ in range(documents - pairs)
    ]
    twins = []
    for number in range(pairs):
        words, similarity = list(texts[number]), draw.uniform(0.7, 1)
        if number % 2:  # a replaced word takes up to five runs with it, on both sides
            lost = (len(words) - 4) * (1 - similarity) / (1 + similarity)
            for place in draw.sample(range(len(words)), round(lost / 5)):
                words[place] = f"new{draw.getrandbits(64)}"
        else:
            words = words[: 4 + round((len(words) - 4) * similarity)]
        twins.append(words)
    found = [TextDocument(f"{n}.txt", 0, " ".join(words)) for n, words in enumerate([*texts, *twins])]
    return found, [(n, documents - pairs + n) for n in range(pairs)]


def exact(one: Document, other: Document) -> float:
    """Jaccard similarity of two documents' sets of five words."""
    sets = []
    for text in (one.text, other.text):
        words = text.split()
        sets.append({tuple(words[n : n + 5]) for n in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def united(documents: Sequence[Document]) -> list[Pair]:
    """All pairs of documents that share a group, by their numbers."""
    members: dict[str, list[int]] = {}
    for number, document in enumerate(screen(documents, THRESHOLD).documents):
        members.setdefault(document.group, []).append(number)
    return [(a, b) for some in members.values() for n, a in enumerate(some) for b in some[n + 1 :]]


def main() -> None:
    import datasketch  # noqa: F401  (its import is not timed)

    count, pairs = (int(value) for value in [*sys.argv[1:], 100_000, 10_000][:2])
    documents, twins = planted(count, pairs)
    megabytes = sum(len(document.text) for document in documents) / 1e6
    for document in documents:
        _ = document.sha256  # reading computes it, with or without screening
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, used = time.perf_counter(), time.process_time()
    found = set(united(documents))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    similarity = {pair: exact(documents[pair[0]], documents[pair[1]]) for pair in twins}
    for low, high in zip(EDGES, [*EDGES[1:], 2], strict=True):
        some = [pair for pair, value in similarity.items() if low <= value < high]
        share = sum(pair in found for pair in some) / max(1, len(some))
        print(f"Jaccard from {low:.2f}: {len(some):6} pairs, {100 * share:6.2f} % united")
    near = [pair for pair, value in similarity.items() if value >= THRESHOLD]
    right = sum(exact(documents[one], documents[other]) >= THRESHOLD for one, other in found)
    print(f"recall {100 * sum(pair in found for pair in near) / len(near):.2f} % of {len(near)}")
    print(f"precision {100 * right / max(1, len(found)):.2f} % of {len(found)}")
    print(
        f"{count} documents, {megabytes:.0f} MB: {seconds:.1f} s, {used:.1f} s of processor, {grown:.0f} MB"
    )
    print(f"1 GB at this pace: {used / megabytes * 1000 / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
