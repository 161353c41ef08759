"""Plant known bugs in a copy of the repository, one at a time: each must break a test (make mutants)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NOT_COPIED = (".*", "runs", "build", "dist", "__pycache__", "*.egg-info")
AT_ONCE = 2
TESTS_FAILED = 1  # pytest's exit code; another one would be a mistake of ours, not a mutant that was found


@dataclass(frozen=True)
class Mutant:
    """A bug that this kind of program is known to have, and the tests that must notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BLOCKS = ("tests/text/test_blocks.py",)
CAUSAL = ("tests/judging/test_causal.py",)
MASKED = ("tests/judging/test_masked.py",)
LOOP = "tests/training/test_loop.py"
STRENGTH = ("tests/training/test_saved_strength.py",)
MUTANTS = (
    Mutant(
        "oneDNN told no bias",
        "ft_toolkit/models/float_products.py",
        '_linear_pointwise(rows, weight, bias, "none", [], "")',
        '_linear_pointwise(rows, weight, None, "none", [], "")',
        ("tests/models/test_float_products.py",),
    ),
    Mutant(
        "label shift by one",
        "ft_toolkit/text/packing.py",
        "return stream[:-1], stream[1:], np.zeros(take, np.uint64)",
        "return stream[:-1], stream[:-1], np.zeros(take, np.uint64)",
        BLOCKS,
    ),
    Mutant(
        "document mask dropped",
        "ft_toolkit/text/blocks.py",
        "seen = segments[:, :, None] == segments[:, None, :]",
        "seen = torch.ones(len(rows), width, width, dtype=torch.bool)",
        BLOCKS,
    ),
    Mutant(
        "end of text ignored",
        "ft_toolkit/text/packing.py",
        "return (self.begin_id is not None) + (self.end_id is not None)",
        "return int(self.begin_id is not None)",
        BLOCKS,
    ),
    Mutant(
        "end of text taken for padding",
        "ft_toolkit/text/packing.py",
        "return stream[:-1], stream[1:], np.zeros(take, np.uint64)",
        "return stream[:-1], np.where(stream[1:] == layout.end_id, NO_TARGET, stream[1:]), "
        "np.zeros(take, np.uint64)",
        BLOCKS,
    ),
    Mutant(
        "padding counted",
        "ft_toolkit/text/blocks.py",
        "_padded(row.targets, width, NO_TARGET)",
        "_padded(row.targets, width, 0)",
        BLOCKS,
    ),
    Mutant(
        "split by index",
        "ft_toolkit/text/splitting.py",
        "for document, rank in zip(documents, ranks.tolist(), strict=True):",
        "for rank, document in enumerate(documents):",
        ("tests/text/test_splitting.py",),
    ),
    Mutant(
        "pieces of a file taken for independent",
        "ft_toolkit/text/documents.py",
        "return self.near_group or self.whole_sha256 or self.sha256",
        "return self.sha256",
        ("tests/text/test_splitting.py",),
    ),
    Mutant(
        "near-duplicates straddle parts",
        "ft_toolkit/text/screening.py",
        "united.merge(groups[cluster[0]], groups[number])",
        "united.merge(groups[cluster[0]], groups[cluster[0]])",
        ("tests/text/test_splitting.py",),
    ),
    Mutant(
        "tainted documents in the result",
        "ft_toolkit/text/splitting.py",
        "return self._judged(clean or self.test)",
        "return self._judged(self.test)",
        ("tests/text/test_overlap.py",),
    ),
    Mutant(
        "mean of means",
        "ft_toolkit/judging/statistics.py",
        "ratio = float(amounts.sum() / tokens.sum())",
        "ratio = float((amounts / tokens).mean())",
        ("tests/judging/test_statistics.py",),
    ),
    Mutant(
        "adapter left on for the base",
        "ft_toolkit/models/model_pair.py",
        "layer.enable_adapters(False)",
        "layer.enable_adapters(True)",
        ("tests/judging/test_comparison.py",),
    ),
    Mutant(
        "a kept text that another one reads",
        "ft_toolkit/text/tokens.py",
        "digest.update(bytes.fromhex(document.text_sha256))",
        "digest.update(document.id.encode())",
        ("tests/text/test_tokens.py",),
    ),
    Mutant(
        "seed ignored",
        "ft_toolkit/training/schedule.py",
        "np.random.default_rng([plan.seed, epoch])",
        "np.random.default_rng([0, epoch])",
        (f"{LOOP}::test_the_seed_decides_the_order_of_the_rows",),
    ),
    Mutant(
        "early stop on the training loss",
        "ft_toolkit/training/loop.py",
        "found = self.job.validate()",
        "found = -float(state.step)",  # as a training loss falls
        (f"{LOOP}::test_patience_stops_early_and_the_best_adapter_is_kept",),
    ),
    Mutant(
        "tokens scored in every window that holds them",
        "ft_toolkit/judging/causal.py",
        "found.append(Window(start, found[-1].stop, min(start + window, tokens)))",
        "found.append(Window(start, start, min(start + window, tokens)))",
        CAUSAL,
    ),
    Mutant(
        "no token before the text",
        "ft_toolkit/judging/causal.py",
        "np.concatenate([[begin_id], d.ids])",
        "np.concatenate([d.ids[:1], d.ids])",
        CAUSAL,
    ),
    Mutant(
        "the last rolling window not full",
        "ft_toolkit/judging/causal.py",
        "Window(max(0, stop - window), before, stop)",
        "Window(before, before, stop)",
        CAUSAL,
    ),
    Mutant(
        "a stride that leaves gaps accepted",
        "ft_toolkit/judging/causal.py",
        "if not 1 <= stride <= window:",
        "if not 1 <= stride:",
        CAUSAL,
    ),
    Mutant(
        "concatenated windows off by one",
        "ft_toolkit/judging/causal.py",
        "max(before - 1, start)",
        "max(before, start)",
        CAUSAL,
    ),
    Mutant(
        "the rest of the word shown",
        "ft_toolkit/judging/masked.py",
        "while within_word and last < stop",
        "while last < place",
        MASKED,
    ),
    Mutant(
        "groups that overlap",
        "ft_toolkit/judging/masked.py",
        "shuffled[group::groups]",
        "shuffled[: len(shuffled) // groups + 1]",
        MASKED,
    ),
    Mutant(
        "the wrong token hidden",
        "ft_toolkit/judging/masked.py",
        "input_ids[row, p.hidden - p.start + 1] = special.mask",
        "input_ids[row, p.hidden - p.start] = special.mask",
        MASKED,
    ),
    Mutant(
        "the sample ignored",
        "ft_toolkit/judging/masked.py",
        "unit(scrambled(token_keys(document), seed)) < rate",
        "unit(scrambled(token_keys(document), seed)) < 1",
        MASKED,
    ),
    Mutant(
        "padding of a masked row seen",
        "ft_toolkit/judging/masked.py",
        "None if attention_mask.all() else attention_mask",
        "None",
        MASKED,
    ),
    Mutant(
        "the last words of the vocabulary left out",
        "ft_toolkit/models/token_nll.py",
        "range(0, len(weight), CHUNK_WORDS):",
        "range(0, len(weight) - CHUNK_WORDS, CHUNK_WORDS):",
        ("tests/models/test_token_nll.py",),
    ),
    Mutant(
        "perplexity and pseudo-perplexity under one name",
        "ft_toolkit/judging/comparison.py",
        'figure = metric.replace("-", "_")',
        'figure = "perplexity"',
        ("tests/test_compare.py",),
    ),
    Mutant(
        "characters taken for bytes",
        "ft_toolkit/judging/totals.py",
        "len(text.encode())",
        "len(text)",
        ("tests/judging/test_totals.py",),
    ),
    Mutant(
        "stale base scores believed",
        "ft_toolkit/judging/store.py",
        "RECHECK_NATS = 1e-4",
        "RECHECK_NATS = 1e4",
        ("tests/judging/test_store.py",),
    ),
    Mutant(
        "strength chosen and not kept",
        "ft_toolkit/training/strength.py",
        "        set_strength(model, strength)\n",
        "        pass\n",
        STRENGTH,
    ),
    Mutant(
        "a strength without a number taken",
        "ft_toolkit/training/strength.py",
        "return base_nats - nats(strength) >= KEPT_GAIN * gain",
        "return not base_nats - nats(strength) < KEPT_GAIN * gain",
        STRENGTH,
    ),
)


