"""What base and tuned model make of a text that is typed: ft try."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit import completion
from ft_toolkit.arguments import Device
from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.progress import Screen

if TYPE_CHECKING:  # torch comes with them; --help must not wait
    from rich.table import Table
    from rich.text import Text

    from ft_toolkit.models.guesses import Guess
    from ft_toolkit.reporting.passages import Piece
    from ft_toolkit.tryout_answers import Answer, Answers, Draw, Tried

# The report's shades, with an ink of their own, so that they can be read on any terminal.
_BETTER = ("", "#e6f0fb", "#c3dcf7", "#94c1f1", "#62a3e9")
_WORSE = ("", "#fdf0de", "#fbdbae", "#f6bd76", "#ee9c45")
_INK = "#1a1c22"


@one_line_errors()
def main(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            autocompletion=completion.runs,
            help='Run folders, or hub:owner/name[@revision]; then a text: "Peel the garlic and", '
            "with [MASK] for a masked model.",
        ),
    ],
    text: Annotated[str | None, typer.Option("--text", help="The text, where it looks like a run.")] = None,
    tokens: Annotated[int, typer.Option(help="The longest continuation.")] = 60,
    temperature: Annotated[
        float, typer.Option(help="0: the likeliest token each time; 1: as the model predicts.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another continuation.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help=r"End the continuation before this text; \n: a line's end.")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Serve a page on 127.0.0.1 in place of this.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1024, max=65535, help="Of the page; by default a free one.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Show what base and tuned models make of a text, side by side; without a text, of each line typed."""
    runs, typed = split_text(places, text)
    if port is not None and not web:
        raise FtError("--port", "--web beside it", "no --web", "Add --web.")
    if stop is not None and "" in stop:
        raise FtError("--stop", "a text", "an empty one", r"Write --stop . or --stop '\n'.")
    from ft_toolkit.run_models import scoring_session
    from ft_toolkit.sharing.pulled import open_run
    from ft_toolkit.tryout_answers import Draw, load_tried

    screen = Screen()
    draw = Draw(tokens, temperature, seed, tuple(each.replace("\\n", "\n") for each in stop or ()))
    opened = [open_run(run, screen.say) for run in runs]
    tried = load_tried(opened, scoring_session(device, screen))
    if web:
        from ft_toolkit.tryout_page import serve

        serve(tried, typed or "", draw, port, screen)
        return
    for line in [typed] if typed is not None else _typed(sys.stdin):
        for each in tried:
            try_text(each, line, draw, screen)


def split_text(places: Sequence[str], text: str | None) -> tuple[list[str], str | None]:
    """(the runs, the text): the last place is the text unless it is a run, or a text was given apart.

    raises   FtError for what is neither: a run that is not there
    """
    *runs, last = places
    if text is not None or not runs or last.startswith("hub:") or Path(last).is_dir():
        return [*runs, last], text
    parent = Path(last).parent
    if not any(map(str.isspace, last)) and parent != Path() and parent.is_dir():
        raise FtError("ft try", "a run folder or a text", last, f"Is it a text? Write --text {last}.")
    return runs, last


def _typed(lines: Iterable[str]) -> Iterator[str]:
    """Each line that is not empty, until the end of input or Ctrl-C."""
    is_asked = sys.stdin.isatty()
    if is_asked:
        print("Type a text and press Enter; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ") if is_asked else next(iter(lines))
        except (EOFError, StopIteration, KeyboardInterrupt):
            return
        if line.strip():
            yield line.rstrip("\n")


def try_text(tried: Tried, text: str, draw: Draw, screen: Screen) -> None:
    """Show what a base and the models tuned from it make of a text; on a terminal while they write.

    raises   FtError as answers_of does
    """
    from ft_toolkit.tryout_answers import BASE, Answer, Answers, answers_of

    names = [BASE, *(one.name for one in tried.tuned)]
    written = dict.fromkeys(names, "")
    with screen.growing() as show:

        def grown(name: str, so_far: str) -> None:
            written[name] = so_far
            show(table_of(Answers(tried.base.name, [Answer(name, written[name]) for name in names])))

        found = answers_of(tried, text, draw, grown)
    if len(names) > 2:
        screen.result(f"base: {tried.base.name}", style="dim")
    screen.result(table_of(found))
    for answer in found.answers:
        if answer.passage is not None:
            _show_passage(answer, screen, is_named=len(names) > 2)


def _show_passage(answer: Answer, screen: Screen, *, is_named: bool) -> None:
    from ft_toolkit.reporting.passages import moved_most

    assert answer.passage is not None
    if is_named:
        screen.result(f"{answer.name} against its base", style="dim")
    screen.result(coloured(answer.passage.pieces))
    for line in moved_most(answer.passage.pieces):
        screen.result(line)


def table_of(found: Answers) -> Table:
    """A column a model: its guesses for each [MASK], or its continuation and figures."""
    from rich.table import Table

    from ft_toolkit.models.guesses import MASK

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("")
    for answer in found.answers:
        table.add_column(_plain(answer.name), ratio=1)
    for number, lists in enumerate(zip(*(answer.guesses for answer in found.answers), strict=True), 1):
        table.add_row(*_cells(f"{MASK} {number}", ["\n".join(map(guess_line, some)) for some in lists]))
    if any(answer.goes_on is not None for answer in found.answers):
        table.add_row(*_cells("goes on", [answer.goes_on or "" for answer in found.answers]))
    for metric in found.metrics:
        table.add_row(*_cells(metric, [answer.figures.get(metric, "–") for answer in found.answers]))
    return table


def guess_line(guess: Guess) -> str:
    return f"{100 * guess.share:5.1f} %  {guess.token}"


def _cells(name: str, texts: Iterable[str]) -> list[Text]:
    from rich.text import Text

    return [Text(name, style="dim"), *map(_plain, texts)]


def _plain(text: str) -> Text:
    """What a model or a person wrote, as it is: no markup, and no terminal's command."""
    from rich.text import Text

    from ft_toolkit.reporting.passages import PICTURES

    return Text(text.translate(PICTURES))


def coloured(pieces: Iterable[Piece]) -> Text:
    """The text; blue where the tuned model predicts a token better, orange and underlined where worse."""
    from rich.text import Text

    found = Text()
    for piece in pieces:
        found.append(piece.blank)
        paper = _BETTER[piece.shade] if piece.shade >= 0 else _WORSE[-piece.shade]
        line = "underline " if piece.shade < 0 else ""
        found.append(piece.text, f"{line}{_INK} on {paper}" if paper else None)
    return found
