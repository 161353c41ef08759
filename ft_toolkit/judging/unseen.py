"""Which text a run may be judged on: its held-out part, or other text that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen
from ft_toolkit.references import parse_text
from ft_toolkit.run import Run
from ft_toolkit.sections import NEAR_DUPLICATES, Corpus, Judging, Split
from ft_toolkit.text.corpus import faults_name, read_corpora, read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.known import KNOWN_FRACTION, known_fraction, word_runs
from ft_toolkit.text.readers import is_table
from ft_toolkit.text.screening import screen as screened
from ft_toolkit.text.splitting import Parts

KNOWN_TEXT = "known_text.parquet"  # hashes of the word runs of the training and validation parts


def read_general(plan: Judging) -> list[Document]:
    """The general text of a recipe; none where it has none.

    raises   FtError that names judging.general
    """
    if plan.general is None:
        return []
    with faults_name("judging.general"):
        return screened(read_source(plan.general).documents, NEAR_DUPLICATES).documents


def read_other(runs: Sequence[Run], source: str, screen: Screen) -> list[Document]:
    """Text to judge on, split into documents as the runs' own was, so that a trained line is recognised.

    Its near-duplicates share a group, and so do rows of one split.group where it has that column. Of a
    mixture the source of the same name says how it is read, else the first.
    """
    corpora = runs[0].recipe.corpora
    corpus = next((each for each in corpora if each.label == parse_text(source).label), corpora[0])
    has_rows = parse_text(source).kind == "hub" or is_table(source)
    unit = corpus.documents if corpus.documents in ("paragraph", "line") and not has_rows else None
    group = corpus.split.group if has_rows else None
    other = Corpus(
        source=source,
        text=corpus.text,
        documents=unit,
        encoding=corpus.encoding,
        redact=corpus.redact,
        split=Split(group=group),
    )
    try:
        reading = read_corpora(other)
    except FtError as error:
        if not error.where.endswith("corpus.split.group"):
            raise
        screen.say(f"{source}: not every row has a column {group}: rows count as independent")
        reading = read_corpora(other.model_copy(update={"split": Split()}))
    found = screened(reading.documents, corpus.near_duplicates)
    for count, what in (
        (reading.copies, "copies"),
        (found.left_out, "near-duplicates of other files or groups"),
    ):
        if count:
            screen.say(f"{source}: {count} {what} left out")
    return found.documents


def keep_known_text(run: Run, parts: Parts) -> None:
    """Keep hashes that recognise training text later, without keeping the text."""
    run.write_column(KNOWN_TEXT, "run", word_runs([*parts.train, *parts.validation]))


def refuse_trained_text(run: Run, documents: Sequence[Document], on: str, screen: Screen) -> None:
    """raises   FtError naming the first document that is in the run's training or validation part

    A document is recognised as a whole, or where half of it is in the training text (text/known.py); pieces
    of one source also together, since rows of a table may be lines of a file.
    """
    rows = run.read_table("documents.parquet", "sha256", "split")
    known = {row["sha256"]: row["split"] for row in rows if row["split"] != "test"}
    trained = [d for d in documents if d.sha256 in known or d.text_sha256 in known]
    if trained:
        split = known.get(trained[0].sha256) or known[trained[0].text_sha256]
        found = f"{len(trained)} of {len(documents)} in its {split} part, first {trained[0].id}"
        raise _trained_on(run, on, found)
    if not (run.folder / KNOWN_TEXT).is_file():
        if known:  # a pulled run without known documents said so when it was pulled
            screen.say(f"{run.folder} is of an older ft-toolkit: re-split training text is not recognised")
        return
    runs, identities = run.read_column(KNOWN_TEXT, "run"), frozenset(known)
    texts = [(document.id, document.text) for document in documents]
    for source, together in groupby(documents, key=lambda document: document.source):
        texts.append((source, "\n".join(document.text for document in together)))
    for name, text in texts:
        share = known_fraction(text, identities, runs)
        if share >= KNOWN_FRACTION:
            raise _trained_on(run, on, f"{100 * share:.0f} % of {name} in its training text")


def _trained_on(run: Run, on: str, found: str) -> FtError:
    wanted = f"text that {run.folder} was not trained on"
    return FtError(f"--on {on}", wanted, found, "Choose unseen text.")


def recovered(run: Run, screen: Screen) -> Parts:
    """The run's documents, read again and matched by hash; kept text stands in for lost files.

    In runs of an older ft-toolkit every document is its own group, and its sha256 is of the exact text.
    """
    rows = run.read_table("documents.parquet")
    if any("group" not in row for row in rows):
        screen.say(
            f"{run.folder} is of an older ft-toolkit: copies and pieces of one file count as independent"
        )
    texts: dict[str, Document] = {}
    try:
        reading = read_corpora(*run.recipe.corpora, keep_text=run.recipe.judging.keep_text)
        texts = {document.text_sha256: document for document in reading.documents}
    except FtError as error:
        screen.say(f"the corpus cannot be read again ({error}); kept text is used")
    exact = [str(row.get("text_sha256", row["sha256"])) for row in rows]
    lost = [row["id"] for row, digest in zip(rows, exact, strict=True) if digest not in texts]
    if lost and texts:
        names = ", ".join(lost[:3])
        screen.say(f"{len(lost)} documents changed or are missing since training: {names}; kept text is used")
    tainted = frozenset(row["id"] for row in rows if row.get("tainted"))
    parts = Parts([], [], [], tainted=tainted, most_judged=run.recipe.judging.most_documents)
    held = dict(parts)
    for row, digest in zip(rows, exact, strict=True):
        read = texts.get(digest)
        if read is not None and read.id == row["id"] and row.get("group"):
            held[row["split"]].append(read.in_group(row["group"]))
        elif (text := read.text if read else row["text"]) is not None:
            place = row["source"], row["row"], text, row.get("group")
            held[row["split"]].append(TextDocument(*place, corpus=row.get("corpus") or ""))
    if not parts.test:
        found = "no held-out document in the run folder or at the source"
        raise FtError(run.folder, "the held-out text", found, "Put the corpus back, or use --on.")
    return parts
