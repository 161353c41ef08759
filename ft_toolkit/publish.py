"""Publish a finished run: plan, stage, check for leaks, ask, commit, read back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import file_sha256, read_json
from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen
from ft_toolkit.references import BaseReference, TextReference, parse_base, parse_text
from ft_toolkit.run import Run
from ft_toolkit.sharing.card import write_card
from ft_toolkit.sharing.effects import memorisation_lines
from ft_toolkit.sharing.hub import Destination, Pushed, connect, push_files, stated_licence
from ft_toolkit.sharing.leaks import refuse_leaks
from ft_toolkit.sharing.licences import Licence, Source, decide, licence_of_base, licence_of_text
from ft_toolkit.sharing.published import Published
from ft_toolkit.sharing.snippet import (
    Objective,
    Place,
    check_snippet,
    checked_snippet,
    loading_snippet,
    run_snippet_check,
)
from ft_toolkit.sharing.staging import (
    ALLOWED,
    BaseOnTheHub,
    Contents,
    apart,
    locate_base,
    put_in_place,
    settle,
    shown_recipe,
    stage,
)
from ft_toolkit.sharing.verification import verify


@dataclass(frozen=True)
class Rights:
    """The user's options about licences; None: looked up in the toolkit or on the Hub."""

    license: str | None = None
    base_license: str | None = None
    corpus_license: str | None = None
    has_the_rights: bool = False


@dataclass(frozen=True)
class Target:
    """The user's options about the repository; None: the recipe's publish section decides."""

    repo: str | None = None
    revision: str = "main"
    is_public: bool = False
    as_pull_request: bool = False
    tag: str | None = None
    check_again: bool = False  # load it from there into an empty cache, and score it again


@dataclass(frozen=True)
class Plan:
    """A push, ready to be sent: nothing has left the machine yet."""

    run: Run
    to: Destination
    files: dict[str, Path]
    licence: Licence
    base: BaseOnTheHub
    rewritten: tuple[str, ...]
    snippet: str

    def lines(self) -> list[str]:
        """The plan that the user is asked to confirm."""
        size = sum(path.stat().st_size for path in self.files.values())
        visibility = "public: everybody can read it" if self.to.is_public else "private"
        where = f"branch {self.to.revision}" + (", as a pull request" if self.to.as_pull_request else "")
        sources = "; ".join(f"{s.kind} {s.name}: {s.license or 'not stated'}" for s in self.licence.sources)
        rights = "; you state that you have the rights" if self.licence.has_the_rights else ""
        return [
            f"{self.run.folder} → {self.to.repo}, {where}{f', tag {self.to.tag}' if self.to.tag else ''}",
            f"visibility   {visibility}",
            f"licence      {self.licence.id} ({sources}{rights})",
            *(f"rewritten    {words}" for words in self.rewritten),
            *memorisation_lines(read_json(self.files["comparison.json"]), "memorised?   {}: {}"),
            *(f"  {path.stat().st_size:>12,}  {name}" for name, path in self.files.items()),
            f"  {size:>12,}  bytes in {len(self.files)} files, staged in {self.files['README.md'].parent}",
        ]


def publish(
    run: Run,
    target: Target,
    contents: Contents,
    rights: Rights,
    *,
    is_agreed: bool | None = None,
    screen: Screen | None = None,
) -> Pushed | None:
    """Show the plan, and with the user's yes send it.

    is_agreed   None: ask on the terminal; without one nothing is sent
    returns     None when nothing was sent
    """
    screen = screen or Screen()
    plan = plan_push(run, destination(run, target), contents, rights, screen=screen)
    for line in plan.lines():
        screen.result(line)
    if not (agreed() if is_agreed is None else is_agreed):
        screen.result("nothing was sent; add --yes to send it")
        return None
    pushed = push(plan, screen)
    if target.check_again:
        verify(run, plan.files, plan.snippet, plan.to, pushed, screen)
    return pushed


def destination(run: Run, target: Target) -> Destination:
    """The place, with the recipe's publish section where the user said nothing."""
    wishes = run.recipe.publish
    repo = target.repo or wishes.repo
    if repo is None or repo.count("/") != 1 or not all(repo.split("/")):
        found = repo or "nothing"
        raise FtError("--to", "owner/name on the Hub", found, "Say --to, or set publish.repo in the recipe.")
    is_public = target.is_public or not wishes.private
    return Destination(repo, target.revision, is_public, target.as_pull_request, target.tag)


