"""The ft command. Heavy imports are inside the verbs, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ft_toolkit import (
    __version__,
    audit,
    compare,
    completion,
    corpus_look,
    export,
    ladder,
    listing,
    probe,
    report,
    tryout,
    tune,
)
from ft_toolkit.arguments import Device, Overrides, RecipeName, Runs
from ft_toolkit.errors import FtError, one_line_errors, told_when_stopped
from ft_toolkit.examples import epilog
from ft_toolkit.runtime import is_launched, prepare_process, termination_as_exception

app = typer.Typer(
    help="Fine-tune small GPT-2 and BERT checkpoints with LoRA, and measure honestly whether it helped.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes = typer.Typer(help="The recipes that ship, and what each value means.", rich_markup_mode=None)
app.add_typer(recipes, name="recipes", invoke_without_command=True)
app.command("compare", epilog=epilog("compare"))(compare.main)
app.command("audit", epilog=epilog("audit"))(audit.main)
app.command("tune", epilog=epilog("tune"))(tune.main)
app.command("ladder", epilog=epilog("ladder"))(ladder.main)
app.command("corpus", epilog=epilog("corpus"))(corpus_look.main)
app.command("runs", epilog=epilog("runs"))(listing.main)
app.command("report", epilog=epilog("report"))(report.main)
app.command("try", epilog=epilog("try"))(tryout.main)
app.command("probe", epilog=epilog("probe"))(probe.main)
app.command("export", epilog=epilog("export"))(export.main)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"ft-toolkit {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=epilog("finetune"))
@one_line_errors()  # inside the verb: typer would handle Ctrl-C itself, without our message
def finetune(
    recipe: RecipeName = "quickstart",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    judge: Annotated[
        bool, typer.Option(help="--no-judge: validation figure only; the test part stays unseen.")
    ] = True,
    seeds: Annotated[int, typer.Option(min=1, help="Train with this many seeds and show the spread.")] = 1,
    track: Annotated[
        list[str] | None, typer.Option(help="A tracker that accelerate knows: tensorboard …")
    ] = None,
    energy: Annotated[bool, typer.Option("--energy", help="Measure energy (extra: energy).")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Remake an unfinished run from the stage whose inputs changed.")
    ] = False,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Reuse what the last run of this name made from the same inputs.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read, and list them.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Train in so many processes on this machine, each with its device.")
    ] = 1,
) -> None:
    """Train an adapter from a recipe, judge it and print the verdict; an unfinished run is resumed."""
    from ft_toolkit import preflight
    from ft_toolkit import reuse as again
    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.session import Options

    asked = read_recipe(recipe, overrides or []).recipe
    if skip_unreadable:
        asked = asked.with_corpora(skip_unreadable=True)
    preflight.check(asked, runs, track or (), energy=energy)
    options = Options(device, tuple(track or ()), judge, True, energy, restart, reuse)
    if reuse and seeds == 1 and again.is_shown(asked, runs, judge=judge):
        return
    if processes > 1 and not is_launched():  # each of them runs this command again
        from ft_toolkit.launch import launch

        raise typer.Exit(launch(processes, sys.argv[1:]))
    with told_when_stopped("before training; nothing was trained: the same command begins again"):
        # imported here: a fault is reported without waiting for torch
        from ft_toolkit.finetune import finetune as journey
        from ft_toolkit.next_steps import tell_next
        from ft_toolkit.seeds import finetune_seeds

    if seeds > 1:
        tell_next(finetune_seeds(asked, seeds, runs, options)[0])
    else:
        tell_next(journey(asked, runs, options))


@app.command(epilog=epilog("resume"))
@one_line_errors()
def resume(
    run: Annotated[
        Path,
        typer.Argument(help="An unfinished run, such as runs/quickstart.", autocompletion=completion.runs),
    ],
    restart: Annotated[
        bool, typer.Option("--restart", help="Remake it from the stage whose inputs changed.")
    ] = False,
) -> None:
    """Resume an unfinished run; it ends bitwise as if it had never stopped."""
    from ft_toolkit import preflight
    from ft_toolkit.inputs import recipe_asked_for
    from ft_toolkit.run import Run
    from ft_toolkit.session import Options

    unfinished = Run.open(run)
    asked = unfinished.facts.get("asked")
    if not isinstance(asked, dict) or unfinished.is_ended:
        found = "one that came to its end" if unfinished.is_ended else "one of an older ft-toolkit"
        raise FtError(run, "an unfinished run", found, "ft compare judges it; ft finetune trains again.")
    recipe = recipe_asked_for(unfinished.recipe, asked)
    preflight.check(recipe, unfinished.folder.parent)
    from ft_toolkit import finetune as journey
    from ft_toolkit.next_steps import tell_next

    options = Options(judge=bool(asked["judge"]), restart=restart, folder=unfinished.folder)
    tell_next(journey.finetune(recipe, unfinished.folder.parent, options))


@app.command(epilog=epilog("push"))
@one_line_errors()
def push(
    run: Annotated[
        Path, typer.Argument(help="A finished run, such as runs/quickstart.", autocompletion=completion.runs)
    ],
    to: Annotated[str | None, typer.Option(help="owner/name on the Hub; by default publish.repo.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send it; without this the plan is shown.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Anyone may read it.")] = False,
    revision: Annotated[str, typer.Option(help="The branch; made if it is missing.")] = "main",
    pr: Annotated[bool, typer.Option("--pr", help="Propose it as a pull request.")] = False,
    tag: Annotated[str | None, typer.Option(help="Tag the commit.")] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Base and adapter as one model.")] = False,
    with_base: Annotated[bool, typer.Option("--with-base", help="Send a local base along.")] = False,
    scores: Annotated[bool, typer.Option("--scores", help="Send the per-document scores.")] = False,
    strength: Annotated[float, typer.Option(help="A weaker adapter, such as 0.75, judged first.")] = 1.0,
    license: Annotated[str | None, typer.Option(help="Of what is published, such as apache-2.0.")] = None,
    base_license: Annotated[str | None, typer.Option(help="Of the base, where unknown.")] = None,
    corpus_license: Annotated[str | None, typer.Option(help="Of the text; own: you wrote it.")] = None,
    i_have_the_rights: Annotated[
        bool, typer.Option("--i-have-the-rights", help="You may publish this, whatever the licences say.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Then load it from there and score it.")] = False,
) -> None:
    """Show what would go to the Hub, and with --yes send it."""
    from ft_toolkit import publish
    from ft_toolkit.mix import at_strength
    from ft_toolkit.run import Run
    from ft_toolkit.sharing.staging import Contents

    publish.publish(
        at_strength(Run.open(run), strength),
        publish.Target(to, revision, public, pr, tag, check_again=verify),
        Contents(merged, scores, with_base),
        publish.Rights(license, base_license, corpus_license, i_have_the_rights),
        is_agreed=True if yes else None,
    )


@app.command(epilog=epilog("plan"))
@one_line_errors()
def plan(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe; or say --family, or --config.", autocompletion=completion.recipes),
    ] = None,
    family: Annotated[str | None, typer.Option(help="An architecture listed in docs/models.md.")] = None,
    layers: Annotated[int, typer.Option()] = 12,
    width: Annotated[int, typer.Option()] = 768,
    heads: Annotated[int, typer.Option()] = 12,
    vocabulary: Annotated[int | None, typer.Option(help="By default the family's.")] = None,
    positions: Annotated[int | None, typer.Option(help="By default the family's.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json, in place of a family.")] = None,
    method: Annotated[str, typer.Option(help="lora, dora, ia3, full …")] = "lora",
    rank: Annotated[int | None, typer.Option(help="By default by --tokens, or 8.")] = None,
    targets: Annotated[str, typer.Option(help="auto or attention.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many, and how large: 64x80GB.")] = "1x24GB",
    at_once: Annotated[int, typer.Option(help="Tokens in a forward pass on a device.")] = 2048,
    dtype: Annotated[
        str | None,
        typer.Option(help="Of the frozen base: float32, bfloat16 or 4bit; by default the recipe's."),
    ] = None,
    tokens: Annotated[float | None, typer.Option(help="To read in training.")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="As measured on such devices.")] = None,
    probe: Annotated[
        bool,
        typer.Option(help="--no-probe: do not try a little of the recipe to learn its time."),
    ] = True,
) -> None:
    """Count parameters and bytes of a training, and estimate a recipe's time on this machine."""
    from ft_toolkit import plan as story

    asked = story.Asked(family, layers, width, heads, vocabulary, positions, config)
    equal_devices = story.parse_devices(devices)
    adapter = story.adapter_plan(recipe, method, rank, targets)
    work = story.Workload(at_once, dtype or adapter.base_precision, tokens, tokens_per_second)
    story.check_workload(asked, work)
    sizes = story.sizes_of(recipe, asked, adapter)
    measure, time = (None, None) if recipe is None else story.tried(recipe, probe)
    chosen, words = story.filled(recipe, adapter, sizes, tokens, measure)
    if chosen.known_rank != adapter.known_rank:
        sizes = story.sizes_of(recipe, asked, chosen)
    for line in story.lines(sizes, chosen, equal_devices, work):
        print(line)
    if words:
        print(f"training        {words}")
    if time:
        print(f"this machine    {time}")


