"""ft ladder: unigram, scratch, the recipe's adapter and full fine-tuning on the same held-out tokens."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tainted import with_tainted
from transformers import AutoTokenizer

from ft_toolkit import finetune as journey
from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.judging import drift, protocols
from ft_toolkit.judging.frequency import unigram_nats
from ft_toolkit.judging.run_scores import read
from ft_toolkit.judging.rungs import Ladder, show
from ft_toolkit.ladder import ladder, unigram_totals
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.text.splitting import split

QUIET = Screen(quiet=True)


def test_a_unigram_model_is_its_counts_with_one_added_to_each() -> None:
    counts = np.array([2, 0, 1])
    found = unigram_nats(counts, np.array([0, 1, 2, 2, 7], dtype=np.int32))
    assert np.exp(-found) == pytest.approx([3 / 6, 1 / 6, 2 / 6, 2 / 6, 1 / 6])
    assert unigram_nats(np.zeros(50, dtype=np.int64), np.array([9], dtype=np.int32)) == pytest.approx(
        [math.log(50)]
    )


def counted_by_hand(recipe: Recipe, run: Run, starter: str) -> tuple[float, int]:
    """Nats and tokens of the held-out text under the training text's counts, where the base is scored."""
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter(starter))
    parts = split(read_corpora(recipe.corpus).documents, recipe.corpus.split)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    counts = Counter(i for document in parts.train for i in ids(document.text))
    total = counts.total() + len(tokenizer)
    nats, tokens = 0.0, 0
    (held_out,) = (corpus for corpus in read(run).corpora if corpus.kind == "held-out")
    scored = {document.id: ~np.isnan(document.base.nats) for document in held_out.documents}
    for document in parts.test:
        for token, is_scored in zip(ids(document.text), scored[document.id], strict=True):
            nats -= is_scored * math.log((counts[token] + 1) / total)
            tokens += int(is_scored)
    return nats, tokens


@pytest.mark.parametrize(("family", "method"), [("gpt2", "lora"), ("bert", "pissa")])
def test_every_rung_reads_the_same_tokens_and_the_adapter_s_is_the_verdict_of_its_run(
    tiny_recipe: Callable[..., Recipe],
    short_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    family: str,
    method: str,
) -> None:
    monkeypatch.setattr(protocols, "EXACT_TOKENS", 400)  # a masked model scores a part of the tokens
    monkeypatch.setattr(drift, "SAMPLE_TOKENS", 8)
    corpus, adapter = {"source": str(short_corpus)}, {"method": method, "rank": 2}
    recipe = tiny_recipe(family, corpus=corpus, training={"steps": 2}, adapter=adapter)
    found = ladder(recipe, tmp_path, "cpu", QUIET)
    assert [rung.name for rung in found.rungs] == ["base", "unigram", "scratch", method, "full"]
    own = Run.open(tmp_path / recipe.name)

    verdict = own.comparison["corpora"][0]
    assert found.own.whole.as_dict() == verdict["adapter"]
    assert found.rungs[0].whole.as_dict() == verdict["base"]
    against_base = found.own.against_base
    assert against_base is not None and against_base.percent == verdict["percent"]
    assert (against_base.low, against_base.high) == (
        verdict["difference"]["low"],
        verdict["difference"]["high"],
    )

    nats, tokens = counted_by_hand(recipe, own, family)
    assert found.of("unigram").whole.nll_nats == pytest.approx(nats, rel=1e-12)
    assert {rung.whole.tokens for rung in found.rungs} == {tokens}
    assert {(rung.training or {}).get("tokens") for rung in found.rungs[2:]} == {
        own.facts["training"]["tokens"]
    }
    base = load_base(recipe.base)
    model = attach_adapter(base, own.recipe.adapter, seed=0)
    assert found.own.trainable_parameters == sum(p.numel() for p in trainable(model).values())
    assert found.of("full").trainable_parameters == sum(
        p.numel() for p in load_base(recipe.base).model.parameters()
    )
    told(found, capfd)

    def trained_again(*anything: object) -> None:
        raise AssertionError("these runs are there")

    monkeypatch.setattr(journey, "finetune", trained_again)
    assert ladder(recipe, tmp_path, "cpu", QUIET).as_dict() == found.as_dict()


def test_word_counts_are_judged_on_the_documents_that_the_verdict_is_about(
    tiny_recipe: Callable[..., Recipe], short_corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    _, seen = with_tainted(short_corpus, folder)
    recipe = tiny_recipe(
        corpus={"source": str(folder)}, training={"steps": 1}, judging={"protocol": "document"}
    )
    own = finetune(recipe, tmp_path / "runs", Options(gate=False), QUIET)
    scores = read(own)
    (held_out,) = (corpus for corpus in scores.corpora if corpus.kind == "held-out")
    assert seen.id not in {document.id for document in held_out.documents}
    found = unigram_totals(own, load_base(recipe.base), scores.subject.protocol, held_out.documents, QUIET)
    assert [totals.tokens for totals in found] == [totals.tokens for totals in held_out.base]


def told(found: Ladder, capfd: pytest.CaptureFixture[str]) -> None:
    """The screen and the JSON tell the same."""
    capfd.readouterr()
    show(found, Screen())
    lines = capfd.readouterr().out.splitlines()
    values = json.loads(json.dumps(found.as_dict()))
    metric = values["protocol"]["metric"]
    assert f"held-out text, {metric} by " in lines[0]
    for rung, line in zip(values["rungs"], lines[2:], strict=False):
        assert line.split()[:2] == [rung["name"], f"{rung['perplexity']:,.1f}"]
    said = "\n".join(lines[7:])
    assert f"transfer: {found.own.name} against scratch" in said
    assert f"cost: {found.own.name} against full" in said
    transfer = found.own.whole.nats_per_token - found.of("scratch").whole.nats_per_token
    assert values["transfer"]["nats_per_token"] == pytest.approx(transfer)


def test_a_recipe_that_has_no_ladder_is_told_why(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    for sections, match in (
        ({"adapter": {"method": "full"}}, "adapter.method: expected an adapter, beside scratch and full"),
        ({"training": {"budget": 60.0}}, "training.budget: expected none, since all methods read the same"),
        ({"name": "n" * 90}, "name: expected at most 85 letters, found 90"),
    ):
        with pytest.raises(FtError, match=match):
            ladder(tiny_recipe(**sections), tmp_path, "cpu", QUIET)
    assert not list(tmp_path.iterdir())