def plan_push(
    run: Run,
    to: Destination,
    contents: Contents,
    rights: Rights,
    *,
    screen: Screen | None = None,
) -> Plan:
    """Stage everything in a folder of push/ in the run folder and check it; sends nothing of the run.

    The licence of a Hub base or data set that is not known here is looked up there.

    raises   FtError for an unjudged run, a base that users cannot load, licences that forbid it, a leak;
             IntegrityFailed for an adapter or model that is not the one that was trained
    """
    screen = screen or Screen()
    objective = _objective(run)
    run.check_trained(screen.say)
    merged = contents.merged or not run.adapter_folder.is_dir()
    if run.recipe.adapter.tokens and objective == "masked" and not merged:
        found, cure = "PEFT 0.21, which drops the output's bias there", "Send it whole: --merged."
        raise FtError("adapter.tokens", "users whose PEFT reads it as it was trained", found, cure)
    model_folder = _model_folder(run, screen) if merged else None
    weights = (model_folder or run.adapter_folder) / (
        "model.safetensors" if merged else "adapter_model.safetensors"
    )
    stamp = checked_snippet(run, weights, objective, merged=merged)
    if stamp is None:
        screen.say("running the card's loading snippet, once for this adapter …")
        stamp = check_snippet(run, weights, objective, merged=merged)
    base = locate_base(run, to.repo, stamp.base_revision, with_base=contents.with_base or merged)
    licence = _licence(run, base, rights)
    with apart(run) as folder:
        files = stage(run, base, contents, model_folder, folder)
        snippet = loading_snippet(
            objective,
            None if merged else base.place,
            Place(to.repo, None if to.revision == "main" else to.revision),
            own_tokenizer="tokenizer.json" in files,
        )
        card = Published(
            to.repo,
            run.recipe,
            base,
            licence,
            read_json(files["comparison.json"]),
            snippet,
            merged,
        )
        files = {"README.md": folder / "README.md", **files}
        files["README.md"].write_text(write_card(card), encoding="utf-8")
        refuse_leaks(files, (to.repo, base.name))
        files = settle(folder, files)
    return Plan(run, to, files, licence, base, tuple(_rewritten(run, base, merged)), snippet)


def push(plan: Plan, screen: Screen | None = None) -> Pushed:
    """Send a plan: one commit on top of the one that was seen, then read back.

    raises   FtError; the repository then holds the commit it held, or the whole new one
    """
    title = f"{plan.run.recipe.name} by ft push"
    screen = screen or Screen()
    pushed = push_files(connect(), plan.to, plan.files, ALLOWED, title, screen)
    words = "pushed and read back" if pushed.is_new else "nothing to do, it is there"
    screen.say(f"{words}: {pushed.url} at {pushed.commit[:12]}")
    return pushed


def _objective(run: Run) -> Objective:
    is_judged = (run.folder / "comparison.json").exists()
    if is_judged or not (run.folder / "run.json").is_file():
        run.require_whole()
    if not (is_judged and run.is_finished):
        found = "one without a verdict"
        raise FtError(
            run.folder / "comparison.json", "a judged run", found, "Judge it with ft compare, then push."
        )
    if not run.facts.get("integrity", {}).get("passed"):
        found = run.facts.get("integrity", {}).get("reload", "none")
        raise FtError(run.folder, "a run whose saved weights passed the gate", found, "Train again.")
    metric = run.comparison.get("protocol", {}).get("metric")
    if metric not in ("perplexity", "pseudo-perplexity"):
        raise FtError(run.folder / "comparison.json", "a protocol with its metric", metric, "Train again.")
    return "masked" if metric == "pseudo-perplexity" else "causal"


def _model_folder(run: Run, screen: Screen) -> Path:
    """The model to push whole: what a full run trained, or base and adapter merged, once an adapter."""
    if (run.folder / "model").is_dir():
        return run.folder / "model"
    weights = run.adapter_folder / "adapter_model.safetensors"
    folder = run.folder / "push" / f".merged-{file_sha256(weights)[:12]}"
    if not (folder / "config.json").is_file():
        screen.say("merging adapter and base …")
        with apart(run) as own:
            run_snippet_check("merge", str(run.folder), str(own / "model"))
            put_in_place(own / "model", folder)
    return folder


def _licence(run: Run, base: BaseOnTheHub, rights: Rights) -> Licence:
    recipe = run.recipe
    sources = (
        Source("base", base.name, rights.base_license or _known_base(parse_base(recipe.base))),
        *(
            Source(
                "corpus",
                parse_text(corpus.source).shown,
                rights.corpus_license or corpus.license or _known_text(parse_text(corpus.source)),
            )
            for corpus in recipe.corpora
        ),
    )
    wanted = rights.license or recipe.publish.license
    return decide(wanted, sources, has_the_rights=rights.has_the_rights)


def _known_base(base: BaseReference) -> str | None:
    known = licence_of_base(base)
    return stated_licence(base.place, "model") if known is None and base.kind == "hub" else known


def _known_text(text: TextReference) -> str | None:
    return stated_licence(text.dataset, "dataset") if text.dataset else licence_of_text(text)


def _rewritten(run: Run, base: BaseOnTheHub, merged: bool) -> list[str]:
    """What differs from the run's own files, in words."""
    words = []
    before, after = run.recipe.model_dump(), shown_recipe(run, base)
    many: list[tuple[Any, ...]] = [("corpus", n, "source") for n in range(len(run.recipe.corpora))]
    sources = many if isinstance(run.recipe.corpus, list) else [("corpus", "source")]
    for keys in (("base",), *sources, ("judging", "general")):
        old: Any = before
        new: Any = after
        for key in keys:
            old, new = old[key], new[key]
        if old != new:
            words.append(f"recipe.yaml {'.'.join(map(str, keys))}: {old} → {new}")
    if not merged:
        words.append(f"adapter_config.json base_model_name_or_path, revision: → {base.place}")
    words.append("comparison.json: run.json's versions, hashes and times go along")
    return words


def agreed(ask: Callable[[str], str] = input) -> bool:
    """True for a typed yes; anything else is a no, also without a terminal."""
    if not sys.stdin.isatty():
        return False
    try:
        return ask("Send it? Type yes: ").strip().lower() == "yes"
    except EOFError:
        return False
