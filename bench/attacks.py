"""What each membership attack sees as a base learns a few documents: python bench/attacks.py

starter/gpt2 reads 32 beginnings of everyday-medicine again and again; 32 others are held out. After some
passes it prints the attacks' AUC, how many nats a token it gained more on what it read, and the AUC of eight
canaries that were read along.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

from ft_toolkit.judging.attacks import attack
from ft_toolkit.judging.comparison import compare
from ft_toolkit.judging.protocols import choose_protocol
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.measuring import planted_exposure
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.token_nll import NO_TARGET, SummedLoss, TokenScorer
from ft_toolkit.progress import Screen
from ft_toolkit.sections import Adapter
from ft_toolkit.session import Session
from ft_toolkit.text.canaries import with_canaries
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.training.accelerator import make_accelerator

DOCUMENTS = 32  # to train on, and as many held out
CHARACTERS = 300  # of each
CANARIES = 8
SHOWN_PASSES = (1, 4, 12, 30)


def passes(documents: list[Document], learning_rate: float) -> Iterator[tuple[int, ModelPair]]:
    """(passes so far, the pair) after each of SHOWN_PASSES."""
    base = load_base("starter/gpt2")
    learner = attach_adapter(base, Adapter(), seed=0)
    ids = [[base.special.begin, *base.tokenizer(document.text)["input_ids"]] for document in documents]
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], True, padding_value=NO_TARGET)
    step = SummedLoss(TokenScorer(learner, base.family))
    optimizer = torch.optim.AdamW(trainable(learner).values(), learning_rate)
    for number in range(1, max(SHOWN_PASSES) + 1):
        for some in rows.split(8):
            total, count = step(some[:, :-1].clamp(min=0), some[:, 1:])
            (total / count).backward()
            optimizer.step()
            optimizer.zero_grad()
        if number in SHOWN_PASSES:
            yield number, ModelPair(base, base.with_model(learner.eval()))


def main() -> None:
    texts = [document.text[:CHARACTERS] for document in read_source("package:everyday-medicine").documents]
    random.Random(0).shuffle(texts)
    documents = [TextDocument("t", row, text) for row, text in enumerate(texts[: 2 * DOCUMENTS])]
    print("learning rate, passes: excess gap in nats; AUC of base and tuned by loss, min-k, zone; canaries")
    for learning_rate in (2e-4, 2e-3):
        for number, pair in passes(with_canaries(documents[:DOCUMENTS], CANARIES), learning_rate):
            session = Session(make_accelerator("cpu"), Screen(quiet=True), None)
            scorer = Scorer(pair, choose_protocol(pair.base), session)
            parts = (("held-out", documents[DOCUMENTS:]), ("train", documents[:DOCUMENTS]))
            corpora = [score_both(scorer, Text("t", kind, some)) for kind, some in parts]  # type: ignore[arg-type]
            scores = TokenScores(scorer.subject("bench"), corpora)
            found, gap = attack(scores), compare(scores).gap
            assert found is not None and gap is not None
            aucs = [
                f"{'–' if each.base is None else f'{each.base.value:.2f}'} → {each.tuned.value:.2f}"
                for each in found.attacks
            ]
            planted = planted_exposure(scorer, CANARIES)
            canaries = f"{planted.base.auc.value:.2f} → {planted.tuned.auc.value:.2f}"
            figures = f"{gap.excess_nats:+.3f}; {', '.join(aucs)}; {canaries}"
            print(f"{learning_rate:g}, {number:>2}: {figures}", flush=True)


if __name__ == "__main__":
    main()
