"""Verbatim continuations: what greedy decoding would repeat, read off the token scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ft_toolkit.judging.protocols import Protocol, choose_protocol, score_tokens
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Side, Subject, TokenScores
from ft_toolkit.judging.verbatim import EXTRACTED_TOKENS, PROMPT_TOKENS, longest_run, verbatim
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import TextDocument


def test_the_longest_run_begins_behind_the_prompt() -> None:
    prompt = [True] * PROMPT_TOKENS
    assert longest_run(prompt) == 0
    assert longest_run([*prompt, False]) == 0
    assert longest_run([*prompt, True]) == 1
    assert longest_run([*prompt, True, False, True, True, False, True]) == 2
    assert longest_run([*prompt, False, True, True, True]) == 3


def test_a_run_is_as_long_as_greedy_decoding_goes_on_verbatim(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    ids = torch.randint(40, 200, (1, 40), generator=torch.Generator().manual_seed(0))
    begin = torch.tensor([[base.special.begin]])

    def greedy(prompt: torch.Tensor) -> torch.Tensor:
        """Nine more tokens, by transformers' own loop."""
        more: torch.Tensor = base.model.generate(  # type: ignore[operator]  # transformers types it so
            torch.cat([begin, prompt], 1), max_new_tokens=9, do_sample=False, pad_token_id=0
        )
        return more[:, 1:]

    row = greedy(ids)[0]
    other = row.clone()
    other[45] = (other[45] + 1) % 200  # the sixth of the nine is another token
    assert greedy(other[None, :40])[0].tolist() == row.tolist()
    texts = []
    for number, tokens in enumerate((row, other)):
        columns = np.ones(len(tokens), dtype=np.bool_), np.arange(len(tokens), dtype=np.int32)
        texts.append(
            Encoded(TextDocument("t", number, f"{number}"), tokens.numpy().astype(np.int32), *columns)
        )
    found = score_tokens(base, texts, choose_protocol(base))
    assert found[0].is_top1[40:].tolist() == [True] * 9
    assert found[1].is_top1[40:46].tolist() == [True] * 5 + [False]
    assert longest_run(found[0].is_top1) >= 9 > longest_run(found[1].is_top1) >= 5


def document(
    number: int, base: int, tuned: int, tokens: int = 120, group: int | None = None
) -> DocumentScores:
    """One whose longest runs are so long under base and tuned model."""

    def side(run: int) -> Side:
        is_top1 = np.zeros(tokens, dtype=np.bool_)
        is_top1[PROMPT_TOKENS + 3 : PROMPT_TOKENS + 3 + run] = True
        return Side(None, np.ones(tokens, dtype=np.bool_), np.ones(tokens), is_top1)

    return DocumentScores(f"{number}", number if group is None else group, 400, 80, side(base), side(tuned))


def scores(
    train: list[DocumentScores], held_out: list[DocumentScores], name: str = "document"
) -> TokenScores:
    subject = Subject("run", "base", "", None, True, Protocol(name, 64))  # type: ignore[arg-type]
    corpora = [CorpusScores("t", "held-out", held_out, 1, 0), CorpusScores("t", "train", train, 1, 0)]
    return TokenScores(subject, corpora)


def test_what_only_the_tuned_model_repeats_of_its_training_text_is_the_excess() -> None:
    train = [document(n, base=2, tuned=40 + 20 * (n % 2)) for n in range(10)]
    held_out = [document(n, base=2, tuned=3 + n % 2) for n in range(12)]
    found = verbatim(scores(train, held_out))
    assert found is not None
    assert (found.base_train.longest_tokens, found.tuned_train.longest_tokens) == (2, 60)
    assert (found.tuned_train.extracted, found.tuned_train.documents) == (5, 10)
    assert (found.tuned_held_out.extracted, found.tuned_held_out.mean_tokens) == (0, 3.5)
    assert found.excess_tokens == pytest.approx(48 - 1.5)
    assert found.low < 46.5 < found.high and found.low > 0
    assert found.as_dict()["extracted_tokens"] == EXTRACTED_TOKENS


def test_pieces_of_one_file_count_once_and_short_documents_not_at_all() -> None:
    pieces = [document(n, 0, 5 + n % 3, group=n // 3) for n in range(27)]
    short = [document(99, 0, 0, tokens=PROMPT_TOKENS)]
    found = verbatim(scores(pieces, [*pieces[:24], *short]))
    assert found is not None
    assert (found.tuned_train.documents, found.tuned_train.mean_tokens) == (9, 7.0)
    assert found.tuned_held_out.documents == 8


def test_a_masked_model_continues_nothing() -> None:
    some = [document(n, 0, 5) for n in range(9)]
    assert verbatim(scores(some, some, "covering")) is None
    assert verbatim(scores(some[:7], some)) is None
