"""A 95 % interval holds the truth about 95 % of the time, on documents of realistic lengths."""

from __future__ import annotations

import numpy as np
import pytest

from ft_toolkit.judging import statistics

RUNS = 1000
TRUTH_NATS = -0.05
LEAST_DRAWS = 2000


def coverage(documents: int, log_sd: float, runs: int = RUNS, *, by_token: bool = False) -> float:
    """Share of simulated corpora whose interval holds the truth, in per cent.

    by_token   the interval that takes tokens for independent, instead of ours

    Lengths are log-normal(5, log_sd); each document has its own effect (sd 0.1 nats a token) besides the
    tokens' noise (sd 1 nat), so tokens of one document move together.
    """
    draw = np.random.default_rng([documents, round(10 * log_sd)])
    held = 0
    for seed in range(runs):
        tokens = np.maximum(1, draw.lognormal(5, log_sd, documents).round()).astype(np.int64)
        base = 4.0 * tokens + draw.normal(0, 1, documents) * np.sqrt(tokens)
        change = tokens * (TRUTH_NATS + draw.normal(0, 0.1, documents)) + draw.normal(
            0, 1, documents
        ) * np.sqrt(tokens)
        if by_token:  # each token's difference has the documents' variance and its own
            reach = 1.96 * np.sqrt((0.1**2 + 1) / tokens.sum())
            held += abs(change.sum() / tokens.sum() - TRUTH_NATS) <= reach
            continue
        found = statistics.paired_difference(base, base + change, tokens, seed=seed)
        assert found.low is not None and found.high is not None
        held += found.low <= TRUTH_NATS <= found.high
    return 100 * held / runs


@pytest.mark.parametrize("log_sd", [0.5, 1.0])
def test_the_interval_of_200_documents_holds_the_truth_as_often_as_it_says(
    log_sd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "DRAWS", LEAST_DRAWS)
    assert 92.5 <= coverage(200, log_sd) <= 97.5


if __name__ == "__main__":  # the figures of docs/numbers.md: python tests/judging/test_coverage.py
    for count in (10, 30, 60, 200):
        for sd in (0.5, 1.0):
            print(f"{count} documents, log-normal(5, {sd}): {coverage(count, sd):.1f} %")
    share = coverage(200, 1.0, by_token=True)
    print(f"200 documents, log-normal(5, 1.0), tokens taken for independent: {share:.1f} %")
