"""Numbers that others published, read again from the real checkpoints: make live. Gigabytes are downloaded.

Sources, token by token or as totals, natural logarithms:
- github.com/awslabs/mlm-scoring, tests/test_scorers.py: "Hello world!" (its PyTorch scorers; gpt2 behind its
  begin of text), and "I am Sam." by both its backends; tolerance 1e-4, as there
- github.com/kanishkamisra/minicons, README: "The keys to the cabinet are on the table." (distilgpt2 without
  a begin of text, its scorer's default: the first token is context) and "The traveler lost the souvenir." by
  both estimands, the second token by token
- huggingface.co/docs/transformers/perplexity: gpt2-large on raw WikiText-2 at strides 1024 and 512
- transformers issue 13761: gpt2 by that page (29.94); its word perplexity by lm-evaluation-harness (37.37;
  table 3 of GPT-2's paper, Radford et al. 2019, has 37.50)
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator

import datasets
import numpy as np
import pytest
from huggingface_hub import constants

from ft_toolkit.judging.protocols import choose_protocol, prepare, score
from ft_toolkit.judging.totals import document_totals
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.text.documents import TextDocument

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.environ.get("FT_LIVE") != "1", reason="asks the real Hub: FT_LIVE=1, make live"),
    pytest.mark.timeout(3600),
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def network_is_on() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)  # conftest.py switched it off
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        yield


def nats(name: str, text: str, protocol: str) -> np.ndarray:
    base = load_base(name)
    chosen = choose_protocol(base, protocol)
    documents = prepare([TextDocument("text", 0, text)], base.tokenizer, chosen)
    (nll,) = score(base, documents, chosen)
    return nll


@pytest.mark.parametrize(
    ("name", "protocol", "each"),
    [
        ("google-bert/bert-base-cased", "pll", (6.126739, 5.501766, 0.782497)),
        ("distilbert/distilbert-base-cased", "pll", (5.187490, 6.390862, 3.822556)),
        ("albert/albert-base-v2", "pll", (16.480087, 12.897506, 4.277406)),
        ("openai-community/gpt2", "document", (8.293947, 6.387562, 1.313867)),
    ],
)
def test_hello_world_costs_what_mlm_scoring_says(name: str, protocol: str, each: tuple[float, ...]) -> None:
    np.testing.assert_allclose(nats(name, "Hello world!", protocol), each, atol=TOLERANCE, rtol=0)


KEYS, SOUVENIR = "The keys to the cabinet are on the table.", "The traveler lost the souvenir."


@pytest.mark.parametrize(
    ("name", "protocol", "text", "total"),
    [
        ("google-bert/bert-base-uncased", "pll", "I am Sam.", 13.306595),
        ("google-bert/bert-base-uncased", "pll", KEYS, 13.962686),
        ("google-bert/bert-base-uncased", "pll", SOUVENIR, 18.014726),
        ("google-bert/bert-base-uncased", "word-l2r", SOUVENIR, 32.779836),
        ("distilbert/distilgpt2", "concatenated", KEYS, 39.879738),
    ],
)
def test_a_sentence_costs_what_was_published(name: str, protocol: str, text: str, total: float) -> None:
    assert np.nansum(nats(name, text, protocol)) == pytest.approx(total, abs=TOLERANCE)


def test_pieces_of_a_word_cost_what_minicons_says_where_the_later_ones_are_hidden() -> None:
    each = (0.073246, 9.668402, 6.955361, 1.192318, 7.776356, 6.989712, 0.037807, 0.086634)
    found = nats(
        "google-bert/bert-base-uncased", SOUVENIR, "word-l2r"
    )  # the traveler lost the so ##uven ##ir .
    np.testing.assert_allclose(found, each, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def wikitext() -> list[str]:
    rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")
    return [str(row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "stride", "perplexity"),
    [
        ("openai-community/gpt2", 1024, 29.94),
        ("openai-community/gpt2-large", 1024, 19.44),
        ("openai-community/gpt2-large", 512, 16.44),
    ],
)
def test_wikitext_by_the_page_of_transformers(
    wikitext: list[str], name: str, stride: int, perplexity: float
) -> None:
    base = load_base(name)
    protocol = choose_protocol(base, "concatenated", 1024, stride)
    documents = prepare([TextDocument("wikitext", 0, "\n\n".join(wikitext))], base.tokenizer, protocol)
    (nll,) = score(base, documents, protocol)
    assert document_totals(documents[0], nll).perplexity == pytest.approx(perplexity, abs=0.01)


def test_gpt2s_word_perplexity_is_what_lm_evaluation_harness_says() -> None:
    """Its task reads whole pages, detokenised, and divides by the words of the page as it was before."""
    task = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext", reason="extra: oracles")
    pages = datasets.load_dataset("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", split="test")
    texts = [TextDocument("page", row, task.wikitext_detokenizer(page)) for row, page in enumerate(pages)]
    words = sum(len(re.split(r"\s+", page["page"])) for page in pages)
    base = load_base("openai-community/gpt2")
    protocol = choose_protocol(base, "rolling")
    documents = prepare(texts, base.tokenizer, protocol)
    found = score(base, documents, protocol)
    total = math.fsum(float(nll.sum()) for nll in found)
    assert math.exp(total / words) == pytest.approx(37.37, abs=0.01)
