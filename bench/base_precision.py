"""What keeping the base in bfloat16 saves and costs: GPT-2's 124M shape, LoRA, 4 rows of 256 tokens a step.

    python bench/base_precision.py

Each precision in a process of its own: the frozen base's bytes, the memory's peak so far behind loading, two
steps and a float32 base again, and the second step's processor seconds. Random weights; and starter/gpt2 on a
package's text: the change of the loss.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ft_toolkit.runtime import prepare_process, prepare_torch

prepare_process()
prepare_torch()

import torch  # noqa: E402
from checkpoints import large_base  # noqa: E402

from ft_toolkit.judging.protocols import quick_protocol, score  # noqa: E402
from ft_toolkit.judging.totals import corpus_totals, document_totals  # noqa: E402
from ft_toolkit.models.adapters import attach_adapter, trainable  # noqa: E402
from ft_toolkit.models.checkpoints import load_base  # noqa: E402
from ft_toolkit.models.kept_weights import kept_in  # noqa: E402
from ft_toolkit.models.token_nll import SummedLoss, TokenScorer  # noqa: E402
from ft_toolkit.sections import Adapter  # noqa: E402
from ft_toolkit.text.blocks import encode  # noqa: E402
from ft_toolkit.text.corpus import read_source  # noqa: E402

PRECISIONS = ("float32", "bfloat16")


def peak_gb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def step(folder: str, precision: str) -> None:
    """Print what one precision takes."""
    base = load_base(folder)
    loaded = peak_gb()
    model = attach_adapter(base, Adapter(rank=8, alpha=16), seed=0)
    ids = torch.randint(100, 4000, (4, 256), generator=torch.Generator().manual_seed(0))
    loss = SummedLoss(TokenScorer(model, base.family))
    with kept_in(precision, base):  # type: ignore[arg-type]  # one of PRECISIONS
        frozen = sum(p.nbytes for p in base.model.parameters() if not p.requires_grad)
        for _ in range(2):
            started = time.process_time()
            loss(ids, ids.roll(-1, 1))[0].backward()
            seconds = time.process_time() - started
            for parameter in trainable(model).values():
                parameter.grad = None
        trained = peak_gb()
    peaks = f"peak while loading {loaded:.2f}, training {trained:.2f}, to the end {peak_gb():.2f} GB"
    print(f"{precision:<9} frozen base {frozen / 1e6:.0f} MB, {peaks}; {seconds:.1f} s of a core a step")


def change() -> None:
    """Print what rounding starter/gpt2 changes on documents of a package."""
    base = load_base("starter/gpt2")
    documents = encode(read_source("package:italian-cooking").documents[:30], base.tokenizer)
    found = []
    for precision in PRECISIONS:
        with kept_in(precision, base):  # type: ignore[arg-type]  # likewise
            scores = score(base, documents, quick_protocol(base))
        pairs = zip(documents, scores, strict=True)
        found.append(corpus_totals(document_totals(one, nll) for one, nll in pairs).nats_per_token)
    print(f"starter/gpt2: {found[0]:.5f} nats a token, {found[1] - found[0]:+.1e} by rounding to bfloat16")


def main() -> None:
    if len(sys.argv) > 1:
        step(sys.argv[1], sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        large_base(Path(folder))
        for precision in PRECISIONS:
            subprocess.run([sys.executable, __file__, folder, precision], check=True)
    change()


if __name__ == "__main__":
    main()
