"""How fast documents are scored, beside the peers, in one run: make bench.

Models of the real shapes with random weights (speed does not depend on the values), sides in turn, medians
and ratios, and a line of them for bench/history.jsonl. Peers: lm-evaluation-harness' rolling scorer (causal),
all-logits batches (masked): of equal length, the best that batching alone can do, and ragged in the order
given, as minicons pads them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from history import Sides, append
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from ft_toolkit import shipped
from ft_toolkit.judging import causal, masked
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.families import FAMILIES, SpecialTokens, special_tokens
from ft_toolkit.models.float_products import product
from ft_toolkit.models.language_model import for_scoring, language_model_of
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.token_nll import TokenScorer
from ft_toolkit.progress import Screen
from ft_toolkit.runtime import prepare_process, prepare_torch
from ft_toolkit.sections import Adapter
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.training.accelerator import make_accelerator

GPT2_FLOPS_A_TOKEN = 2 * 123.7e6  # forward: two for each weight that a token meets, head included


def log_normal_documents(count: int, tokenizer: object, longest: int, seed: int = 0) -> list[Encoded]:
    """Real text of the bundled corpora, cut to log-normal(5, 1) lengths in tokens."""
    text = "\n".join(d.text for d in read_source("package:italian-cooking").documents)
    stream = encode([TextDocument("stream", 0, text)], tokenizer)[0].ids  # type: ignore[arg-type]
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(5, 1, count).round().astype(int), 2, longest)
    found = []
    for row, length in enumerate(lengths):
        start = int(draw.integers(0, len(stream) - length))
        piece = tokenizer.decode(stream[start : start + length])  # type: ignore[attr-defined]
        found.append(TextDocument("bench", row, piece))
    return encode(found, tokenizer)  # type: ignore[arg-type]


def matrix_ceiling(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product of a trunk's shapes by the faster library, best of several."""
    a, b = torch.randn(1024, 768, dtype=dtype), torch.randn(3072, 768, dtype=dtype).T
    best = 0.0
    for multiply in (torch.matmul, product):  # MKL's or oneDNN's; product may be the same
        for _ in range(12):
            started = time.perf_counter()
            for _ in range(20):
                multiply(a, b)
            best = max(best, 20 * 2 * 1024 * 768 * 3072 / (time.perf_counter() - started))
    return best


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, one after the other, `rounds` times."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def report(seconds: dict[str, list[float]], ours: str) -> Sides:
    """Print medians, and each side's time over ours, pair by pair; and hand them over for the history."""
    sides: Sides = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(t / o for t, o in zip(times, seconds[ours], strict=True))
        print(f"  {name:<34} median {median:8.2f} s   {ratio:5.2f} x ours")
        sides[name] = {"median_seconds": round(median, 4), "over_ours": round(ratio, 4)}
    return sides


