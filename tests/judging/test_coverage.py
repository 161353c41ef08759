"""A 95 % interval holds the truth 95 % of the time: of documents, copies, near-duplicates and pieces."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_toolkit.judging import statistics
from ft_toolkit.sections import Corpus, Split
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.splitting import read_parts, split

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


def write_rows(path: Path, owners: int, times: int, *, near: bool) -> None:
    """`times` rows of each owner: near-duplicates of one text, or texts of their own."""
    rows = []
    for owner in range(owners):
        for number in range(times):
            words = [f"word{owner}-{0 if near else number}-{place}" for place in range(40)]
            rows.append({"text": " ".join([*words, f"version {number}"]), "patient": str(owner)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def owner_of(path: Path) -> Callable[[Document], str]:
    """Whose each row of write_rows is."""
    owners = [json.loads(line)["patient"] for line in path.read_text().splitlines()]
    return lambda document: owners[document.row]


def clustered_coverage(
    documents: Sequence[Document],
    runs: int = RUNS,
    *,
    alone: bool = False,
    pieces: int = 1,
    owner: Callable[[Document], str] = lambda document: document.source,
    text: Callable[[Document], str] = lambda document: document.sha256,
) -> float:
    """Share of simulated scorings of these documents whose interval holds the truth, in per cent.

    Each owner has an effect of its own (sd 0.1 nats a token) that its documents share, beside the tokens'
    noise; equal texts have equal scores.

    alone    the interval that takes each document for independent, instead of ours
    pieces   how long a document is: so many log-normal(4, 0.5) together
    owner    whose a document is: by default its file's
    text     what it reads like: by default only copies are equal
    """
    effect_of = {group: n for n, group in enumerate(dict.fromkeys(map(owner, documents)))}
    text_of = {each: n for n, each in enumerate(dict.fromkeys(map(text, documents)))}
    draw = np.random.default_rng([len(text_of), 7])
    texts = np.array([text_of[text(d)] for d in documents])
    first = {text_of[text(d)]: effect_of[owner(d)] for d in reversed(documents)}
    effects = np.array([first[number] for number in range(len(text_of))])
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
    return [TextDocument(f"{n}.txt", 0, f"text {n}") for n in range(documents)]


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


def test_near_duplicates_have_the_interval_of_so_many_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, 60, 10, near=True)
    test = read_parts(Corpus(source=str(path), split=Split(test=0.4)))[1].test
    whose = owner_of(path)
    texts = len(set(map(whose, test)))
    assert 8 <= texts < 30 and len(test) == 10 * texts
    monkeypatch.setattr(statistics, "DRAWS", 100)  # of the p-value, which is not looked at
    ours = clustered_coverage(test, 400, owner=whose, text=whose)
    assert abs(ours - clustered_coverage(lone(texts), 400)) <= 0.5  # the same draws, ten times each
    assert clustered_coverage(test, 40, alone=True, owner=whose, text=whose) < 60


def test_rows_of_few_patients_have_the_interval_of_so_many_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, 60, 10, near=False)
    corpus = Corpus(source=str(path), split=Split(test=0.4, group="patient"))
    test, whose = read_parts(corpus)[1].test, owner_of(path)
    patients = len(set(map(whose, test)))
    assert 8 <= patients < 30 and len(test) == 10 * patients
    monkeypatch.setattr(statistics, "DRAWS", 100)
    ours = clustered_coverage(test, 600, pieces=10, owner=whose)
    assert abs(ours - clustered_coverage(lone(patients), 600, pieces=100)) <= 2
    assert clustered_coverage(test, 40, alone=True, pieces=10, owner=whose) < 60


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
        table_of_rows(Path(name))


def table_of_rows(folder: Path) -> None:
    """Near-duplicates, and rows of one patient."""
    for owners in (60, 250):
        for near in (True, False):
            path = folder / f"{owners}-{near}.jsonl"
            write_rows(path, owners, 10, near=near)
            plan = Split(test=0.4, group=None if near else "patient")
            test, whose = read_parts(Corpus(source=str(path), split=plan))[1].test, owner_of(path)
            count = len(set(map(whose, test)))
            what = (
                f"{owners} {'texts' if near else 'patients'}, 10 {'near-duplicates' if near else 'rows'} each"
            )
            alike = {"text": whose} if near else {"pieces": 10}
            control = clustered_coverage(lone(count), pieces=1 if near else 100)
            row(what, f"{count} groups", test, test, control, owner=whose, **alike)


def row(
    what: str, judged: str, ours: list[Document], alone: list[Document], control: float, **how: Any
) -> None:
    figures = clustered_coverage(ours, **how), clustered_coverage(alone, 200, alone=True, **how), control
    print(f"| {what} | {judged} | " + " | ".join(f"{figure:.1f} %" for figure in figures) + " |", flush=True)


if __name__ == "__main__":  # the figures of docs/numbers.md: python tests/judging/test_coverage.py
    for count in (10, 30, 60, 200):
        for sd in (0.5, 1.0):
            print(f"{count} documents, log-normal(5, {sd}): {coverage(count, sd):.1f} %")
    share = coverage(200, 1.0, by_token=True)
    print(f"200 documents, log-normal(5, 1.0), tokens taken for independent: {share:.1f} %")
    table()
