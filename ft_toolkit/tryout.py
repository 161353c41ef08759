"""What base and tuned model make of a text that is typed: ft try."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ft_toolkit.arguments import Device
from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.progress import Screen

if TYPE_CHECKING:  # torch comes with them; --help must not wait
    from rich.text import Text

    from ft_toolkit.judging.totals import TokenNll
    from ft_toolkit.models.language_model import LanguageModel
    from ft_toolkit.models.model_pair import ModelPair
    from ft_toolkit.reporting.passages import Piece
    from ft_toolkit.text.blocks import Encoded

T = TypeVar("T")
MASK = "[MASK]"  # stands for the mask token of any masked model
GUESSES = 5
NAMED = 5  # tokens that gained most, and that lost most
# The report's shades, with an ink of their own, so that they can be read on any terminal.
_BETTER = ("", "#e6f0fb", "#c3dcf7", "#94c1f1", "#62a3e9")
_WORSE = ("", "#fdf0de", "#fbdbae", "#f6bd76", "#ee9c45")
_INK = "#1a1c22"


@dataclass(frozen=True)
class Draw:
    """How a continuation is drawn."""

    tokens: int = 60
    temperature: float = 0.8
    seed: int = 0


@one_line_errors()
def main(
    run: Annotated[str, typer.Argument(help="A run folder, or hub:owner/name[@revision].")],
    text: Annotated[
        str | None, typer.Argument(help='"Peel the garlic and"; with [MASK] for a masked model.')
    ] = None,
    tokens: Annotated[int, typer.Option(help="The longest continuation.")] = Draw.tokens,
    temperature: Annotated[
        float, typer.Option(help="0: the likeliest token each time; 1: as the model predicts.")
    ] = Draw.temperature,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another continuation.")] = Draw.seed,
    device: Device = "auto",
) -> None:
    """Show what base and tuned model make of a text, side by side; without a text, of each line typed."""
    from ft_toolkit.run_models import scoring_session, trained_pair
    from ft_toolkit.sharing.pulled import open_run

    screen, draw = Screen(), Draw(tokens, temperature, seed)
    opened = open_run(run, screen.say)
    pair = trained_pair(opened, scoring_session(device, screen))
    for line in [text] if text is not None else _typed(sys.stdin):
        try_text(pair, line, draw, screen)


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


def try_text(pair: ModelPair, text: str, draw: Draw, screen: Screen) -> None:
    """Show the top guesses for [MASK], or a continuation; and how well the text itself is predicted.

    raises   FtError for an empty text, or [MASK] where the model has none
    """
    from rich.table import Table

    if not text.strip():
        raise FtError("ft try", "a text", "an empty one", 'Write ft try RUN "some words".')
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for column in ("", "base", "tuned"):
        table.add_column(column, ratio=None if not column else 1)
    is_masked = pair.base.family.objective == "masked"
    if is_masked and (MASK in text or str(pair.base.tokenizer.mask_token) in text):
        for number, (before, after) in enumerate(
            zip(*_both(pair, lambda it: guesses(it, text)), strict=True)
        ):
            table.add_row(*_cells(f"{MASK} {number + 1}", "\n".join(before), "\n".join(after)))
        screen.result(table)
        return
    if MASK in text and not is_masked:
        found = f"{MASK}, and {pair.base.name} is causal"
        raise FtError("ft try", "a text to continue", found, f"Leave {MASK} out.")
    if not is_masked:
        table.add_row(*_cells("goes on", *_both(pair, lambda it: continuation(it, text, draw))))
    metric, figures, pieces = scored(pair, text)
    table.add_row(*_cells(metric, *figures))
    screen.result(table)
    if pieces:
        screen.result(coloured(pieces))
        for line in moved_most(pieces):
            screen.result(line)


def _both(pair: ModelPair, ask: Callable[[LanguageModel], T]) -> tuple[T, T]:
    """Ask both sides the same: (the base's answer, the tuned model's)."""
    with pair.base_side() as base:
        of_base = ask(base)
    return of_base, ask(pair.tuned)


def _cells(name: str, base: str, tuned: str) -> tuple[Text, Text, Text]:
    """What a model wrote, as it is: no markup, and no terminal's command."""
    from rich.text import Text

    from ft_toolkit.reporting.passages import PICTURES

    return Text(name, style="dim"), Text(base.translate(PICTURES)), Text(tuned.translate(PICTURES))


