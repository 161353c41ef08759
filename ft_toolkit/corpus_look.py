"""A look at a corpus before anything is trained on it: ft corpus."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit import completion
from ft_toolkit.arguments import AsJson
from ft_toolkit.errors import FtError, one_line_errors

if TYPE_CHECKING:
    from ft_toolkit.models.plain_tokenizer import PlainTokenizer
    from ft_toolkit.sections import Recipe
    from ft_toolkit.text.documents import Document
    from ft_toolkit.text.look import Look, Source, Tokens
    from ft_toolkit.text.screening import Screened
    from ft_toolkit.text.splitting import Parts

SCHEMA = 1
DEFAULT_BASE = "starter/gpt2"
ROWS = 3
BROKEN_PIECES = 3  # a word of fewer pieces is well read
BROKEN_WORDS = 8


def main(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|RECIPE", help="A source of text, or a recipe.", autocompletion=completion.recipes
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Whose tokenizer to look with; by default the recipe's, or starter/gpt2."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="corpus.text=answer")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read, and list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a corpus holds and how a base's tokenizer reads it; nothing is trained."""
    with one_line_errors():
        recipe = recipe_for(source, base, overrides or [])
        if skip_unreadable:
            recipe = recipe.with_corpora(skip_unreadable=True)
        found = look(recipe)
        if as_json:
            json.dump({"schema": SCHEMA, "corpus": asdict(found)}, sys.stdout, indent=2, ensure_ascii=False)
            print()
        else:
            from ft_toolkit.corpus_words import lines

            print("\n".join(lines(found)))


