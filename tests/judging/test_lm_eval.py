"""Our causal scores against lm-evaluation-harness: make oracles."""

from __future__ import annotations

import pytest

from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.shipped import corpus
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import TextDocument


@pytest.mark.oracle
def test_rolling_costs_what_lm_eval_says_over_one_window_and_over_many() -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="make oracles installs lm-eval")
    base = load_base("starter/gpt2")
    recipes = read_source(str(corpus("italian-cooking"))).documents[:8]
    texts = [
        "a",
        "감기에는 물을 많이 마신다.",
        "Well done 🙂",
        "  two  spaces,\n\nand lines \n",
        " the" * 256,
        " the" * 257,
        " the" * 512,
        " and the" * 300,
        " ".join(recipe.text for recipe in recipes[:3]),
    ]
    texts += [document.text[:600] for document in recipes]
    documents = encode([TextDocument("t.txt", row, text) for row, text in enumerate(texts)], base.tokenizer)
    sizes = [len(document.ids) for document in documents]
    assert (len(sizes), min(sizes)) == (17, 1)
    assert {base.positions, 2 * base.positions} <= set(sizes)  # exactly full windows
    assert max(sizes) > 2 * base.positions  # several windows
    ours = score(base, documents, choose_protocol(base, "rolling"))

    judge = huggingface.HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1)
    assert (judge.max_length, judge.prefix_token_id) == (base.positions, base.special.begin)
    for text, nll in zip(texts, ours, strict=True):
        request = type("Request", (), {"args": (text,)})()
        (theirs,) = judge.loglikelihood_rolling([request], disable_tqdm=True)
        assert -nll.sum() == pytest.approx(theirs, rel=1e-6)