def main() -> int:
    started = time.monotonic()
    everything = tuple(sorted({test for mutant in MUTANTS for test in mutant.tests}))
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        if pytest(a_copy(folder), everything) != 0:
            print(f"Without any mutant these tests fail already: {' '.join(everything)}")
            return 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = []
        for mutant, verdict in zip(MUTANTS, pool.map(verdict_on, MUTANTS), strict=True):
            print(f"{verdict:<9} {mutant.name}", flush=True)
            verdicts.append(verdict)
    print(f"{verdicts.count('killed')} of {len(verdicts)} killed in {time.monotonic() - started:.0f} s")
    return 0 if set(verdicts) == {"killed"} else 1


def verdict_on(mutant: Mutant) -> str:
    """`killed` if its tests fail; anything else, a stale mutant included, is no success."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = a_copy(folder)
        source = copy / mutant.file
        text = source.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            return f"STALE ({mutant.file} holds its text {text.count(mutant.old)} times)"
        source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        return {TESTS_FAILED: "killed", 0: "SURVIVED"}.get(pytest(copy, mutant.tests), "BROKEN")


def a_copy(folder: str) -> Path:
    """The repository, copied; refuses to go on when Python would import another one."""
    copy = Path(folder) / "copy"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    asked = [sys.executable, "-c", "import ft_toolkit; print(ft_toolkit.__file__)"]
    found = subprocess.run(asked, cwd=copy, env=environment(copy), capture_output=True, text=True).stdout
    if not Path(found.strip()).is_relative_to(copy):
        raise SystemExit(f"{found.strip()} is imported in place of the copy in {copy}")
    return copy


def pytest(copy: Path, tests: tuple[str, ...]) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=copy, env=environment(copy), capture_output=True).returncode


def environment(copy: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | own


if __name__ == "__main__":
    sys.exit(main())