@app.command(epilog=epilog("merge"))
@one_line_errors()
def merge(
    run: Annotated[
        str,
        typer.Argument(help="A run folder, or hub:owner/name[@revision].", autocompletion=completion.runs),
    ],
    to: Annotated[Path | None, typer.Option(help="A new folder; by default RUN/merged.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16: half the size, rounded.")] = "float32",
    strength: Annotated[
        float, typer.Option(help="The adapter's update times this: 0.75 is a weaker adapter.")
    ] = 1.0,
) -> None:
    """Write base and adapter as one plain checkpoint, and check that it scores the same."""
    from ft_toolkit import merge as story
    from ft_toolkit.sharing.pulled import open_run

    opened = open_run(run, print)
    story.merge(opened, to, dtype, strength=strength)  # type: ignore[arg-type]  # checked there


@app.command(epilog=epilog("mix"))
@one_line_errors()
def mix(
    parts: Annotated[list[str], typer.Argument(help="RUN:WEIGHT, several of one base; or one, made weaker.")],
    to: Annotated[Path, typer.Option(help="The new run folder.")],
    device: Device = "auto",
) -> None:
    """Make a run of a weighted sum of adapters, and judge it: ft mix runs/a:0.7 runs/b:0.3 --to runs/both."""
    from ft_toolkit import mix as story
    from ft_toolkit.sharing.pulled import open_run

    named = [story.split_weight(part) for part in parts]
    story.mix([story.Part(open_run(place, print), weight) for place, weight in named], to, device=device)


