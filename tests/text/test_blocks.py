"""Documents to rows: every token is asked for once, and none sees another document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ft_toolkit import shipped
from ft_toolkit.text.blocks import (
    JOINT,
    NO_TARGET,
    Encoded,
    collate,
    encode,
    encode_joined,
    mask,
)
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import SHORTEST_MASKED_PIECE, pack
from ft_toolkit.text.rows import Row
from ft_toolkit.text.screening import repeated_lines

Objective = Literal["causal", "masked"]
FIRST_ID = 100  # of content: below stand the special tokens
MASK = 3
REPLACEMENTS = np.arange(1_000_000, 1_000_500, dtype=np.int32)

properties = settings(derandomize=True, deadline=None, max_examples=50)
lengths = st.lists(st.integers(1, 70), min_size=1, max_size=8)
block_sizes = st.integers(8, 40)
frames = st.sampled_from([(None, None), (0, 0), (1, 2), (0, None), (None, 0)])


def encoded(sizes: Sequence[int]) -> list[Encoded]:
    """Documents of given token counts; every token of all of them has an id of its own."""
    documents, first = [], FIRST_ID
    for number, size in enumerate(sizes):
        ids = np.arange(first, first + size, dtype=np.int32)
        document = TextDocument(f"{number}.txt", 0, f"document {number}")
        documents.append(Encoded(document, ids, np.ones(size, np.bool_), np.arange(size, dtype=np.int32)))
        first += size
    return documents


def content(documents: Sequence[Encoded]) -> list[int]:
    return [int(token) for document in documents for token in document.ids]


def framed(document: Encoded, begin: int | None, end: int | None) -> list[int]:
    return [*([] if begin is None else [begin]), *document.ids.tolist(), *([] if end is None else [end])]


def pairs(row: Row) -> list[tuple[int, int]]:
    return list(zip(row.input_ids.tolist(), row.targets.tolist(), strict=True))


def pieces(row: Row) -> list[list[int]]:
    """The input ids of each segment of a row."""
    return [row.input_ids[row.segments == segment].tolist() for segment in range(row.segments.max() + 1)]


# --- pack ------------------------------------------------------------------------------------------


def test_two_documents_in_one_causal_row_as_worked_out_by_hand() -> None:
    documents = encoded([2, 1])  # ids 100 101 and 102
    (row,) = pack(documents, "causal", begin_id=7, end_id=8, block_tokens=16)
    assert row.input_ids.tolist() == [7, 100, 101, 7, 102]
    assert row.targets.tolist() == [100, 101, 8, 102, 8]
    assert row.positions.tolist() == [0, 1, 2, 0, 1]
    assert row.segments.tolist() == [0, 0, 0, 1, 1]


def test_a_document_that_crosses_a_causal_row_goes_on_in_the_next() -> None:
    first, second = pack(encoded([9]), "causal", begin_id=7, end_id=8, block_tokens=8)
    assert first.input_ids.tolist() == [7, 100, 101, 102, 103, 104, 105, 106]
    assert second.input_ids.tolist() == [107, 108]
    assert second.targets.tolist() == [108, 8]
    assert second.positions.tolist() == [0, 1]


def test_two_documents_in_one_masked_row_as_worked_out_by_hand() -> None:
    (row,) = pack(encoded([2, 1]), "masked", begin_id=7, end_id=8, block_tokens=16)
    no = NO_TARGET
    assert row.input_ids.tolist() == [7, 100, 101, 8, 7, 102, 8]
    assert row.targets.tolist() == [no, 100, 101, no, no, 102, no]
    assert row.positions.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert row.segments.tolist() == [0, 0, 0, 0, 1, 1, 1]


@properties
@given(lengths, block_sizes, frames, st.booleans())
def test_causal_rows_ask_each_pair_of_each_framed_document_exactly_once(
    sizes: list[int], block_tokens: int, frame: tuple[int | None, int | None], packed: bool
) -> None:
    documents = encoded(sizes)
    rows = pack(documents, "causal", *frame, block_tokens, packed=packed)
    streams = [framed(document, *frame) for document in documents]
    expected = Counter(pair for ids in streams for pair in pairwise(ids))
    assert Counter(pair for row in rows for pair in pairs(row)) == expected


@properties
@given(lengths, block_sizes, frames)
def test_every_packed_causal_row_but_the_last_is_full(
    sizes: list[int], block_tokens: int, frame: tuple[int | None, int | None]
) -> None:
    rows = pack(encoded(sizes), "causal", *frame, block_tokens)
    assert all(len(row.input_ids) == block_tokens for row in rows[:-1])
    assert all(0 < len(row.input_ids) <= block_tokens for row in rows[-1:])


@properties
@given(lengths, block_sizes, st.sampled_from([0, 1, 2]))
def test_the_end_of_every_document_is_learnt(sizes: list[int], block_tokens: int, end_id: int) -> None:
    rows = pack(encoded(sizes), "causal", end_id, end_id, block_tokens)
    targets = [target for row in rows for target in row.targets.tolist()]
    assert targets.count(end_id) == len(sizes)
    assert NO_TARGET not in targets


@properties
@given(lengths, block_sizes, frames, st.booleans(), st.sampled_from(["causal", "masked"]))
def test_positions_restart_with_each_piece_and_segments_count_the_pieces(
    sizes: list[int],
    block_tokens: int,
    frame: tuple[int | None, int | None],
    packed: bool,
    objective: Objective,
) -> None:
    documents = encoded(sizes)
    owner = {int(token): n for n, document in enumerate(documents) for token in document.ids}
    for row in pack(documents, objective, *frame, block_tokens, packed=packed):
        found = pieces(row)
        expected = [n for n, piece in enumerate(found) for _ in piece]
        assert row.segments.tolist() == expected  # 0 0 0 1 1 2 …: in order, none left out
        assert row.positions.tolist() == [position for piece in found for position in range(len(piece))]
        owners = [{owner[token] for token in piece if token >= FIRST_ID} for piece in found]
        assert all(len(one) <= 1 for one in owners)  # no piece mixes documents
        assert packed or len(found) == 1


@properties
@given(lengths, block_sizes, frames, st.booleans())
def test_masked_rows_ask_each_token_exactly_once_and_never_a_special_one(
    sizes: list[int], block_tokens: int, frame: tuple[int | None, int | None], packed: bool
) -> None:
    documents = encoded(sizes)
    rows = pack(documents, "masked", *frame, block_tokens, packed=packed)
    asked = [pair for row in rows for pair in pairs(row) if pair[1] != NO_TARGET]
    assert all(shown == target for shown, target in asked)
    assert sorted(target for _, target in asked) == content(documents)
    unasked = {shown for row in rows for shown, target in pairs(row) if target == NO_TARGET}
    assert unasked <= {special for special in frame if special is not None}


@properties
@given(lengths, block_sizes, frames, st.booleans())
def test_frames_stand_around_each_masked_piece_and_rows_keep_their_size(
    sizes: list[int], block_tokens: int, frame: tuple[int | None, int | None], packed: bool
) -> None:
    begin, end = frame
    for row in pack(encoded(sizes), "masked", begin, end, block_tokens, packed=packed):
        assert len(row.input_ids) <= block_tokens
        for piece in pieces(row):
            assert begin is None or piece[0] == begin
            assert end is None or piece[-1] == end
            inside = piece[begin is not None : len(piece) - (end is not None)]
            assert inside == list(range(inside[0], inside[0] + len(inside)))  # one unbroken stretch


def test_a_masked_piece_is_not_begun_where_hardly_a_word_fits() -> None:
    documents = encoded([20, 40])  # 2 + 20 tokens leave room for 8 more of 32, fewer than a piece wants
    rows = pack(documents, "masked", 1, 2, block_tokens=32)
    assert [len(row.input_ids) for row in rows] == [22, 32, 12]
    assert SHORTEST_MASKED_PIECE > 32 - 22 - 2


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_unpacked_rows_hold_one_piece_each_and_stand_by_length(objective: Objective) -> None:
    rows = pack(encoded([3, 40, 1, 12]), objective, 0, 0, block_tokens=16, packed=False)
    sizes = [len(row.input_ids) for row in rows]
    assert sizes == sorted(sizes)
    assert all(row.segments.max() == 0 for row in rows)
    assert len(rows) == 3 + 3  # the document of 40 takes three rows, each other one


# --- mask ------------------------------------------------------------------------------------------


def masks(rows: Sequence[Row], seed: int = 0, epoch: int = 0) -> dict[int, tuple[int, bool]]:
    """What stands in place of each content token, and whether it is asked for."""
    found = {}
    for row in rows:
        masked = mask(row, seed, epoch, MASK, REPLACEMENTS, fraction=0.15)
        for token, shown, target in zip(row.input_ids, masked.input_ids, masked.targets, strict=True):
            if token >= FIRST_ID:
                found[int(token)] = (int(shown), target != NO_TARGET)
    return found


@properties
@given(lengths, block_sizes, block_sizes, st.randoms(use_true_random=False), st.booleans())
def test_a_token_is_masked_alike_whatever_rows_it_stands_in(
    sizes: list[int], block_tokens: int, other: int, random: Random, packed: bool
) -> None:
    documents = encoded(sizes)
    shuffled = random.sample(documents, len(documents))
    rows = pack(documents, "masked", 1, 2, block_tokens)
    others = pack(shuffled, "masked", None, 0, other, packed=packed)
    assert masks(rows) == masks(others)


def test_another_epoch_another_seed_and_another_document_are_masked_otherwise() -> None:
    documents = encoded([4000, 4000])
    rows = pack(documents, "masked", 1, 2, block_tokens=512)

    def chosen(seed: int, epoch: int) -> set[int]:
        return {token for token, (_, asked) in masks(rows, seed, epoch).items() if asked}

    first = chosen(0, 0)
    assert first == chosen(0, 0)
    in_first_document = {token - FIRST_ID for token in first if token < FIRST_ID + 4000}
    in_second_document = {token - FIRST_ID - 4000 for token in first} - set(range(-4000, 0))
    # 15 % of 15 % of 4000 positions coincide by chance: 90, standard deviation 9.4
    assert 50 < len(in_first_document & in_second_document) < 130
    for other in (chosen(0, 1), chosen(1, 0), chosen(1, 1)):
        assert 110 < len(first & other) < 250  # by chance 180 of 8000, standard deviation 13


def test_seed_and_epoch_are_not_interchangeable() -> None:
    rows = pack(encoded([400]), "masked", 1, 2, block_tokens=512)
    assert masks(rows, seed=3, epoch=5) != masks(rows, seed=5, epoch=3)


def test_fifteen_percent_are_chosen_and_shown_eighty_ten_ten() -> None:
    size = 40_000
    found = masks(pack(encoded([size]), "masked", 1, 2, block_tokens=512))
    chosen = {token: shown for token, (shown, asked) in found.items() if asked}
    assert len(found) == size
    assert len(chosen) / size == pytest.approx(0.15, abs=0.0072)  # four standard errors, here and below
    hidden = sum(shown == MASK for shown in chosen.values())
    random = [shown for shown in chosen.values() if shown >= REPLACEMENTS[0]]
    stayed = sum(shown == token for token, shown in chosen.items())
    assert hidden + len(random) + stayed == len(chosen)
    assert hidden / len(chosen) == pytest.approx(0.8, abs=0.021)
    assert len(random) / len(chosen) == pytest.approx(0.1, abs=0.016)
    assert stayed / len(chosen) == pytest.approx(0.1, abs=0.016)
    assert len(set(random)) > 300  # of 500: the replacements are used, not one of them


@properties
@given(lengths, block_sizes, st.integers(0, 99), st.integers(0, 9))
def test_masking_leaves_specials_and_unchosen_tokens_as_they_are(
    sizes: list[int], block_tokens: int, seed: int, epoch: int
) -> None:
    for row in pack(encoded(sizes), "masked", 1, 0, block_tokens):
        masked = mask(row, seed, epoch, MASK, REPLACEMENTS, fraction=0.15)
        special, chosen = row.targets == NO_TARGET, masked.targets != NO_TARGET
        assert not (special & chosen).any()
        assert (masked.input_ids[~chosen] == row.input_ids[~chosen]).all()
        assert (masked.targets[chosen] == row.targets[chosen]).all()
        assert (masked.positions == row.positions).all()
        assert (masked.segments == row.segments).all()


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, 50)])
def test_a_share_of_nothing_or_everything_is_exact(fraction: float, expected: int) -> None:
    (row,) = pack(encoded([50]), "masked", 1, 2, block_tokens=64)
    masked = mask(row, 0, 0, MASK, REPLACEMENTS, fraction)
    assert (masked.targets != NO_TARGET).sum() == expected


# --- collate ---------------------------------------------------------------------------------------

CAUSAL = """
1 0 0 0 0
1 1 0 0 0
1 1 1 0 0
0 0 0 1 0
0 0 0 1 1
"""
MASKED = """
1 1 1 0 0
1 1 1 0 0
1 1 1 0 0
0 0 0 1 1
0 0 0 1 1
"""
CAUSAL_PADDED = """
1 0 0 0 0
1 1 0 0 0
0 0 1 0 0
0 0 1 1 0
0 0 1 1 1
"""
MASKED_PADDED = """
1 1 0 0 0
1 1 0 0 0
0 0 1 1 1
0 0 1 1 1
0 0 1 1 1
"""


def drawn(picture: str) -> list[list[bool]]:
    return [[cell == "1" for cell in line.split()] for line in picture.split("\n") if line]


def hand_rows() -> list[Row]:
    """A row of two documents (three and two tokens) and a shorter one of one document."""

    def row(ids: list[int], positions: list[int], segments: list[int]) -> Row:
        targets = [token + 1 for token in ids]
        values = (np.array(column, dtype=np.int32) for column in (ids, targets, positions, segments))
        return Row(*values, np.zeros(len(ids), dtype=np.uint64))

    return [row([5, 6, 7, 8, 9], [0, 1, 2, 0, 1], [0, 0, 0, 1, 1]), row([10, 11], [0, 1], [0, 0])]


@pytest.mark.parametrize(
    ("objective", "pictures"), [("causal", (CAUSAL, CAUSAL_PADDED)), ("masked", (MASKED, MASKED_PADDED))]
)
def test_a_token_sees_its_own_document_and_padding_sees_padding(
    objective: Objective, pictures: tuple[str, str]
) -> None:
    seen = collate(hand_rows(), objective).attention_mask
    assert seen.shape == (2, 1, 5, 5)
    assert (seen == 0).squeeze(1).tolist() == [drawn(picture) for picture in pictures]
    assert (seen[seen != 0] < -1e30).all()
    assert torch.isfinite(seen).all()  # −inf would turn a row of padding into nan


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_rows_are_padded_on_the_right_and_padding_is_no_target(objective: Objective) -> None:
    batch = collate(hand_rows(), objective)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [10, 11, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 8, 9, 10], [11, 12, NO_TARGET, NO_TARGET, NO_TARGET]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_unpacked_rows_get_a_plain_mask_of_zeros_and_ones(objective: Objective) -> None:
    rows = pack(encoded([1, 3]), objective, 0, 0, block_tokens=8, packed=False)
    extra = objective == "masked"  # a masked row holds both specials, a causal one only the first as input
    seen = collate(rows, objective, packed=False).attention_mask
    assert seen.tolist() == [[1] * (2 + extra) + [0, 0], [1] * (4 + extra)]


# --- encode ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {name: AutoTokenizer.from_pretrained(shipped.starter(name)) for name in ("gpt2", "bert")}


@pytest.mark.parametrize(
    ("starter", "written"),
    [("gpt2", "<|endoftext|>"), ("bert", "[SEP]"), ("bert", "[CLS]"), ("bert", "[MASK]"), ("bert", "[PAD]")],
)
def test_a_special_token_written_in_a_document_is_only_characters(
    tokenizers: dict[str, PreTrainedTokenizerBase], starter: str, written: str
) -> None:
    tokenizer = tokenizers[starter]
    special = tokenizer.convert_tokens_to_ids(written)
    assert special in tokenizer(f"salt {written} pepper")["input_ids"]  # what would happen otherwise
    (found,) = encode([TextDocument("a.txt", 0, f"salt {written} pepper")], tokenizer)
    assert not set(found.ids.tolist()) & set(tokenizer.all_special_ids)


def test_gpt2_tokens_spell_the_document_exactly(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    text = " 1e5 <|endoftext|> crème  brûlée 🍕\n\n\tfine "
    (found,) = encode([TextDocument("a.txt", 0, text)], tokenizers["gpt2"])
    assert tokenizers["gpt2"].decode(found.ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("starter", ["gpt2", "bert"])
def test_documents_are_encoded_without_frames_and_alone(
    tokenizers: dict[str, PreTrainedTokenizerBase], starter: str
) -> None:
    tokenizer = tokenizers[starter]
    documents = [
        TextDocument(f"{n}.txt", 0, f"number {n} of the pots") for n in range(1005)
    ]  # beyond one batch
    found = encode(documents, tokenizer)
    assert [item.document for item in found] == documents
    for n in (0, 999, 1000, 1004):
        alone = tokenizer(documents[n].text, add_special_tokens=False)["input_ids"]
        assert found[n].ids.tolist() == alone


def test_a_document_without_tokens_is_left_out(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    documents = [TextDocument("a.txt", 0, "\u200d"), TextDocument("b.txt", 0, "salt")]
    bert = tokenizers["bert"]
    assert bert("\u200d", add_special_tokens=False)["input_ids"] == []
    assert [item.document.source for item in encode(documents, bert)] == ["b.txt"]


@pytest.mark.parametrize(
    ("starter", "expected"), [("gpt2", "First alone.\nLast alone."), ("bert", "first alone. last alone.")]
)
def test_tokens_of_repeated_lines_are_not_fresh(
    tokenizers: dict[str, PreTrainedTokenizerBase], starter: str, expected: str
) -> None:
    notice = "All rights reserved, always."
    documents = [
        TextDocument("a.txt", 0, f"First alone.\n{notice}\nLast alone."),
        TextDocument("b.txt", 0, f"Other.\n{notice}"),
    ]
    first, _ = encode(documents, tokenizers[starter], repeated_lines(documents))
    assert tokenizers[starter].decode(first.ids[first.is_fresh]) == expected
    everything, _ = encode(documents, tokenizers[starter])
    assert everything.is_fresh.all()


@pytest.mark.parametrize("starter", ["gpt2", "bert"])
def test_pieces_of_a_joined_text_are_together_the_whole_and_each_begins_in_its_document(
    tokenizers: dict[str, PreTrainedTokenizerBase], starter: str
) -> None:
    texts = ["Boil the pasta.", "물과 소금 🙂", "x", "Chop two onions\n\nand fry them."]
    documents = [TextDocument("t.txt", row, text) for row, text in enumerate(texts)]
    tokenizer = tokenizers[starter]
    pieces = encode_joined(documents, tokenizer)
    whole = tokenizer.encode(JOINT.join(texts), add_special_tokens=False)
    assert [piece.document for piece in pieces] == documents
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == whole
    for piece in pieces[1:]:
        begins = tokenizer.decode(piece.ids[:1]).strip().lower()
        assert begins in ("", "[unk]") or piece.document.text.lower().startswith(begins[:1]) or "�" in begins


@pytest.mark.parametrize("starter", ["gpt2", "bert"])
def test_pieces_of_a_word_share_its_number(
    tokenizers: dict[str, PreTrainedTokenizerBase], starter: str
) -> None:
    (document,) = encode([TextDocument("t.txt", 0, "the antihypertensive drug")], tokenizers[starter])
    words = document.word_ids.tolist()
    assert words[0] == 0
    assert words[-1] == 2
    assert words.count(1) > 2
    assert words == sorted(words)
