"""What text a run may be judged on: its own held-out part, or other text that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.text.corpus import Document, Parts, read_corpus, read_source
from ft_toolkit.text.readers import TABLE_ENDINGS


def read_other(runs: Sequence[Run], source: str) -> list[Document]:
    """Text to judge on, cut as the runs' own was, so that a trained line is known again in a longer file."""
    corpus = runs[0].recipe.corpus
    is_table = source.startswith("hf:") or source.lower().removesuffix(".gz").endswith(TABLE_ENDINGS)
    unit = corpus.documents if corpus.documents in ("paragraph", "line") and not is_table else None
    return read_source(source, corpus.text, unit).documents


def refuse_trained_text(run: Run, documents: Sequence[Document], on: str) -> None:
    """raises   FtError naming the first document that the run learnt or was chosen by"""
    known = {row["sha256"]: row for row in run.read_table("documents.parquet") if row["split"] != "test"}
    trained = [document for document in documents if document.sha256 in known]
    if trained:
        split = known[trained[0].sha256]["split"]
        found = f"{len(trained)} of {len(documents)} in its {split} part, first {trained[0].id}"
        raise FtError(
            f"--on {on}", f"text that {run.folder} was not trained on", found, "Choose unseen text."
        )


def recovered(run: Run, screen: Screen) -> Parts:
    """The run's documents, read again and matched by hash; kept text stands in for lost files."""
    rows = run.read_table("documents.parquet")
    texts: dict[str, str] = {}
    try:
        texts = {document.sha256: document.text for document in read_corpus(run.recipe.corpus).documents}
    except FtError as error:
        screen.say(f"the corpus cannot be read again ({error}); kept text is used")
    lost = [row for row in rows if row["sha256"] not in texts]
    if lost and texts:
        names = ", ".join(row["id"] for row in lost[:3])
        screen.say(f"{len(lost)} documents changed or are missing since training: {names}; kept text is used")
    held: dict[str, list[Document]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        text = texts.get(row["sha256"]) or row["text"]
        if text is not None:
            held[row["split"]].append(Document(row["source"], row["row"], text))
    if not held["test"]:
        found = "no held-out document in the run folder or at the source"
        raise FtError(run.folder, "the held-out text", found, "Put the corpus back, or use --on.")
    return Parts(**held)
