"""Tokens by their kind: known by hand, and the same for tokenizers of every make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import tokenizer_of
from tokenizers import Tokenizer

from ft_toolkit import shipped
from ft_toolkit.judging.vocabulary import KINDS, Vocabulary

TEXT = "# Broth\n\nSimmer 25 minutes, as grandmother cooks."


def tokens_of(family: str, text: str, folder: Path) -> list[tuple[str, str]]:
    """(text, kind) of each token, as a run of that family would have them."""
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(folder)
    vocabulary = Vocabulary(Tokenizer.from_file(str(folder / "tokenizer.json")))
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    assert vocabulary.spells(text, ids)
    assert not vocabulary.spells(f"{text} ", ids[:-1])
    kinds = vocabulary.kinds(ids)
    return [(vocabulary.text(id), KINDS[kind]) for id, kind in zip(ids.tolist(), kinds, strict=True)]


def test_the_tokens_of_gpt2_are_sorted_as_a_reader_would(tmp_path: Path) -> None:
    found = [kind for _, kind in tokens_of("gpt2", "# B\n\nS 25, grandmother's way.", tmp_path)]
    start, piece = "word start", "word piece"
    assert found == [
        *("punctuation", start, "white space", "white space", start, "number", "punctuation"),
        *(start, piece, piece, start, "punctuation"),  # grand, mother, 's, way
    ]


@pytest.mark.parametrize(
    "family",
    ["gpt2", "bert", "openai-gpt", "roberta", "llama", "xlm-roberta", "albert", "mpnet", "modernbert"],
)
def test_every_make_of_tokenizer_begins_the_same_words(family: str, tmp_path: Path) -> None:
    found = tokens_of(family, TEXT, tmp_path)
    starts = [text for text, kind in found if kind == "word start"]
    pieces = [text for text, kind in found if kind == "word piece"]
    words = ["broth", "simmer", "minutes", "as", "grandmother", "cooks"]
    assert [word.startswith(start.lower()) for word, start in zip(words, starts, strict=True)] == [True] * 6
    letters = "".join(filter(str.isalpha, "".join([*starts, *pieces])))  # some makes join a comma to a word
    assert sorted(letters.lower()) == sorted("".join(words))
    assert [kind for _, kind in found].count("number") in (1, 2)


def test_the_first_word_of_a_text_and_of_a_line_begins_a_word(tmp_path: Path) -> None:
    found = tokens_of("gpt2", "the\nthe(the the", tmp_path)
    assert [kind for text, kind in found if text == "the"] == ["word start"] * 4


def test_bytes_of_a_letter_and_marks_upon_letters_are_pieces_of_words(tmp_path: Path) -> None:
    found = tokens_of("gpt2", "日本 naïve", tmp_path)
    assert {kind for text, kind in found if text.strip()} <= {"word start", "word piece"}
    assert "\ufffd" not in "".join(text for text, _ in found)  # shown as the vocabulary writes them


def test_unknown_words_are_a_kind_of_their_own(tmp_path: Path) -> None:
    assert ("[UNK]", "special token") in tokens_of("bert", "soup 日本", tmp_path)


def test_a_special_token_written_in_a_text_is_just_characters() -> None:
    vocabulary = Vocabulary(Tokenizer.from_file(str(shipped.starter("gpt2") / "tokenizer.json")))
    read = tokenizer_of("gpt2")("<|endoftext|>", split_special_tokens=True)["input_ids"]
    assert len(read) > 1 and vocabulary.spells("<|endoftext|>", np.array(read))


def test_the_starters_have_no_token_without_a_kind_or_a_text() -> None:
    for name in ("gpt2", "bert"):
        path = shipped.starter(name) / "tokenizer.json"
        vocabulary = Vocabulary(Tokenizer.from_file(str(path)))
        ids = np.arange(len(json.loads(path.read_text())["model"]["vocab"]), dtype=np.int32)
        assert set(vocabulary.kinds(ids).tolist()) <= set(range(len(KINDS)))
        assert all(vocabulary.text(id) for id in ids.tolist())
