"""How long a run will take on this machine, from a few of its own rows and documents."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ft_toolkit.judging.drift import (
    GENERAL_DOCUMENTS,
    GENERAL_TOKENS,
    HELD_OUT_DOCUMENTS,
    HELD_OUT_TOKENS,
    SAMPLE_TOKENS,
    SAMPLES,
)
from ft_toolkit.judging.protocols import (
    How,
    Protocol,
    prepare,
    protocol_of,
    quick_protocol,
    sampled_fraction,
    score,
)
from ft_toolkit.judging.scoring import judged_documents
from ft_toolkit.material import Material, validation_documents, validation_text
from ft_toolkit.models.adapters import trainable
from ft_toolkit.models.kept_weights import kept_in
from ft_toolkit.models.token_nll import NO_TARGET, SummedLoss, TokenScorer
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import Encoded, mask
from ft_toolkit.text.rows import Row
from ft_toolkit.training.accumulation import Accumulation
from ft_toolkit.training.loop import VALIDATIONS
from ft_toolkit.training.schedule import batches, planned_steps
from ft_toolkit.training.strength import USUAL_VALIDATIONS

PROBE_TOKENS = 1024  # scored to learn the speed; as many again warm up
ROW_TOKENS = 64  # of a row where each token is scored in one of its own
# drawing the drift's samples and comparing both sides on them takes as long as scoring them so many times
DRIFT_READS = 6.0
GATE_SECONDS = 10.0  # a process of its own loads the libraries and the base (docs/log.md)
WORTH_PROBES = 100  # a training so many times as long as the probe is told its time before it starts


@dataclass(frozen=True)
class Forecast:
    """Of one run on this machine; what is kept of the base's scores makes judging shorter."""

    training_seconds: float
    validation_seconds: float  # all validations
    judging_seconds: float  # the gate's too
    peak_bytes: int  # of this process, after training on a micro-batch and scoring
    disk_bytes: int  # the adapter, and two checkpoints while it trains

    @property
    def seconds(self) -> float:
        return self.training_seconds + self.validation_seconds + self.judging_seconds

    def words(self) -> str:
        """One line."""
        parts = (
            f"training {_duration(self.training_seconds)}",
            f"validation {_duration(self.validation_seconds)}",
            f"judging {_duration(self.judging_seconds)}",
        )
        room = f"{self.peak_bytes / 1e9:.1f} GB of memory, {self.disk_bytes / 1e6:.0f} MB on disk"
        return f"about {_duration(self.seconds)} here: {', '.join(parts)}; {room}"


def is_worth_a_probe(it: Material) -> bool:
    """Whether training takes so much longer than the probe that its time is worth telling first."""
    return it.measure.tokens > WORTH_PROBES * _probe_tokens(it)


def forecast(it: Material, session: Session) -> Forecast:
    """Train on one micro-batch and score a few documents, twice each; nothing is learnt by it."""
    base, recipe = it.pair.base, it.recipe
    steps = planned_steps(it.rows, recipe.training, base.family.packs)
    with kept_in(recipe.adapter.base_precision, base):
        training = _micro_batch_seconds(it, session) * steps / _share_of_step(it)
    checks = quick_protocol(base)
    validation = validation_text(base.tokenizer, validation_documents(it.parts))
    judged = protocol_of(base, it.asked.judging, How())
    texts = [
        prepare(documents, base.tokenizer, judged)
        for documents in judged_documents(it.asked, it.parts).values()
    ]
    check_seconds = _token_seconds(it, validation, checks)
    judged_seconds = check_seconds if judged == checks else _token_seconds(it, validation, judged)
    judging = judged_seconds * 2 * sum(_tokens_read(text, judged) for text in texts)
    strengths = USUAL_VALIDATIONS if recipe.adapter.has_strength and recipe.adapter.strength == "auto" else 0
    trained_bytes = 4 * sum(p.numel() for p in trainable(it.pair.tuned.model).values())
    return Forecast(
        training,
        (1 + min(VALIDATIONS, steps) + strengths) * check_seconds * _tokens_read(validation, checks),
        judging + check_seconds * _drift_tokens(it) + GATE_SECONDS,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        (1 + 2 * 4) * trained_bytes,
    )


