"""How fast a training text is tokenised, and how much memory it takes from there to five training steps.

    python bench/tokens.py speed [MEGABYTES] [--base starter/bert]     beside datasets.map, in turn, medians
    python bench/tokens.py memory [MEGABYTES …] [--base starter/gpt2]  peaks, each size in its own process

The text is of random words from 50,000 made words, in documents of some 2 KB.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

WORDS = 50_000
DOCUMENT_WORDS = 300
ROUNDS = 3
STEPS = 5


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


# --- speed ------------------------------------------------------------------------------------------


def speed(megabytes: float, base: str) -> None:
    """Print seconds for a text on the disk (ours and theirs read the same Arrow file)."""
    from datasets import Dataset, load_from_disk
    from transformers import AutoTokenizer

    from ft_toolkit.references import parse_base
    from ft_toolkit.text.documents import Document
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
            return Document("text", place, source[place]["text"])

        def __iter__(self) -> Any:
            for start, batch in enumerate(source.iter(1000)):
                for n, one in enumerate(batch["text"]):
                    yield Document("text", 1000 * start + n, one)

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


# --- memory -----------------------------------------------------------------------------------------


def status(*names: str) -> list[float]:
    """Megabytes of this process by the kernel's names."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(lines[name].split()[0]) / 1024 for name in names]


@contextmanager
def peaks() -> Any:
    """[anonymous, total] resident megabytes at their highest, sampled."""
    found, is_over = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            found[:] = map(max, found, status("RssAnon", "VmRSS"))

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    is_over.set()
    thread.join()


def trained(megabytes: float, base_name: str) -> None:
    """From documents that are made on access to five steps; print peaks and times."""
    from ft_toolkit.runtime import prepare_process, prepare_torch

    prepare_process()
    prepare_torch()
    from ft_toolkit.material import laid_out
    from ft_toolkit.models.checkpoints import load_base
    from ft_toolkit.models.model_pair import new_pair
    from ft_toolkit.progress import Screen
    from ft_toolkit.sections import Recipe
    from ft_toolkit.session import Session
    from ft_toolkit.text.documents import Document
    from ft_toolkit.text.splitting import Parts
    from ft_toolkit.training.accelerator import make_accelerator
    from ft_toolkit.training.loop import Journal, TrainingJob, train
    from ft_toolkit.training.optimizers import make_optimizers

    count = count_of(megabytes)

    class Made(Sequence[Document]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, place: Any) -> Any:
            return Document("made", range(count)[place], text(range(count)[place]))

    training = {"steps": STEPS, "batch_tokens": 2048}
    values = {"name": "bench", "base": base_name, "corpus": {"source": "none"}, "training": training}
    recipe = Recipe.model_validate(values)
    base = load_base(base_name)
    with peaks() as found:
        started = time.perf_counter()
        documents: Any = Made()
        filled, rows, _ = laid_out(recipe, base, Parts(documents, [], []))
        prepared = time.perf_counter() - started
        model = new_pair(base, filled.adapter, 0).tuned
        optimizers = make_optimizers(model.model, model.family, filled.adapter)
        job = TrainingJob(model, rows, filled.training, optimizers, lambda: 0.0)
        moments: list[float] = []
        session = Session(make_accelerator("cpu"), Screen(quiet=True), None)
        train(job, session, Journal(lambda line: moments.append(time.perf_counter())))
    kept = status("VmHWM")[0]
    tokens = rows.outline.tokens / 1e6
    first = moments[0] - started - prepared
    print(
        f"{base_name}, {megabytes:5.0f} MB, {tokens:6.1f} M tokens, {len(rows):8} rows: "
        f"anonymous {found[0]:5.0f} MB, total {found[1]:5.0f} MB (kernel's peak {kept:.0f}); "
        f"tokens and rows {prepared:.1f} s, then {first:.1f} s to the end of the first step"
    )


def memory(sizes: Sequence[float], base: str) -> None:
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for _ in ("tokenised", "read"):  # the second process reads what the first one kept
                command = [sys.executable, __file__, "trained", str(megabytes), "--base", base]
                subprocess.run(command, check=True, env=os.environ | {"FT_CACHE": folder})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "trained"])
    parser.add_argument("megabytes", nargs="*", type=float)
    parser.add_argument("--base", default="starter/gpt2")
    asked = parser.parse_args()
    if asked.what == "memory":
        memory(asked.megabytes or [10, 100], asked.base)
    else:
        for megabytes in asked.megabytes or [50]:
            (speed if asked.what == "speed" else trained)(megabytes, asked.base)


if __name__ == "__main__":
    main()
