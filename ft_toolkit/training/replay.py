"""Replay: rows of the base's own predictions among the training rows, against forgetting. No data is needed.

A causal base writes the rows itself. For text x drawn from the base, the gradient of -log tuned(x) is that of
KL(base || tuned), so training on such rows pulls the adapter back to what the base knew.

A masked base cannot write text. Its rows are text drawn from starter/gpt2 and masked once; their targets are
drawn from the base's own predictions at the masked positions: the gradient of the same divergence there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from ft_toolkit.judging.samples import kept_samples
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.sampling import draw
from ft_toolkit.models.token_nll import TokenScorer
from ft_toolkit.session import score_cache_path
from ft_toolkit.text.blocks import NO_TARGET, Encoded, collate, encode, mask
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack
from ft_toolkit.text.rows import Ids, Row, outline_of

WRITER = "starter/gpt2"  # of general text for masked bases; ships with the package
MOST_TOKENS = 65_536  # that a base writes; more are the same again. GPT-2 writes so many in minutes on a CPU
SAMPLE_TOKENS = 256  # of one text of the writer
ROWS_AT_ONCE = 8
SOURCE = "replay"  # the name of these rows' documents
_STREAM = (
    1  # of random numbers: the drift is measured on samples of the same seeds, which training must not see
)


def replay_rows(
    base: LanguageModel, rows: Sequence[Row], fraction: float, block_tokens: int, seed: int, masked: float
) -> list[Row]:
    """Rows to add to the training rows, so that they are `fraction` of all tokens, exact to one row.

    base      with its adapter switched off
    rows      the training rows, which are not changed
    masked    share of the tokens that is masked, for a masked base
    raises    NumbersGoneWrong for a base whose predictions are not finite
    """
    wanted_tokens = replay_tokens(rows, fraction)
    write = _written if base.family.objective == "causal" else _predicted
    made = write(base, min(wanted_tokens, MOST_TOKENS), block_tokens, seed, masked)
    made *= 1 + int(wanted_tokens // sum(len(row.input_ids) for row in made))
    sizes = np.cumsum([len(row.input_ids) for row in made])
    return made[: 1 + int(np.abs(sizes - wanted_tokens).argmin())]


def replay_tokens(rows: Sequence[Row], fraction: float) -> float:
    """How many tokens beside the training rows are `fraction` of all."""
    return fraction / (1 - fraction) * outline_of(rows).tokens


def _written(base: LanguageModel, tokens: float, block_tokens: int, seed: int, masked: float) -> list[Row]:
    """At least so many tokens of text that the base wrote."""
    length = min(block_tokens, base.positions)
    count = int(np.ceil(tokens / length)) + 1
    samples = _samples(base, count, length, seed)
    while sum(map(len, samples)) < tokens + length:  # samples that ended themselves are shorter
        count *= 2
        samples = _samples(base, count, length, seed)
    # no end id: a sample that ended itself has one, and one that was cut did not end there
    documents = [_document(number, ids) for number, ids in enumerate(samples)]
    return list(pack(documents, "causal", base.special.begin, None, block_tokens, packed=base.family.packs))


def _document(number: int, ids: Ids) -> Encoded:
    none = np.zeros(len(ids), dtype=np.int32)
    return Encoded(TextDocument(SOURCE, number, f"{SOURCE} {number}"), ids, none.astype(np.bool_), none)


def _predicted(base: LanguageModel, tokens: float, block_tokens: int, seed: int, masked: float) -> list[Row]:
    """At least so many tokens of masked text, with targets drawn from the base's predictions."""
    count, rows = int(np.ceil(tokens / SAMPLE_TOKENS)) + 1, list[Row]()
    while sum(len(row.input_ids) for row in rows) < tokens + block_tokens:
        texts = _general_texts(1 << (count - 1).bit_length(), seed, base.device)
        documents = encode([TextDocument(SOURCE, n, text) for n, text in enumerate(texts)], base.tokenizer)
        begin, end = base.special.begin, base.special.end
        rows = list(pack(documents, "masked", begin, end, block_tokens, packed=base.family.packs))
        count *= 2
    mask_id = base.special.mask or 0
    rows = [mask(row, seed, 0, mask_id, base.ordinary_ids, masked) for row in rows]
    rows = [row for row in rows if (row.targets != NO_TARGET).any()]
    return _with_drawn_targets(base, rows, seed)


@cache  # seeds, trials and comparisons in one process ask for the same texts
def _general_texts(count: int, seed: int, device: torch.device) -> tuple[str, ...]:
    """Text drawn from the writer."""
    writer = load_base(WRITER, device)
    samples = _samples(writer, count, SAMPLE_TOKENS, seed)
    return tuple(str(writer.tokenizer.decode(ids, skip_special_tokens=True)) for ids in samples)


def _samples(writer: LanguageModel, count: int, tokens: int, seed: int) -> list[Ids]:
    """Texts by a seed of training's own, kept for the next training on the same base."""
    own_seed = int(np.random.SeedSequence([seed, _STREAM]).generate_state(1)[0])
    return kept_samples(writer, (count, tokens), own_seed, score_cache_path())


def _with_drawn_targets(base: LanguageModel, rows: Sequence[Row], seed: int) -> list[Row]:
    """The same masked rows with a target drawn from the base's prediction at each masked position."""
    scorer, packs = TokenScorer(base.model, base.family), base.family.packs
    uniforms = np.random.default_rng(seed)
    found: list[Row] = []
    with torch.inference_mode():
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            batch = collate(some, "masked", packed=packs)
            tensors = batch.input_ids, batch.targets, batch.attention_mask, batch.position_ids
            states, weight, bias, _ = scorer.head_inputs(*(each.to(base.device) for each in tensors))
            logits = torch.nn.functional.linear(states, weight, bias).float()
            drawn = draw(logits, uniforms.random(len(logits)), base.name).astype(np.int32)
            for row in some:
                places = row.targets != NO_TARGET
                targets = row.targets.copy()
                targets[places], drawn = drawn[: places.sum()], drawn[places.sum() :]
                found.append(replace(row, targets=targets, is_masked=True))
    return found
