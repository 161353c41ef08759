"""How long a corpus takes to prepare, and how much memory: bench/corpora.py [--megabytes 10 100 1000].

Made text: the words of the corpora that ship, drawn as often as they stand there, in documents of some 2 KB;
one in fifty is a near-duplicate of the one before. Each size in a process of its own, a first time and a
second one, when the text is kept. Memory that is mapped from a file is not counted as taken: the system
gives it back when others need it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ft_toolkit.text.corpus import read_source

MEAN_WORDS = 330
NEAR_SHARE = 0.02


def write_corpus(path: Path, size_bytes: int) -> None:
    """A .jsonl of about so many bytes, the same for each size up to its end."""
    draw = np.random.default_rng(0)
    shipped = ("italian-cooking", "everyday-medicine", "general-probe")
    texts = [document.text for name in shipped for document in read_source(f"package:{name}").documents]
    words = np.array(" ".join(texts).split(), dtype=object)
    written, last = 0, ""
    with path.open("w", encoding="utf-8") as file:
        while written < size_bytes:
            if last and draw.random() < NEAR_SHARE:
                text = f"{last} {words[draw.integers(len(words))]}"
            else:
                count = max(20, int(draw.lognormal(np.log(MEAN_WORDS) - 0.125, 0.5)))
                text = " ".join(words[draw.integers(len(words), size=count)])
                last = text
            line = json.dumps({"text": text}) + "\n"
            written += file.write(line)


@contextmanager
def peak(megabytes: dict[str, float], name: str) -> Iterator[None]:
    """Puts the largest anonymous memory of a block, in MB, and its seconds there."""
    is_over = threading.Event()
    seen = [anonymous_megabytes()]

    def watch() -> None:
        while not is_over.wait(0.02):
            seen.append(anonymous_megabytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started, spent = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        megabytes[name] = max(seen)
        megabytes[f"{name}: seconds"] = time.perf_counter() - started
        megabytes[f"{name}: processor"] = time.process_time() - spent


def anonymous_megabytes() -> float:
    """Of this process, without what is mapped from files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def prepare(path: str, runs: str) -> None:
    """Read, screen, split and compare one corpus, then train five steps on it; print the figures as JSON."""
    from ft_toolkit.finetune import finetune
    from ft_toolkit.judging.unseen import read_general
    from ft_toolkit.progress import Screen
    from ft_toolkit.runtime import prepare_process, prepare_torch
    from ft_toolkit.sections import Corpus, Judging, Recipe
    from ft_toolkit.text.corpus import read_corpora
    from ft_toolkit.text.overlap import marked
    from ft_toolkit.text.splitting import parted, screened_together

    found: dict[str, float] = {"start": anonymous_megabytes()}
    corpus = Corpus(source=path)
    with peak(found, "reading"):
        reading = read_corpora(corpus)
    with peak(found, "near-duplicates"):
        screened = screened_together(reading.documents, [corpus])
    with peak(found, "parts"):
        parts = parted(screened, [corpus], reading.copies)
    with peak(found, "overlap"):
        marked(parts, read_general(Judging()))
    found["documents"] = len(reading.documents)
    found["near"] = parts.near_duplicates
    del reading, screened, parts
    prepare_process()
    prepare_torch()
    recipe = Recipe.model_validate(
        {
            "name": "large",
            "base": "starter/gpt2",
            "corpus": {"source": path},
            "training": {"steps": 5, "replay": 0},
            "judging": {"most_documents": 100},
        }
    )
    with peak(found, "ft finetune, five steps"):
        finetune(recipe, Path(runs), screen=Screen(quiet=True))
    print(json.dumps(found))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[10, 100])
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(*options.prepare)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in options.megabytes:
            path = Path(folder) / f"{size:g}.jsonl"
            write_corpus(path, round(size * 1e6))
            for turn in ("first", "second"):
                command = [sys.executable, __file__, "--prepare", str(path), f"{folder}/runs"]
                environment = os.environ | {"FT_CACHE": folder}
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                shutil.rmtree(f"{folder}/runs", ignore_errors=True)
                print(f"{size:g} MB, {turn} time: {found.pop('documents'):,} documents", flush=True)
                for name, value in found.items():
                    print(f"  {name:<36} {value:8,.1f}", flush=True)


if __name__ == "__main__":
    main()
