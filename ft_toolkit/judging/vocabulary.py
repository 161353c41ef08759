"""What token ids are written as, and what kind of token each is: from tokenizer.json, without torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.network import hub_or_cache
from ft_toolkit.references import BaseReference, parse_base
from ft_toolkit.run import Run

KINDS = ("word start", "word piece", "number", "punctuation", "white space", "special token")
_START, _PIECE, _NUMBER, _PUNCTUATION, _SPACE, _SPECIAL = range(len(KINDS))
_FILE = "tokenizer.json"
_PART_OF_A_CHARACTER = "\ufffd"  # some of the bytes of a letter that has a token of its own nowhere
_WORD = "a"


@dataclass(frozen=True)
class _Written:
    text: str  # without a blank before it
    leads: bool  # a blank stands before it, or it begins a word
    trails: bool  # a word may begin behind it


class Vocabulary:
    """The tokens of a base, by their ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = (
            True  # as judging reads: "<|endoftext|>" in a text is just characters
        )
        self._special = {
            id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }  # of these a text's own tokens are [UNK] at most
        # a word's end and a word's beginning: beside them it shows whether a token brings a blank along
        self._before = tokenizer.encode(_WORD, add_special_tokens=False).ids
        behind = tokenizer.encode(f"{_WORD} {_WORD}", add_special_tokens=False).ids
        self._behind = behind[len(self._before) :]
        self._known: dict[int, _Written] = {}

    def text(self, token_id: int) -> str:
        """A token as it stands in a text; some bytes of a character as the vocabulary writes them."""
        text = self._written(token_id).text
        return str(self._tokenizer.id_to_token(token_id)) if _PART_OF_A_CHARACTER in text else text

    def spells(self, text: str, ids: NDArray[np.int32]) -> bool:
        """Whether these are the tokens of that text: whether this is the tokenizer that read it."""
        return bool(np.array_equal(self._tokenizer.encode(text, add_special_tokens=False).ids, ids))

    def spans(self, text: str, ids: NDArray[np.int32]) -> list[tuple[int, int]] | None:
        """Where each token stands in its text, as (first, behind the last) character.

        Tokens that are bytes of one character all have that character. None where these are not its tokens.
        """
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return list(found.offsets) if np.array_equal(found.ids, ids) else None

    def kinds(self, ids: NDArray[np.int32]) -> NDArray[np.int8]:
        """The kind of each token of one document, an index into KINDS; (n,) in the document's order.

        A token with a letter in it begins a word where a blank, the text's beginning, or anything but a
        letter or digit stands before it; elsewhere it is a piece of a word.
        """
        found = np.empty(len(ids), dtype=np.int8)
        before: _Written | None = None
        for place, token_id in enumerate(ids.tolist()):
            written = self._written(token_id)
            found[place] = _SPECIAL if token_id in self._special else _kind(written, before)
            before = written
        return found

    def _written(self, token_id: int) -> _Written:
        if token_id not in self._known:
            head, tail = self._decoded(self._before), self._decoded(self._behind).strip()
            whole = self._decoded([*self._before, token_id])
            text = whole.removeprefix(head) if whole.startswith(head) else self._decoded([token_id])
            followed = self._decoded([token_id, *self._behind])
            leads = text.startswith(" ")
            trails = followed.removesuffix(tail).endswith(" ")
            self._known[token_id] = _Written(text.removeprefix(" ") or text, leads, trails)
        return self._known[token_id]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _kind(written: _Written, before: _Written | None) -> int:
    text = written.text
    if not text.strip():
        return _SPACE
    if any(_is_letter(character) for character in text):
        is_start = before is None or (written.leads and before.trails) or not _ends_in_a_word(before.text)
        return _START if is_start else _PIECE
    if any(unicodedata.category(character).startswith("N") for character in text):
        return _NUMBER
    return _PUNCTUATION


def _is_letter(character: str) -> bool:
    """Letters, and the marks upon them: a Thai vowel is no punctuation."""
    return unicodedata.category(character)[0] in "LM" or character == _PART_OF_A_CHARACTER


def _ends_in_a_word(text: str) -> bool:
    return bool(text) and (_is_letter(text[-1]) or text[-1].isdigit())


def read_vocabulary(run: Run, scores: TokenScores) -> Vocabulary | str:
    """The vocabulary of a run's base, or why there is none to be had here."""
    try:
        path = _tokenizer_file(parse_base(run.recipe.base))
        if path is None:
            return f"the base has no {_FILE}"
        vocabulary = Vocabulary(Tokenizer.from_file(str(path)))
    except Exception as error:  # the libraries fail in every way at a stranger's files, and without a network
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"the base's {_FILE} cannot be read ({reason})"
    texts = {row["id"]: row["text"] for row in run.read_table("documents.parquet", "id", "text")}
    kept = [
        (corpus.kind, document.id, document.base.ids)
        for corpus in scores.corpora
        for document in corpus.documents
        if document.base.ids is not None
    ]
    if not kept:
        return "the token ids were not kept (judging.keep_text: false)"
    for kind, name, ids in kept:
        text = texts.get(name) if kind == "held-out" else None
        if text is not None and ids is not None:  # one text tells: a base on the Hub may have changed
            return vocabulary if vocabulary.spells(text, ids) else f"the base's {_FILE} is another one"
    return vocabulary


def _tokenizer_file(base: BaseReference) -> Path | None:
    if base.folder is not None:
        return base.folder / _FILE if (base.folder / _FILE).is_file() else None
    if base.kind == "gguf":
        return None
    from huggingface_hub import hf_hub_download

    with hub_or_cache():
        return Path(hf_hub_download(base.place, _FILE, revision=base.revision))
