"""Score a run's adapter against its base again: ft compare, or python -m ft_toolkit.compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.progress import Screen
from ft_toolkit.runtime import prepare_process

if TYPE_CHECKING:  # torch and pydantic come with these; --help must not wait
    from peft import PeftModel

    from ft_toolkit.judging.comparison import Comparison, CorpusScores
    from ft_toolkit.models.adapters import Base
    from ft_toolkit.run import Run
    from ft_toolkit.text.corpus import Document, Parts


def main(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or hub:owner/name[@revision].")],
    on: Annotated[
        str | None, typer.Option(help="Other text to judge on: a file, folder, glob or hf:….")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Compare each run's adapter with its base on text that neither has trained on."""
    with one_line_errors():
        from ft_toolkit.sharing.pulled import open_run

        prepare_process()
        screen = Screen(quiet=as_json)
        found = [compare_run(open_run(run, screen.say), on, device=device, screen=screen) for run in runs]
        if as_json:
            json.dump([comparison.as_dict() for comparison in found], sys.stdout, indent=2)
            print()


def compare_run(
    run: Run, on: str | None = None, *, device: str = "auto", screen: Screen | None = None
) -> Comparison:
    """Score a run anew: on its own held-out text, or on every document of `on`.

    raises   FtError when the base or tokenizer changed since training, or `on` holds trained text
    """
    from ft_toolkit.judging.comparison import compare, score_both, source_label
    from ft_toolkit.judging.protocols import default_protocol
    from ft_toolkit.models.adapters import load_adapter, load_base
    from ft_toolkit.runtime import prepare_torch
    from ft_toolkit.text.blocks import encode
    from ft_toolkit.text.corpus import read_source
    from ft_toolkit.text.screening import repeated_lines
    from ft_toolkit.training.loop import make_accelerator

    screen = screen or Screen()
    prepare_torch()
    base = load_base(run.recipe.base, make_accelerator(device).device)
    _check_base(run, base)
    other = read_source(on, run.recipe.corpus.text, _unit(run, on)).documents if on is not None else []
    _refuse_trained_text(run, other, str(on))
    model = load_adapter(base, run.adapter_folder)
    if on is None:
        return judge_run(run, base, model, _recovered(run, screen), screen)
    protocol = default_protocol(base)
    encoded = encode(other, base.tokenizer, repeated_lines(other))
    scored = score_both(model, base, protocol, source_label(on), "other", encoded, screen)
    comparison = compare(run.folder.name, _without_its_folder(base), protocol, [scored])
    show(comparison, run, screen)
    return comparison


def judge_run(run: Run, base: Base, model: PeftModel, parts: Parts, screen: Screen) -> Comparison:
    """Score the parts of a run, say the verdict, and finish the run unless it is finished."""
    from ft_toolkit.judging.comparison import compare, score_parts
    from ft_toolkit.judging.protocols import default_protocol

    protocol = default_protocol(base)
    recipe = run.recipe
    scored = score_parts(
        model, base, protocol, recipe.corpus, recipe.judging.general, parts.test, parts.train, screen
    )
    comparison = compare(run.folder.name, _without_its_folder(base), protocol, scored)
    if not run.is_finished:
        _keep(run, comparison, scored)
    show(comparison, run, screen)
    return comparison


def show(comparison: Comparison, run: Run, screen: Screen) -> None:
    """The last thing on the screen: a sentence, and the table that it rests on."""
    from ft_toolkit.judging.verdict import gap_line, judge, verdict_table

    verdict = judge(comparison)
    screen.say("")
    screen.say(verdict.headline, style="bold")
    screen.say(verdict_table(comparison, verdict))
    if comparison.gap is not None:
        screen.say(gap_line(comparison, verdict))
    for caveat in verdict.caveats:
        screen.say(caveat, style="dim")
    megabytes = (run.adapter_folder / "adapter_model.safetensors").stat().st_size / 1e6
    screen.say(f"adapter: {run.adapter_folder} ({megabytes:.1f} MB)")


def _keep(run: Run, comparison: Comparison, scored: Sequence[CorpusScores]) -> None:
    from ft_toolkit.judging.verdict import judge
    from ft_toolkit.run import now

    for part in scored:
        run.write_table(f"scores/{part.kind}.parquet", part.rows())
    run.write_json("comparison.json", comparison.as_dict() | {"verdict": asdict(judge(comparison))})
    run.record(finished_at=now())


def _without_its_folder(base: Base) -> Base:
    """What is handed on names no folder of this machine."""
    return replace(base, name=Path(base.name).name) if Path(base.name).is_dir() else base


def _unit(run: Run, on: str) -> str | None:
    """Text is cut as the run's own was, so that a trained line is known again inside a longer file."""
    from ft_toolkit.text.corpus import TABLE_ENDINGS

    is_table = on.startswith("hf:") or on.removesuffix(".gz").endswith(TABLE_ENDINGS)
    unit = run.recipe.corpus.documents
    return unit if unit in ("paragraph", "line") and not is_table else None


def _check_base(run: Run, base: Base) -> None:
    hashes = run.facts.get("sha256", {})
    if not hashes:
        found = "one that stopped before its training"
        raise FtError(run.folder, "a run that was trained", found, "Train again.")
    for what, found in (("base", base.weights_sha256), ("tokenizer", base.tokenizer_sha256)):
        if hashes.get(what) != found:
            wanted = f"the {what} of training (sha256 {str(hashes.get(what))[:12]})"
            raise FtError(f"{what} {base.name}", wanted, f"sha256 {found[:12]}", "Pin base: name@revision.")


def _refuse_trained_text(run: Run, documents: Sequence[Document], on: str) -> None:
    known = {row["sha256"]: row for row in run.read_table("documents.parquet") if row["split"] != "test"}
    trained = [document for document in documents if document.sha256 in known]
    if trained:
        split = known[trained[0].sha256]["split"]
        found = f"{len(trained)} of {len(documents)} in its {split} part, first {trained[0].id}"
        raise FtError(
            f"--on {on}", f"text that {run.folder} was not trained on", found, "Choose unseen text."
        )


def _recovered(run: Run, screen: Screen) -> Parts:
    """The run's documents, read again and matched by hash; kept text stands in for lost files."""
    from ft_toolkit.text.corpus import Document, Parts, read_corpus

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
        raise FtError(run.folder, "the held-out text", found, "Put the corpus back where it was.")
    return Parts(**held)


if __name__ == "__main__":
    typer.run(main)