def _drift_tokens(it: Material) -> float:
    """Tokens whose scoring takes as long as the drift: both sides are compared on a few short beginnings."""
    positions = it.pair.base.positions
    held_out = min(HELD_OUT_DOCUMENTS, len(it.parts.clean_test)) * min(HELD_OUT_TOKENS, positions)
    if it.pair.base.family.objective == "causal":
        return DRIFT_READS * SAMPLES * min(SAMPLE_TOKENS, positions) + 2 * held_out
    general = GENERAL_DOCUMENTS * min(GENERAL_TOKENS, positions) if it.asked.judging.general else 0
    return 2.0 * (general + held_out)


def _micro_batch_seconds(it: Material, session: Session) -> float:
    """Seconds of forward and backward of the first rows of the first step."""
    model = it.pair.tuned
    accumulation = Accumulation(SummedLoss(TokenScorer(model.model, model.family)), model, session)
    rows = _probe_rows(it)
    count = max(1, sum(int((row.targets != NO_TARGET).sum()) for row in rows))
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        with session.accelerator.autocast():  # training's precision: this loss was not prepared
            accumulation.gradients(rows, count, seed=0, is_stopped=lambda: False)
        seconds = time.perf_counter() - started
    for parameter in trainable(model.model).values():
        parameter.grad = None
    return seconds


def _probe_rows(it: Material) -> list[Row]:
    first = batches(it.rows, it.recipe.training, it.pair.base.family.packs, epoch=0)[0]
    rows = list(first[: max(1, 2 * PROBE_TOKENS // len(first[0].input_ids))])
    base, plan = it.pair.base, it.recipe.training
    if base.family.objective == "causal":
        return rows
    # as each epoch masks them: unmasked, every token would be a target
    masked, others = base.special.mask or 0, base.ordinary_ids
    return [
        row if row.is_masked else mask(row, plan.seed, 0, masked, others, plan.mask_fraction) for row in rows
    ]


def _probe_tokens(it: Material) -> int:
    return sum(len(row.input_ids) for row in _probe_rows(it))


def _share_of_step(it: Material) -> float:
    """The tokens of the probe's rows over those of a step."""
    per_step = it.measure.tokens / it.measure.steps
    return _probe_tokens(it) / per_step


def _token_seconds(it: Material, documents: Sequence[Encoded], protocol: Protocol) -> float:
    """Seconds for each token that a forward pass reads when documents are scored."""
    if protocol.exact is not None:
        return _row_token_seconds(it, documents, protocol)
    some: list[Encoded] = []
    for document in documents:
        some.append(document.beginning(PROBE_TOKENS))
        if _tokens_read(some, protocol) >= PROBE_TOKENS:
            break
    for _ in range(2):
        started = time.perf_counter()
        score(it.pair.tuned, some, protocol)
        seconds = time.perf_counter() - started
    return seconds / _tokens_read(some, protocol)


def _row_token_seconds(it: Material, documents: Sequence[Encoded], protocol: Protocol) -> float:
    """The same where each token is scored in a row of its own: some rows of one document's beginning."""
    by_length = sorted(documents, key=lambda document: len(document.ids))
    some = by_length[len(by_length) // 2].beginning(min(ROW_TOKENS, protocol.window_tokens - 2))
    size = len(some.ids)
    for _ in range(2):
        started = time.perf_counter()
        (nats,) = score(it.pair.tuned, [some], protocol, rate=min(1.0, PROBE_TOKENS / size**2))
        seconds = time.perf_counter() - started
    return seconds / (size * max(1, int((~np.isnan(nats)).sum())))


def _tokens_read(documents: Sequence[Encoded], protocol: Protocol) -> float:
    """Tokens that all forward passes read: more than there are where windows overlap or tokens are masked."""
    sizes, window = [len(document.ids) for document in documents], protocol.window_tokens
    if protocol.name == "concatenated":
        sizes = [sum(sizes)]
    if protocol.groups:
        return float(protocol.groups * sum(sizes))
    if protocol.exact is not None:
        return sampled_fraction(documents, protocol) * sum(size * min(size, window) for size in sizes)
    stride = protocol.stride_tokens or window
    moves = [math.ceil(max(0, size - window) / stride) for size in sizes]  # full windows before the last one
    return float(
        sum(window * count + size - stride * count for size, count in zip(sizes, moves, strict=True))
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
