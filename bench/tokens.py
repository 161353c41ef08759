"""How fast a training text is tokenised, beside datasets.map: sides in turn, medians.

    python bench/tokens.py [MEGABYTES …] [--base starter/bert]

The text is of random words from 50,000 made words, in documents of some 2 KB.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

WORDS = 50_000
DOCUMENT_WORDS = 300
ROUNDS = 3


@cache
def words() -> tuple[list[str], list[float]]:
    """Made words, and their cumulative weights: as frequent as words are, by rank."""
    draw = random.Random(0)
    made = ["".join(draw.choices("etaoinshrdlcumwfgypbvk", k=draw.randint(2, 11))) for _ in range(WORDS)]
    return made, list(accumulate(1 / (rank + 10) for rank in range(WORDS)))


def text(number: int) -> str:
    made, weights = words()
    return " ".join(random.Random(number).choices(made, cum_weights=weights, k=DOCUMENT_WORDS)) + ".\n"


def count_of(megabytes: float) -> int:
    size = statistics.fmean(len(text(number)) for number in range(50))
    return round(megabytes * 1e6 / size)


def speed(megabytes: float, base: str) -> None:
    """Print seconds for a text on the disk (ours and theirs read the same Arrow file)."""
    from datasets import Dataset, load_from_disk
    from transformers import AutoTokenizer

    from ft_toolkit.references import parse_base
    from ft_toolkit.text.documents import Document, TextDocument
    from ft_toolkit.text.tokens import TokenStore, tokenised

    tokenizer: Any = AutoTokenizer.from_pretrained(str(parse_base(base).folder))
    place = Path(tempfile.mkdtemp())
    Dataset.from_dict({"text": [text(n) for n in range(count_of(megabytes))]}).save_to_disk(place / "text")
    source: Any = load_from_disk(place / "text")
    size = sum(len(one) for batch in source.iter(1000) for one in batch["text"]) / 1e6

    class Read(Sequence[Document]):
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, place: Any) -> Any:
            return TextDocument("text", place, source[place]["text"])

        def __iter__(self) -> Any:
            for start, batch in enumerate(source.iter(1000)):
                for n, one in enumerate(batch["text"]):
                    yield TextDocument("text", 1000 * start + n, one)

    def encoded(batch: dict[str, list[str]]) -> Any:
        return tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)

    def mapped(processes: int | None) -> None:
        source.map(
            encoded,
            batched=True,
            num_proc=processes,
            remove_columns=["text"],
            load_from_cache_file=False,
            cache_file_name=str(place / "mapped.arrow"),
        )

    def ours() -> None:
        shutil.rmtree(place / "tokens", ignore_errors=True)
        again()

    def again() -> None:
        tokenised(Read(), tokenizer, "t", TokenStore(place / "tokens", 10**12))

    cores = os.cpu_count() or 1
    sides: dict[str, Callable[[], None]] = {
        "ours, nothing kept": ours,
        "ours, kept": again,
        f"datasets.map, num_proc={cores}": lambda: mapped(cores),
        "datasets.map, the tokenizer's threads": lambda: mapped(None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{base}, {size:.0f} MB: {name:40} {median:7.2f} s  {size / median:7.2f} MB/s")
    shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("megabytes", nargs="*", type=float, default=[50])
    parser.add_argument("--base", default="starter/gpt2")
    asked = parser.parse_args()
    for megabytes in asked.megabytes:
        speed(megabytes, asked.base)


if __name__ == "__main__":
    main()
