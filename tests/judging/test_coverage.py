"""A 95 % interval holds the truth about 95 % of the time: of documents, of copies and of pieces of files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ft_toolkit.judging import statistics
from ft_toolkit.sections import Split
from ft_toolkit.text.corpus import Document, read_source
from ft_toolkit.text.splitting import split

RUNS = 1000
TRUTH_NATS = -0.05
LEAST_DRAWS = 2000


def coverage(documents: int, log_sd: float, runs: int = RUNS, *, by_token: bool = False) -> float:
    """Share of simulated corpora whose interval holds the truth, in per cent.

    by_token   the interval that takes tokens for independent, instead of ours

    Lengths are log-normal(5, log_sd); each document has its own effect (sd 0.1 nats a token) besides the
    tokens' noise (sd 1 nat), so tokens of one document move together.
    """
    draw = np.random.default_rng([documents, round(10 * log_sd)])
    held = 0
    for seed in range(runs):
        tokens = np.maximum(1, draw.lognormal(5, log_sd, documents).round()).astype(np.int64)
        base = 4.0 * tokens + draw.normal(0, 1, documents) * np.sqrt(tokens)
        change = tokens * (TRUTH_NATS + draw.normal(0, 0.1, documents)) + draw.normal(
            0, 1, documents
        ) * np.sqrt(tokens)
        if by_token:  # each token's difference has the documents' variance and its own
            reach = 1.96 * np.sqrt((0.1**2 + 1) / tokens.sum())
            held += abs(change.sum() / tokens.sum() - TRUTH_NATS) <= reach
            continue
        found = statistics.paired_difference(base, base + change, tokens, seed=seed)
        assert found.low is not None and found.high is not None
        held += found.low <= TRUTH_NATS <= found.high
    return 100 * held / runs


@pytest.mark.parametrize("log_sd", [0.5, 1.0])
def test_the_interval_of_200_documents_holds_the_truth_as_often_as_it_says(
    log_sd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "DRAWS", LEAST_DRAWS)
    assert 92.5 <= coverage(200, log_sd) <= 97.5


def held_out(folder: Path, *, unit: str | None = None, seed: int = 0) -> list[Document]:
    """The test part of a folder, as a run reads and splits it."""
    reading = read_source(str(folder), unit=unit)
    return split(reading.documents, Split(test=0.4, seed=seed)).test


def write_copies(folder: Path, documents: int, times: int) -> None:
    """Each text `times` times: as it is, with a newline at its end, with Windows line ends, with blanks."""
    for number in range(documents):
        for copy, end in zip(
            range(times), ("", "\n", "\r\n", "  \n", "\n\n", " ", "\n ", " \r\n"), strict=False
        ):
            (folder / f"{number}-{copy}.txt").write_bytes(f"text\nof document {number}{end}".encode())


def write_pieces(folder: Path, files: int, paragraphs: int) -> None:
    for number in range(files):
        text = "\n\n".join(f"paragraph {k} of file {number}" for k in range(paragraphs))
        (folder / f"{number}.txt").write_text(text)


def clustered_coverage(
    documents: Sequence[Document], runs: int = RUNS, *, alone: bool = False, pieces: int = 1
) -> float:
    """Share of simulated scorings of these documents whose interval holds the truth, in per cent.

    Each file has an effect of its own (sd 0.1 nats a token) that its pieces share, beside the tokens' noise;
    equal texts have equal scores.

    alone    the interval that takes each document for independent, instead of ours
    pieces   how long a document is: so many log-normal(4, 0.5) together
    """
    draw = np.random.default_rng([len(documents), 7])
    effect_of = {group: n for n, group in enumerate(dict.fromkeys(d.source for d in documents))}
    text_of = {text: n for n, text in enumerate(dict.fromkeys(d.sha256 for d in documents))}
    texts = np.array([text_of[d.sha256] for d in documents])
    first = {text_of[d.sha256]: effect_of[d.source] for d in reversed(documents)}
    effects = np.array([first[text] for text in range(len(text_of))])
    held = 0
    for seed in range(runs):
        lengths = draw.lognormal(4, 0.5, (len(text_of), pieces))
        tokens = np.maximum(1, lengths.round()).sum(1).astype(np.int64)
        noise = draw.normal(0, 1, len(text_of)) * np.sqrt(tokens)
        change = (tokens * (TRUTH_NATS + draw.normal(0, 0.1, len(effect_of))[effects]) + noise)[texts]
        base = 4.0 * tokens[texts]
        groups = None if alone else [document.group for document in documents]
        found = statistics.paired_difference(base, base + change, tokens[texts], seed=seed, groups=groups)
        assert found.low is not None and found.high is not None
        held += found.low <= TRUTH_NATS <= found.high
    return 100 * held / runs


def lone(documents: int) -> list[Document]:
    return [Document(f"{n}.txt", 0, f"text {n}") for n in range(documents)]


def test_copies_count_once_and_the_interval_is_that_of_so_many_documents(tmp_path: Path) -> None:
    write_copies(tmp_path, documents=60, times=8)
    test = held_out(tmp_path)
    assert len(test) == len({document.text.strip() for document in test}) < 30
    assert abs(clustered_coverage(test, 400) - clustered_coverage(lone(len(test)), 400)) <= 2


def test_paragraphs_of_few_files_have_the_interval_of_so_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pieces(tmp_path, files=60, paragraphs=15)
    test = held_out(tmp_path, unit="paragraph")
    files = len({document.source for document in test})
    assert 8 <= files < 30 and len(test) == 15 * files
    monkeypatch.setattr(statistics, "DRAWS", 500)  # of the p-value, which is not looked at
    assert abs(clustered_coverage(test, 2000) - clustered_coverage(lone(files), 2000, pieces=15)) <= 2
    assert clustered_coverage(test, 40, alone=True) < 80


def table() -> None:
    """The table of docs/log.md; the standard error of a coverage of 1,000 runs is some 0.7 points."""
    statistics.DRAWS = LEAST_DRAWS
    print("| corpus | judged on | coverage | each for itself | so many independent documents |")
    with tempfile.TemporaryDirectory() as name:
        for documents in (60, 100, 250):
            folder = Path(name) / f"copies-{documents}"
            folder.mkdir()
            write_copies(folder, documents, 8)
            once = held_out(folder)
            every = [document for document in once for _ in range(8)]
            control = clustered_coverage(lone(len(once)))
            row(f"{documents} documents 8 times", f"{len(once)} documents", once, every, control)
        for files, paragraphs in ((40, 15), (100, 15), (250, 5)):
            folder = Path(name) / f"pieces-{files}"
            folder.mkdir()
            write_pieces(folder, files, paragraphs)
            test = held_out(folder, unit="paragraph")
            groups = len({document.group for document in test})
            control = clustered_coverage(lone(groups), pieces=paragraphs)
            row(f"{files} files of {paragraphs} paragraphs", f"{groups} files", test, test, control)


def row(what: str, judged: str, ours: list[Document], alone: list[Document], control: float) -> None:
    figures = clustered_coverage(ours), clustered_coverage(alone, 200, alone=True), control
    print(f"| {what} | {judged} | " + " | ".join(f"{figure:.1f} %" for figure in figures) + " |", flush=True)


if __name__ == "__main__":  # the figures of docs/numbers.md: python tests/judging/test_coverage.py
    for count in (10, 30, 60, 200):
        for sd in (0.5, 1.0):
            print(f"{count} documents, log-normal(5, {sd}): {coverage(count, sd):.1f} %")
    share = coverage(200, 1.0, by_token=True)
    print(f"200 documents, log-normal(5, 1.0), tokens taken for independent: {share:.1f} %")
    table()
