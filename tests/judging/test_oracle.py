"""Our scores against a plain float64 reading that shares no code with the toolkit's.

Tokenisation, windows, groups and log-softmax are written here anew, from docs/numbers.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import batches_of
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from ft_toolkit import shipped
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import TextDocument

STARTERS = ("gpt2", "bert")
NATS_PER_TOKEN = 1e-5
NATS_OF_ONE_TOKEN = 3e-5  # three times what float32 was seen to lose: no error may hide behind another
MOST_TOKENS = {"gpt2": 256, "bert": 126}  # of one window, [CLS] and [SEP] not counted
GROUPS = 7
WORD = 2**64
STORY = (
    "Chop the onion and let it soften in olive oil over a low heat. Meanwhile bring a large pot of salted "
    "water to the boil. A patient who has had a fever for three days should drink plenty of water, rest, and "
    "see a doctor if breathing becomes difficult. The old house stood at the end of the lane, and nobody had "
    "lived in it since the winter of 1893. "
)


def of_exactly(tokens: int, tokenizer: PreTrainedTokenizerBase, skip: int = 0) -> str:
    """A text of so many tokens: words of the story, and ' the' until it is full."""
    words = (STORY * 12).split()[skip:]
    text = words[0]
    for word in words[1:]:
        if len(ids_of(f"{text} {word}", tokenizer)) > tokens:
            break
        text = f"{text} {word}"
    text += " the" * (tokens - len(ids_of(text, tokenizer)))
    assert len(ids_of(text, tokenizer)) == tokens
    return text


def texts(name: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    most = MOST_TOKENS[name]
    return [
        "a",  # one token
        "The pasta is ready.",
        "감기에 걸리면 물을 많이 마시고 푹 쉬어야 합니다.",
        "Well done 🙂👩‍⚕️🇮🇹 and good night 🌙",
        unicodedata.normalize("NFD", "Caffè, crème brûlée, jalapeño, tiết canh, naïve."),
        "z̷̡̛a̸̢l̵g̶o̷ text climbs",
        "Ends here <|endoftext|> [SEP] [MASK] or does it?",  # just characters
        "  two  spaces,\ttabs\n\n\nand   lines \n",
        "1234567890 3.14159 −40 °C ½ tsp",
        "def f(x):\n    return {x: [x]}\n",
        "Müller aß 3 Brötchen; Οδυσσεύς; Привет; 你好，世界。",
        "antidisestablishmentarianism" * 5,
        "¿Dónde está? «Qui», disse. „Ja“, sagte er.",
        "I",
        "\u200bzero\u200dwidth\ufeff and soft\u00adhyphen",
        of_exactly(2, tokenizer),
        of_exactly(most, tokenizer, skip=3),
        of_exactly(most + 1, tokenizer, skip=5),
        of_exactly(most + most // 2 + 1, tokenizer, skip=11),
        of_exactly(3 * most, tokenizer, skip=13),
    ]


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def nats(logits: torch.Tensor, target: int) -> float:
    assert logits.dtype == torch.float64
    shifted = logits - logits.max()
    return float(shifted.exp().sum().log() - shifted[target])


def causal_reading(model: torch.nn.Module, ids: list[int], begin: int) -> list[float]:
    """Half-window steps; a token counts in the first window that reaches it."""
    most = MOST_TOKENS["gpt2"]
    stream = [begin, *ids]  # stream[place] is read to predict ids[place]
    found: list[float] = []
    start = 0
    while len(found) < len(ids):
        window = stream[start : start + most]
        logits = model(torch.tensor([window])).logits[0]
        for place in range(len(found), min(start + most, len(ids))):
            found.append(nats(logits[place - start], ids[place]))
        start += most // 2
    return found


def splitmix(number: int) -> int:
    number = (number + 0x9E3779B97F4A7C15) % WORD
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % WORD
    return number ^ (number >> 31)


def covering_groups(text: str, tokens: int) -> Iterator[tuple[int, int, list[int]]]:
    """(start, stop, hidden positions): windows of nearly equal size, each parted by a permutation drawn from
    the text's sha256, the position and seed 0."""
    windows = -(-tokens // MOST_TOKENS["bert"])
    edges = [round(Fraction(tokens * i, windows)) for i in range(windows + 1)]
    key = int.from_bytes(sha256(text.encode()).digest()[:8], "big")
    for start, stop in pairwise(edges):
        draw = {place: splitmix(splitmix((key + place) % WORD) ^ splitmix(0)) for place in range(start, stop)}
        order = sorted(draw, key=draw.__getitem__)
        for group in range(min(GROUPS, stop - start)):
            yield start, stop, order[group::GROUPS]


def masked_reading(
    model: torch.nn.Module, text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[float]:
    cls, sep, mask = (tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
    found: dict[int, float] = {}
    for start, stop, hidden in covering_groups(text, len(ids)):
        shown = [mask if place in hidden else ids[place] for place in range(start, stop)]
        logits = model(torch.tensor([[cls, *shown, sep]])).logits[0]
        for place in hidden:
            assert place not in found
            found[place] = nats(logits[place - start + 1], ids[place])
    return [found[place] for place in range(len(ids))]


@dataclass(frozen=True)
class Reading:
    """One document, and what the plain float64 reading says it costs."""

    text: str
    nll_nats: list[float]  # of each token


@pytest.fixture(scope="module")
def readings() -> dict[str, list[Reading]]:
    found = {}
    for name, auto in (("gpt2", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)):
        folder = shipped.starter(name)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = auto.from_pretrained(folder, dtype=torch.float64).eval()
        found[name] = []
        for text in texts(name, tokenizer):
            ids = ids_of(text, tokenizer)
            with torch.no_grad():
                each = (
                    causal_reading(model, ids, tokenizer.convert_tokens_to_ids("<|endoftext|>"))
                    if name == "gpt2"
                    else masked_reading(model, text, ids, tokenizer)
                )
            found[name].append(Reading(text, each))
    return found


@pytest.mark.parametrize("batch_tokens", [1, 4096], ids=["a row at a time", "large batches"])
@pytest.mark.parametrize("name", STARTERS)
def test_every_document_costs_what_a_plain_float64_reading_says(
    readings: dict[str, list[Reading]], name: str, batch_tokens: int
) -> None:
    base = load_base(f"starter/{name}")
    documents = encode(
        [TextDocument("t.txt", row, r.text) for row, r in enumerate(readings[name])], base.tokenizer
    )
    protocol = choose_protocol(base, "covering" if name == "bert" else "auto")
    with batches_of(batch_tokens):
        found = score(base, documents, protocol)
    assert len(found) == len(readings[name]) == 20
    for reading, nll in zip(readings[name], found, strict=True):
        assert len(nll) == len(reading.nll_nats), reading.text[:40]
        change = nll - np.array(reading.nll_nats)
        assert abs(change.sum()) / len(change) < NATS_PER_TOKEN, reading.text[:40]
        assert np.abs(change).max() < NATS_OF_ONE_TOKEN, reading.text[:40]


@pytest.mark.parametrize("name", STARTERS)
def test_the_oracle_reads_short_exact_and_long_documents(
    readings: dict[str, list[Reading]], name: str
) -> None:
    most = MOST_TOKENS[name]
    sizes = {len(reading.nll_nats) for reading in readings[name]}
    assert {1, 2, most, most + 1, 3 * most} <= sizes
    # a trained starter reads English far better than chance (ln 8192 = 9.01), so the oracle's texts do matter
    story = max((reading.nll_nats for reading in readings[name]), key=len)
    assert sum(story) / len(story) < 6.0
