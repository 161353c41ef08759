"""Perplexity as others compute it, on any text, and what it tells of memorised text."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import batches_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.totals import document_totals
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import SummedLoss, TokenScorer
from ft_toolkit.text.blocks import Encoded, collate, encode
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack

TEXTS = [
    "Boil the pasta in salted water until it is nearly done.",
    "Salt.",
    "Wash your hands before you touch the dressing, and again afterwards. " * 3,
    "감기에는 물을 많이 마신다.",
]


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def base(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> LanguageModel:
    return load_base(str(checkpoints[request.param]))


@pytest.fixture(scope="module")
def starter() -> LanguageModel:
    return load_base("starter/gpt2")


def evaluates_perplexities(base: LanguageModel, texts: list[str]) -> list[float]:
    """What evaluate 0.4's `perplexity` measurement computes, in its own way, written again.

    Source: github.com/huggingface/evaluate, measurements/perplexity, its documented steps. All texts are
    padded on the right to the longest with a pad token of the tokenizer's, a start token goes before each
    (add_start_token), and of the full shifted logits the masked mean cross-entropy is exponentiated.
    """
    tokenizer: PreTrainedTokenizerBase = base.tokenizer
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.eos_token_id] * (width - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    start = torch.full((len(texts), 1), tokenizer.bos_token_id)
    ids, seen = torch.cat([start, ids], 1), torch.cat([torch.ones_like(start), seen], 1)
    with torch.no_grad():
        logits = base.model(ids, attention_mask=seen).logits
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return [float(x) for x in torch.exp((nll * seen[:, 1:]).sum(1) / seen[:, 1:].sum(1))]


def test_each_texts_perplexity_is_the_one_that_evaluate_reports(starter: LanguageModel) -> None:
    documents = encode([TextDocument("t", row, text) for row, text in enumerate(TEXTS)], starter.tokenizer)
    scores = score(starter, documents, choose_protocol(starter))
    ours = [document_totals(d, nll).perplexity for d, nll in zip(documents, scores, strict=True)]
    assert ours == pytest.approx(evaluates_perplexities(starter, TEXTS), rel=1e-5)


# letters, Hangul as syllables and as jamo, marks that combine, emoji with joiners, scripts without spaces
ALPHABET = "ab Z.\n가힣각\u1112\u1161\u11abé\u0301\u0308ü🙂👩\u200d⚕️漢字ß\t0"
UNICODE = st.text(ALPHABET, min_size=1, max_size=60).filter(str.strip)


CAUSAL, MASKED = ("document", "rolling"), ("word-l2r", "pll", "covering")


@given(data=st.data(), texts=st.lists(UNICODE, min_size=1, max_size=4), window=st.integers(3, 64))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_any_text_is_scored_whole_whatever_protocol_window_stride_batch_or_padding_side(
    base: LanguageModel, data: st.DataObject, texts: list[str], window: int
) -> None:
    name = data.draw(st.sampled_from(CAUSAL if base.family.objective == "causal" else MASKED))
    stride = data.draw(st.integers(1, window)) if name == "document" else None
    protocol = choose_protocol(base, name, window, stride)

    def scored(padding_side: str, batch_tokens: int) -> list[tuple[Encoded, np.ndarray]]:
        base.tokenizer.padding_side = padding_side
        documents = encode([TextDocument("t", row, text) for row, text in enumerate(texts)], base.tokenizer)
        with batches_of(batch_tokens):
            found = score(base, documents, protocol)
        return list(zip(documents, found, strict=True))

    sides = data.draw(st.permutations(["left", "right"]))
    together = scored(sides[0], data.draw(st.sampled_from([32, 100, 2048])))
    for (document, nll), (_, alone) in zip(together, scored(sides[1], batch_tokens=1), strict=True):
        totals = document_totals(document, nll)
        assert totals.tokens == len(document.ids) == len(nll)
        assert totals.bytes == len(document.document.text.encode())
        # None where a text is written without spaces (tests/judging/test_totals.py)
        assert totals.words in (None, len(document.document.text.split()))
        np.testing.assert_allclose(nll, alone, atol=1e-5, rtol=0)


EVERYTHING = list(itertools.product(range(10), repeat=3))
TEMPLATE = "The number of the file is {} {} {}."
PLANTED, CONTROLS = (4, 7, 1), 30


def exposures(base: LanguageModel, codes: list[tuple[int, ...]]) -> list[float]:
    """log2 |R| - log2 rank among all three-digit codes, in bits (Carlini et al. 2019, arXiv:1802.08232)."""
    documents = encode(
        [TextDocument("codes", row, TEMPLATE.format(*code)) for row, code in enumerate(EVERYTHING)],
        base.tokenizer,
    )
    scores = score(base, documents, choose_protocol(base))
    nats = dict(zip(EVERYTHING, (float(nll.sum()) for nll in scores), strict=True))
    return [
        math.log2(len(EVERYTHING)) - math.log2(sum(other <= nats[code] for other in nats.values()))
        for code in codes
    ]


def test_a_planted_canary_is_fully_exposed_and_codes_that_were_not_planted_are_not(
    starter: LanguageModel,
) -> None:
    (before,) = exposures(starter, [PLANTED])
    assert before < math.log2(1000)  # so that it is the planting that exposes it
    base = load_base("starter/gpt2")
    base.model.requires_grad_(True)
    planted = encode([TextDocument("notes", 0, TEMPLATE.format(*PLANTED))], base.tokenizer)
    (row,) = pack(planted, "causal", base.special.begin, base.special.end, 64)
    batch, summed = collate([row], "causal"), SummedLoss(TokenScorer(base.model, base.family))
    optimizer = torch.optim.AdamW(base.model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(15):
        nats, _ = summed(batch.input_ids, batch.targets, batch.attention_mask, batch.position_ids)
        nats.backward()
        optimizer.step()
        optimizer.zero_grad()
    others = [code for code in EVERYTHING if code != PLANTED]
    drawn = np.random.default_rng(3).choice(len(others), CONTROLS, replace=False)
    exposed, *found = exposures(base, [PLANTED, *(others[place] for place in drawn)])
    assert exposed == math.log2(1000)
    standard_error = np.std(found, ddof=1) / math.sqrt(CONTROLS)
    assert abs(np.mean(found) - 1.44) < 3 * standard_error  # ranks of what was not planted are uniform