def bench_causal(documents: int, rounds: int) -> Sides:
    """Ours against lm-evaluation-harness at batch 1 (its best on a CPU) and 8, and ours in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    torch.manual_seed(0)
    model = for_scoring(GPT2LMHeadModel(GPT2Config()))
    texts = log_normal_documents(documents, tokenizer, longest=1023)
    tokens = sum(len(text.ids) for text in texts)
    ceiling = matrix_ceiling(torch.float32)
    print(f"causal, {documents} documents, {tokens} tokens; float32 ceiling {ceiling / 1e9:.0f} GFLOP/s")

    def ours(some: Sequence[Encoded], dtype: torch.dtype = torch.float32) -> None:
        losses = TokenScorer(model, FAMILIES["gpt2"])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            causal.score_documents(losses, some, 0, causal.sliding(1024, 512))

    def sides(some: Sequence[Encoded]) -> dict[str, Callable[[], object]]:
        mine = {"ours, float32": lambda: ours(some), "ours, bfloat16": lambda: ours(some, torch.bfloat16)}
        return mine | lm_eval_sides(model, tokenizer, some)

    in_turn(sides(texts[:4]), 1)  # warms up caches and threads
    seconds = in_turn(sides(texts), rounds)
    figures = report(seconds, "ours, float32")
    reached = tokens * GPT2_FLOPS_A_TOKEN / statistics.median(seconds["ours, float32"])
    print(f"  ours reaches {100 * reached / ceiling:.0f} % of the float32 ceiling")
    return figures


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

    return {f"lm-eval rolling, batch {batch}": side(batch) for batch in (1, 8)}


def bench_pll(rounds: int) -> Sides:
    """Pseudo-log-likelihood of 16 sentences of 16 to 64 tokens: one forward row a token, BERT-base shape."""
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("bert"))
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig()).eval().requires_grad_(False)
    stream = encode(
        [TextDocument("s", 0, " ".join(d.text for d in read_source("package:everyday-medicine").documents))],
        tokenizer,
    )[0].ids
    lengths = np.linspace(16, 64, 16).round().astype(int)
    cuts = np.split(stream[: lengths.sum()], np.cumsum(lengths)[:-1])
    texts = [
        Encoded(
            TextDocument("pll", i, f"{i}"), ids, np.ones(len(ids), bool), np.arange(len(ids), dtype=np.int32)
        )
        for i, ids in enumerate(cuts)
    ]
    special = special_tokens(FAMILIES["bert"], tokenizer, "bench")
    rows = [row for text in texts for row in hidden_rows(text, special)]
    print(f"pseudo-log-likelihood, {len(texts)} sentences, {len(rows)} tokens")

    def ours(dtype: torch.dtype = torch.float32) -> None:
        losses, plan = (
            TokenScorer(model, FAMILIES["bert"]),
            masked.in_windows(512, masked.one_at_a_time(within_word=False, rate=1, seed=0)),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            masked.score_documents(losses, texts, special, plan)

    longest = max(len(row) for row, _, _ in rows)
    all_logits(model, rows[:32])  # warms up caches and threads
    seconds = in_turn(
        {
            "ours, float32": ours,
            "all logits, equal lengths": lambda: all_logits(model, sorted(rows, key=lambda r: len(r[0]))),
            "ours, bfloat16": lambda: ours(torch.bfloat16),
            "all logits, ragged": lambda: all_logits(model, rows, longest),
        },
        rounds,
    )
    figures = report(seconds, "ours, float32")
    ratio = statistics.median(
        p / o for p, o in zip(seconds["all logits, equal lengths"], seconds["ours, bfloat16"], strict=True)
    )
    print(f"  all logits, equal lengths, over ours in bfloat16: {ratio:.2f} x")
    return figures


def hidden_rows(text: Encoded, special: SpecialTokens) -> list[tuple[np.ndarray, int, int]]:
    """(row with one token hidden, its place, its id) for every token."""
    framed = np.concatenate([[special.begin], text.ids, [special.end]]).astype(np.int64)
    found = []
    for place in range(1, len(framed) - 1):
        row = framed.copy()
        row[place] = special.mask
        found.append((row, place, int(framed[place])))
    return found


def all_logits(
    model: BertForMaskedLM, rows: Sequence[tuple[np.ndarray, int, int]], least: int = 0, batch: int = 32
) -> float:
    """The plain way: batches of rows, padded to the longest, every logit of every position.

    least   width to pad to at least: minicons pads the rows of all sentences together
    """
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            width = max(least, *(len(row) for row, _, _ in some))
            ids = torch.zeros(len(some), width, dtype=torch.long)
            seen = torch.zeros(len(some), width, dtype=torch.long)
            for i, (row, _, _) in enumerate(some):
                ids[i, : len(row)] = torch.from_numpy(row)
                seen[i, : len(row)] = 1
            logits = model(input_ids=ids, attention_mask=seen).logits.log_softmax(-1)
            total += sum(float(logits[i, place, target]) for i, (_, place, target) in enumerate(some))
    return total


def bench_sides(documents: int, rounds: int) -> Sides:
    """Base and adapter together against the adapter alone: one set of weights, and nothing twice."""
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    torch.manual_seed(0)
    base = language_model_of("gpt2-shaped", for_scoring(GPT2LMHeadModel(GPT2Config())), tokenizer)
    model = attach_adapter(base, Adapter(), seed=0)
    texts = [text.document for text in log_normal_documents(documents, tokenizer, longest=1023)]
    pair = ModelPair(base, base.with_model(model))
    protocol, session = choose_protocol(base), Session(make_accelerator("cpu"), Screen(quiet=True), None)
    print(f"base and adapter, {documents} documents")

    def adapter() -> None:
        score(pair.tuned, encode(texts, tokenizer), protocol)

    def both() -> None:
        score_both(Scorer(pair, protocol, session), Text("bench", "other", texts))

    return report(in_turn({"adapter alone": adapter, "base and adapter": both}, rounds), "adapter alone")


def bench_memory() -> None:
    """Peak memory above the model's own, in fresh processes: four times the vocabulary, the batch, both."""
    print("peak memory of scoring 4,096 tokens above that of the loaded model (width 256, 4 layers)")
    for vocabulary, batch_tokens in ((10_000, 1024), (40_000, 1024), (10_000, 4096), (40_000, 4096)):
        asked = [sys.executable, __file__, "--peak", str(vocabulary), str(batch_tokens)]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        whole = 4 * vocabulary * batch_tokens / 1e6
        size = f"vocabulary {vocabulary:>6}, batch {batch_tokens:>5} tokens"
        print(f"  {size}: {found:>5} MB (all logits alone: {whole:.0f} MB)")


def peak_megabytes(vocabulary: int, batch_tokens: int) -> None:
    """One of bench_memory's processes: prints how much higher the peak is after scoring than before."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_embd=256, n_layer=4, n_head=4)
    model = for_scoring(GPT2LMHeadModel(config))
    ids = np.random.default_rng(0).integers(0, vocabulary, 4096).astype(np.int32)
    texts = [
        Encoded(TextDocument("m", i, "m"), part, np.ones(512, bool), np.arange(512, dtype=np.int32))
        for i, part in enumerate(np.split(ids, 8))
    ]
    losses = TokenScorer(model, FAMILIES["gpt2"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    causal.score_documents(losses, texts, 0, causal.sliding(1024, 512), batch_tokens=batch_tokens)
    print(round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def main() -> None:
    """Print every table, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("causal", "pll", "sides", "memory"))
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-history", action="store_true", help="do not append to bench/history.jsonl")
    parser.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    prepare_process()
    prepare_torch()
    if options.peak:
        peak_megabytes(*options.peak)
        return
    tables: dict[str, Callable[[], Sides | None]] = {
        "causal": lambda: bench_causal(options.documents, options.rounds),
        "pll": lambda: bench_pll(options.rounds),
        "sides": lambda: bench_sides(min(options.documents, 24), options.rounds),
        "memory": bench_memory,
    }
    asked = [name for name in tables if options.only in (None, name)]
    results = {name: sides for name in asked if (sides := tables[name]()) is not None}
    if results and not options.no_history:
        append(results, options.rounds, options.documents)


if __name__ == "__main__":
    main()