def continuation(model: LanguageModel, text: str, draw: Draw) -> str:
    """What a causal model writes behind a text."""
    from ft_toolkit.models.sampling import continued_ids
    from ft_toolkit.text.blocks import encode
    from ft_toolkit.text.corpus import Document

    (prompt,) = encode([Document("typed", 0, text)], model.tokenizer)
    ids = continued_ids(model, prompt.ids, draw.tokens, draw.seed, draw.temperature)
    return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def guesses(model: LanguageModel, text: str) -> list[list[str]]:
    """The likeliest tokens for each [MASK] of a text, with their probabilities.

    raises   FtError for a text longer than the model reads
    """
    import torch

    tokenizer = model.tokenizer
    read = tokenizer(text.replace(MASK, str(tokenizer.mask_token)), return_tensors="pt").to(model.device)
    length = read["input_ids"].shape[1]
    if length > model.positions:
        raise FtError("ft try", f"at most {model.positions} tokens", length, "Shorten the text.")
    with torch.inference_mode():
        logits = model.model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).logits
    shares = logits[0, read["input_ids"][0] == model.special.mask].float().softmax(-1)
    best = shares.topk(min(GUESSES, shares.shape[-1]))
    return [
        [
            f"{100 * share:5.1f} %  {str(tokenizer.decode([token])).strip()}"
            for share, token in zip(*row, strict=True)
        ]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def scored(pair: ModelPair, text: str) -> tuple[str, tuple[str, str], list[Piece]]:
    """(the metric, its figure under base and tuned, the text in pieces with each token's nats).

    Where the tuned model has its own tokenizer the figure is in bits per byte, and there are no pieces.
    """
    import numpy as np
    from tokenizers import Tokenizer

    from ft_toolkit.judging.protocols import choose_protocol, score
    from ft_toolkit.judging.totals import document_totals
    from ft_toolkit.judging.vocabulary import Vocabulary
    from ft_toolkit.reporting.passages import pieces_of
    from ft_toolkit.reporting.tables import perplexity
    from ft_toolkit.text.blocks import encode
    from ft_toolkit.text.corpus import Document

    protocol = choose_protocol(pair.base, exact=pair.base.family.objective == "masked")
    document = Document("typed", 0, text)

    def ask(model: LanguageModel) -> tuple[Encoded, TokenNll]:
        (encoded,) = encode([document], model.tokenizer)
        (nats,) = score(model, [encoded], protocol)
        return encoded, nats

    (read, base), (own, tuned) = _both(pair, ask)
    totals = document_totals(read, base), document_totals(own, tuned)
    if not all(each.tokens for each in totals):
        return protocol.metric, ("one token is too short", "one token is too short"), []
    if pair.own_tokenizer_sha256 is not None:
        bits = [f"{each.bits_per_byte:.3f}" for each in totals]
        return "bits per byte", (bits[0], bits[1]), []
    figures = [perplexity(each.nats_per_token) for each in totals]
    copy = Tokenizer.from_str(pair.base.tokenizer.backend_tokenizer.to_str())  # Vocabulary changes a setting
    spans = Vocabulary(copy).spans(text, read.ids) or []
    rare = np.zeros(len(spans), dtype=np.bool_)
    return protocol.metric, (figures[0], figures[1]), pieces_of(text, spans, base, tuned, rare)


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


def moved_most(pieces: Iterable[Piece]) -> list[str]:
    """The tokens that gained and lost most, in words: the same without colour."""
    ranked = sorted((piece for piece in pieces if piece.shade), key=lambda piece: -piece.gain)
    gained = [piece for piece in ranked if piece.gain > 0][:NAMED]
    lost = [piece for piece in reversed(ranked) if piece.gain < 0][:NAMED]
    lines = []
    for words, some in (("tuned finds more likely", gained), ("less likely", lost)):
        if some:
            names = ", ".join(f"{piece.text!r} {math.exp(min(abs(piece.gain), 700)):,.3g}×" for piece in some)
            lines.append(f"{words}: {names}")
    return lines