@recipes.callback(epilog=epilog("recipes"))
@one_line_errors()
def list_recipes(context: typer.Context) -> None:
    """List the gallery: base, corpus, what each makes, and what that costs."""
    if context.invoked_subcommand is None:
        listing.list_recipes()


@recipes.command("show", epilog=epilog("recipes show"))
@one_line_errors()
def show_recipe(
    recipe: RecipeName,
    overrides: Overrides = None,
) -> None:
    """Print each value of a recipe, where it came from and what it means."""
    from ft_toolkit.recipe import read_recipe

    for key, value, origin, meaning in read_recipe(recipe, overrides or []).explained():
        print(f"{key:<26} {'null' if value is None else value!s:<28} {origin:<30} {meaning}")


@app.command(epilog=epilog("cache"))
@one_line_errors()
def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove them.")] = False) -> None:
    """Show where base scores, large texts and token ids are cached and how large they are, or clear them."""
    import shutil

    from ft_toolkit.session import cached_places

    for place in cached_places():
        files = [path for path in (place, *place.rglob("*")) if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"{place}  {size / 1e6:.1f} MB{', cleared' if clear else ''}")
        if clear:
            place.unlink(missing_ok=True) if place.is_file() else shutil.rmtree(place, ignore_errors=True)


@app.command(epilog=epilog("doctor"))
@one_line_errors()
def doctor() -> None:
    """Show what this machine offers and what would stop a run."""
    from ft_toolkit.doctor import findings

    for what, how in findings():
        print(f"{what:<20} {how}")


def main() -> None:
    """The ft command."""
    prepare_process()
    with one_line_errors(), termination_as_exception():
        app(prog_name="ft", standalone_mode=True)


if __name__ == "__main__":
    main()
