"""How fast documents are scored, beside the peers, in one run: make bench.

Models of the real shapes with random weights (speed does not depend on the values), sides in turn, medians
and ratios. Peers: lm-evaluation-harness' rolling scorer (causal), all-logits batches (masked).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ft_toolkit import shipped
from ft_toolkit.judging import causal
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.runtime import prepare_process, prepare_torch
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.corpus import Document, read_source

GPT2_FLOPS_A_TOKEN = 2 * 123.7e6  # forward: two for each weight that a token meets, head included


def log_normal_documents(count: int, tokenizer: object, longest: int, seed: int = 0) -> list[Encoded]:
    """Real text of the bundled corpora, cut to log-normal(5, 1) lengths in tokens."""
    text = "\n".join(d.text for d in read_source("package:italian-cooking").documents)
    stream = encode([Document("stream", 0, text)], tokenizer)[0].ids  # type: ignore[arg-type]
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(5, 1, count).round().astype(int), 2, longest)
    found = []
    for row, length in enumerate(lengths):
        start = int(draw.integers(0, len(stream) - length))
        piece = tokenizer.decode(stream[start : start + length])  # type: ignore[attr-defined]
        found.append(Document("bench", row, piece))
    return encode(found, tokenizer)  # type: ignore[arg-type]


def matrix_ceiling(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product of the shapes that a trunk has; best of several."""
    a, b = torch.randn(1024, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    best = 0.0
    for _ in range(12):
        started = time.perf_counter()
        for _ in range(20):
            a @ b
        best = max(best, 20 * 2 * 1024 * 768 * 3072 / (time.perf_counter() - started))
    return best


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, one after the other, `rounds` times, after one uncounted round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(seconds: dict[str, list[float]], ours: str) -> None:
    """Medians, and each side's time over ours, pair by pair."""
    for name, times in seconds.items():
        ratio = statistics.median(t / o for t, o in zip(times, seconds[ours], strict=True))
        print(f"  {name:<34} median {statistics.median(times):8.2f} s   {ratio:5.2f} x ours")


def bench_causal(documents: int, rounds: int) -> None:
    """Ours against lm-evaluation-harness at batch 1 and 8, float32 and ours in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    texts = log_normal_documents(documents, tokenizer, longest=1023)
    tokens = sum(len(text.ids) for text in texts)
    ceiling = matrix_ceiling(torch.float32)
    print(f"causal, {documents} documents, {tokens} tokens; float32 ceiling {ceiling / 1e9:.0f} GFLOP/s")

    def ours(dtype: torch.dtype = torch.float32) -> None:
        losses = TokenLosses(model, FAMILIES["gpt2"])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            causal.score_documents(losses, texts, 0, causal.sliding(1024, 512))

    sides: dict[str, Callable[[], object]] = {
        "ours, float32": ours,
        "ours, bfloat16": lambda: ours(torch.bfloat16),
    }
    sides |= lm_eval_sides(model, tokenizer, texts)
    seconds = in_turn(sides, rounds)
    report(seconds, "ours, float32")
    reached = tokens * GPT2_FLOPS_A_TOKEN / statistics.median(seconds["ours, float32"])
    print(f"  ours reaches {100 * reached / ceiling:.0f} % of the float32 ceiling")


def lm_eval_sides(
    model: GPT2LMHeadModel, tokenizer: object, texts: Sequence[Encoded]
) -> dict[str, Callable[[], object]]:
    """lm-evaluation-harness' rolling log-likelihood of the same texts; nothing where it is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        print("  lm-eval is not installed: pip install 'ft-toolkit[oracles]'")
        return {}
    requests = [
        Instance("loglikelihood_rolling", {}, (text.document.text,), i) for i, text in enumerate(texts)
    ]

    def side(batch: int) -> Callable[[], object]:
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=1024)
        return lambda: peer.loglikelihood_rolling(requests, disable_tqdm=True)

    return {f"lm-eval rolling, batch {batch}": side(batch) for batch in (1, 4, 8)}


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare_process()
    prepare_torch()
    bench_causal(options.documents, options.rounds)


if __name__ == "__main__":
    main()
