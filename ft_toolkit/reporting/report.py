"""report.html: a run's artefacts as one page. It needs no model, and imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import RESTORE, reason_of, written_whole
from ft_toolkit.errors import FtError
from ft_toolkit.judging.attacks import attack
from ft_toolkit.judging.audit import influence_lines, membership_words, verbatim_words
from ft_toolkit.judging.bands import corpus_bands, influences
from ft_toolkit.judging.comparison import Comparison
from ft_toolkit.judging.run_scores import read
from ft_toolkit.judging.token_scores import TOKENS, CorpusScores, TokenScores
from ft_toolkit.judging.verbatim import verbatim
from ft_toolkit.judging.verdict import gap_line, judge, kl_words
from ft_toolkit.judging.vocabulary import read_vocabulary
from ft_toolkit.reporting import tables
from ft_toolkit.reporting.figures import dot_plot, evenly, learning_curve
from ft_toolkit.reporting.page import language, page
from ft_toolkit.reporting.passages import PASSAGE_TOKENS, RARE_WORDS, token_map
from ft_toolkit.run import Run

DOTS = 1000
Values = dict[str, Any]


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write report.html from what is in a run folder; what the run has not got is left out.

    out      another file than the run's own report.html
    raises   FtError for a damaged artefact
    """
    text = report(run)
    if out is None:
        return run.write("report.html", text)
    with run.writing(out), written_whole(out) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return out


def report(run: Run) -> str:
    """The page of one run."""
    values: Values = {"name": run.folder.name, "recipe": run.recipe, "command": tables.command(run)}
    values |= {"base": tables.shown_base(run.recipe.base), "keeps_text": run.recipe.judging.keep_text}
    values |= {"language": language(run.recipe.corpora[0].language), "trained": run.facts.get("training")}
    values |= {"corpus_facts": tables.corpus_facts(run), "cost_facts": tables.cost_facts(run)}
    values |= {"making_facts": tables.making_facts(run), "curve": None, "judged": None, "scored": None}
    if values["trained"]:
        values["curve"] = learning_curve(*metrics_of(run), values["trained"]["best_step"])
    if (run.folder / "comparison.json").is_file():
        comparison = Comparison.from_dict(run.comparison)
        values["judged"] = _judged(comparison, run.folder.name)
        if (run.folder / TOKENS).is_file():
            values["scored"] = _scored(run, read(run), comparison)
    return page("report.html", **values)


def metrics_of(run: Run) -> tuple[list[dict[str, Any]], float]:
    """(lines of metrics.jsonl, validation NLL a token before the first step); no lines without a training.

    raises   FtError for a damaged metrics.jsonl
    """
    path, trained = run.folder / "metrics.jsonl", run.facts.get("training")
    if not trained or not path.is_file():
        return [], 0.0
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(line, dict) and "step" in line for line in lines):
            raise ValueError("a line without its step")
    except ValueError as error:
        raise FtError(path, "a JSON object a line", reason_of(error), RESTORE) from None
    return lines, trained["base_validation_nats"]


def _judged(comparison: Comparison, name: str) -> Values:
    """What comparison.json says."""
    verdict = judge(comparison)
    return {
        "headline": verdict.headline.removeprefix(f"{comparison.name}: "),
        "name": name,
        "metric": comparison.protocol.metric,
        "protocol": comparison.protocol.words(),
        "is_causal": comparison.protocol.metric == "perplexity",
        "verdict": verdict,
        "rows": tables.corpus_rows(comparison, verdict),
        "subjects": comparison.subjects,
        "general": comparison.of_kind("general"),
        "drift": tables.drift_words(comparison, verdict),
        "drift_nats": comparison.drift and kl_words(comparison.drift.kl_nats)[0],
        "gap": gap_line(comparison, verdict).removeprefix("memorised?  "),
        "caveats": verdict.caveats,
    }


def _scored(run: Run, scores: TokenScores, comparison: Comparison) -> Values:
    """What the token scores say of the held-out text, and of memory."""
    corpus = next((each for each in scores.corpora if each.kind == "held-out"), None)
    rows = run.read_table("documents.parquet", "id", "text")
    keeps_text = run.recipe.judging.keep_text
    names = _names([row["id"] for row in rows], keeps_text)
    continued = verbatim(scores)
    found: Values = {
        "membership": membership_words(attack(scores)),
        "verbatim": continued and verbatim_words(continued),
        **dict.fromkeys(("dots", "documents", "map", "no_map", "bands", "gained", "lost", "influence")),
    }
    if corpus is None:
        return found
    ranked = _documents(corpus, names)
    drawn = [(one.base_nats, one.tuned_nats, one.words) for one in evenly(ranked, DOTS)]
    found |= {"dots": dot_plot(drawn, len(ranked)), "documents": ranked[::-1][: tables.SHOWN_DOCUMENTS]}
    found["worse"] = sum(one.is_worse for one in ranked)
    if scores.subject.own_tokenizer_sha256 is not None:
        return found | {"no_map": "the model reads text with a tokenizer of its own, its base with another"}
    vocabulary = read_vocabulary(run, scores)
    known = None if isinstance(vocabulary, str) else vocabulary
    bands = corpus_bands(corpus, known)
    found["bands"] = tables.divisions(bands)
    if keeps_text and bands.gained_most is not None and bands.lost_most is not None:
        types = [*bands.gained_most, *bands.lost_most]
        longest = max((abs(one.gain_nats) for one in types), default=1.0)
        found["gained"] = tables.word_rows(bands.gained_most, longest)
        found["lost"] = tables.word_rows(bands.lost_most, longest)
        found["influence"] = influence_lines(influences(scores, known))
    if not keeps_text:
        return found | {"no_map": "the recipe keeps no text (judging.keep_text: false)"}
    if known is None:
        return found | {"no_map": str(vocabulary)}
    texts = {row["id"]: row["text"] for row in rows if row["text"] is not None}
    drawn_map = token_map(corpus, known, texts, names)
    return found | {
        "map": drawn_map,
        "no_map": None if drawn_map else "no kept text fits the scores",
        "rare_words": RARE_WORDS,
        "passage_tokens": PASSAGE_TOKENS,
    }


def _names(ids: Sequence[str], keeps_text: bool) -> dict[str, str]:
    """What each document is called: a file by its name; where no text may be seen, a number."""
    if not keeps_text:  # a file's name may be a word of its text
        return {each: f"document {number}" for number, each in enumerate(ids, 1)}
    files = Counter(each.rpartition("#")[0] for each in ids)
    return {each: each.removesuffix("#0") if files[each.rpartition("#")[0]] == 1 else each for each in ids}


def _documents(corpus: CorpusScores, names: dict[str, str]) -> list[tables.DocumentRow]:
    """Those with a scored token, the one that gained most first."""
    rows = [
        tables.DocumentRow(names[one.id], base.tokens, base.nats_per_token, tuned.nats_per_token)
        for one, (base, tuned) in zip(corpus.documents, corpus.totals(), strict=True)
        if base.tokens
    ]
    return sorted(rows, key=lambda row: row.tuned_nats - row.base_nats)