def recipe_for(name: str, base: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe of this name; or a recipe of the source of this name, with defaults."""
    from ft_toolkit.recipe import gallery, read_recipe, source_recipe

    if name.endswith((".yaml", ".yml")) or (name in {p.stem for p in gallery()} and not Path(name).exists()):
        asked = [f"base={json.dumps(base)}"] if base else []
        return read_recipe(name, [*asked, *overrides]).recipe
    return source_recipe(name, base or DEFAULT_BASE, overrides).recipe


def look(recipe: Recipe) -> Look:
    """Read a recipe's corpus and count; imports no torch.

    raises   FtError for what cannot be read
    """
    from ft_toolkit.text import look as counting
    from ft_toolkit.text.corpus import read_corpora
    from ft_toolkit.text.splitting import screened_together

    reading = read_corpora(*recipe.corpora, keep_text=recipe.judging.keep_text)
    documents = reading.documents
    screened = screened_together(documents, recipe.corpora)
    parts, fault = _parts(recipe, screened, reading.copies)
    texts = counting.sample_texts(documents)
    share, repeated = counting.repeated_sentences(documents)
    tokenizer, no_tokenizer = _tokenizer(recipe)
    tokens = _tokens(recipe.base, tokenizer, documents, texts) if tokenizer else None
    return counting.Look(
        source=recipe.text_source,
        license=", ".join(dict.fromkeys(c.license for c in recipe.corpora if c.license)) or None,
        sources=_sources(recipe, documents, parts),
        documents=len(documents),
        bytes=sum(len(document.text.encode()) for document in documents),
        characters=sum(len(document.text) for document in documents),
        parts={name: len(part) for name, part in parts} if parts else {},
        parts_fault=fault,
        empty=list(reading.empty),
        copied=list(reading.copied),
        near=counting.near_pairs(screened),
        unreadable=list(reading.unreadable),
        not_nfc_documents=reading.not_nfc_documents,
        longest_line=max((max(map(len, d.text.split("\n"))), d.id) for d in documents),
        scripts=counting.scripts(document.text for document in documents),
        languages=counting.languages(texts),
        repeated_share=share,
        repeated=repeated,
        personal=counting.personal_data(documents),
        redacted=dict(reading.redacted),
        tokens=tokens,
        tokens_fault=no_tokenizer,
        rows=_rows(recipe, tokenizer, parts.train if parts else documents) if tokenizer else [],
    )


def _sources(recipe: Recipe, documents: Sequence[Document], parts: Parts | None) -> list[Source]:
    """Those of a mixture; none of a text alone."""
    from ft_toolkit.text.look import Source

    if len(recipe.corpora) < 2:
        return []
    found = []
    for corpus in recipe.corpora:
        own = [document for document in documents if document.corpus == corpus.label]
        sizes: dict[str, int] = {
            name: sum(d.corpus == corpus.label for d in part) for name, part in parts or ()
        }
        size = sum(len(document.text.encode()) for document in own)
        found.append(Source(corpus.label, len(own), size, sizes, corpus.weight))
    return found


def _parts(recipe: Recipe, screened: Screened, copies: int) -> tuple[Parts | None, str | None]:
    from ft_toolkit.text.splitting import parted

    try:
        return parted(screened, recipe.corpora, copies), None
    except FtError as error:
        return None, str(error)


def _tokenizer(recipe: Recipe) -> tuple[PlainTokenizer | None, str | None]:
    """The base's tokenizer; or why there is none, since the corpus can be looked at without."""
    from ft_toolkit.models.plain_tokenizer import plain_tokenizer

    if recipe.adapter.tokenizer == "train":
        return None, "the tokenizer will be trained on the training part"
    try:
        return plain_tokenizer(recipe.base), None
    except FtError as error:
        return None, str(error)


def _tokens(base: str, tokenizer: PlainTokenizer, documents: Sequence[Document], texts: list[str]) -> Tokens:
    from ft_toolkit.text.look import Broken, Tokens, frequent_words, histogram

    total = sum(len(document.text.encode()) for document in documents)
    read = sum(len(text.encode()) for text in texts)
    ids = tokenizer.ids(texts)
    count = sum(map(len, ids))
    unknown = None
    if tokenizer.unknown is not None:
        unknown = sum(each.count(tokenizer.unknown) for each in ids) / max(1, count)
    words = frequent_words(texts, least=3)
    # a space before: most tokenizers write a word differently at the begin of a text
    broken = [
        Broken(word, times, tokenizer.pieces(pieces))
        for (word, times), pieces in zip(words, tokenizer.ids([f" {word}" for word, _ in words]), strict=True)
        if len(pieces) >= BROKEN_PIECES
    ]
    broken.sort(key=lambda each: -each.count * (len(each.pieces) - BROKEN_PIECES + 1))
    # documents that the sample does not hold are as long as their share of bytes says
    per_byte = count / max(1, read)
    lengths = [round(len(document.text.encode()) * per_byte) for document in documents]
    if read >= total:
        lengths = [len(each) for each in ids]
    return Tokens(
        base=base,
        read_bytes=read,
        is_sample=read < total,
        tokens=count if read >= total else round(total * per_byte),
        bytes_per_token=read / max(1, count),
        unknown_fraction=unknown,
        lengths=histogram(lengths),
        broken=broken[:BROKEN_WORDS],
    )


def _rows(recipe: Recipe, tokenizer: PlainTokenizer, documents: Sequence[Document]) -> list[str]:
    """The first rows of the training before it shuffles them, token by token.

    Those of a masked model have their first masks. Families that take no packed rows read a document a row.
    """
    import numpy as np

    from ft_toolkit.text.blocks import BLOCK_TOKENS, Encoded, mask
    from ft_toolkit.text.packing import pack

    block = recipe.training.block_tokens or min(BLOCK_TOKENS, tokenizer.positions or BLOCK_TOKENS)
    encoded, size = [], 0
    for document in documents:
        ids = np.array(tokenizer.ids([document.text[: 40 * ROWS * block]])[0], np.int32)
        if len(ids):
            encoded.append(
                Encoded(document, ids, np.ones(len(ids), bool), np.arange(len(ids), dtype=np.int32))
            )
        size += len(ids)
        if size > (ROWS + 1) * block:
            break
    if not encoded:
        return []
    rows = list(pack(encoded, tokenizer.objective, tokenizer.begin, tokenizer.end, block)[:ROWS])
    if tokenizer.mask is not None:
        plain = np.array(tokenizer.plain_ids, np.int32)
        plan = recipe.training
        rows = [mask(row, plan.seed, 0, tokenizer.mask, plain, plan.mask_fraction) for row in rows]
    return ["|".join(tokenizer.pieces([int(token) for token in row.input_ids])) for row in rows]
