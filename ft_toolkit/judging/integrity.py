"""Saved equals trained: a fresh process loads the saved files and must give the same scores, bit by bit.

The fresh process knows only the run folder. A change in memory that was not saved, or a file that cannot be
loaded, is found here and not on a user's machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ft_toolkit.errors import IntegrityFailed
from ft_toolkit.judging.protocols import quick_protocol, score
from ft_toolkit.models.adapters import trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.runtime import last_words, run_python
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import Document, TextDocument

PROBE_CHARACTERS = 2000  # enough for a window and a half of a small model; read in well under a second
PROBE_DOCUMENTS = 4
# Only pissa is saved in another form than in memory: W + [B, -B0] [A; A0] for (W - B0 A0) + B A.
# Rounding moved a text's tokens by 2.5e-6 nats in the mean at most: sixteen tiny families, the starters
# and GPT-2's 124M shape, ranks 4 to 64 (docs/numbers.md). This is eight times that.
PISSA_NATS = 2e-5
WHAT_NOW = "It will not be published; train again."


@dataclass(frozen=True)
class Integrity:
    """What the gate found. `passed` decides whether the run may be published."""

    reload: str  # bitwise, or how much a fresh process differs
    base_unchanged: bool
    unmoved: list[str]  # trained parameters that are exactly as they started
    trained: int  # how many there are
    rounding_nats: float | None = None  # pissa: a token's, of the saved file against what stood in memory

    @property
    def passed(self) -> bool:
        return self.reload == "bitwise" and self.base_unchanged and len(self.unmoved) < self.trained

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}

    def words(self) -> str:
        base = "its base unchanged" if self.base_unchanged else "its base CHANGED"
        moved = f"{self.trained - len(self.unmoved)} of {self.trained} matrices moved"
        stuck = f" (not {', '.join(self.unmoved[:3])})" if self.unmoved else ""
        near = (
            f"; {self.rounding_nats:.1e} nats a token from memory" if self.rounding_nats is not None else ""
        )
        return f"saved = trained?  a fresh process: {self.reload}{near}; {base}; {moved}{stuck}"


@dataclass(frozen=True)
class Live:
    """The model as training left it in memory, recorded before anything is loaded."""

    texts: list[str]
    scores: list[np.ndarray]  # nats of every token of each text
    unmoved: list[str]  # trained parameters that are exactly as they started
    trained: int  # how many there are


def fingerprints(model: nn.Module) -> dict[str, str]:
    """sha256 of every trainable parameter; compared before and after training it shows which ones moved."""
    return {name: _digest(parameter.detach().cpu().numpy()) for name, parameter in trainable(model).items()}


def observe(tuned: LanguageModel, before: dict[str, str], documents: Sequence[Document]) -> Live:
    """Record a model as training left it.

    before     its fingerprints before training
    documents  texts to score, cut short; float32
    """
    now = fingerprints(tuned.model)
    texts = [document.text[:PROBE_CHARACTERS] for document in documents[:PROBE_DOCUMENTS]]
    unmoved = [name for name, digest in before.items() if now.get(name) == digest]
    return Live(texts, probe_scores(tuned, texts), unmoved, len(before))


def prove(live: Live, base: LanguageModel, folder: Path, loaded: LanguageModel | None = None) -> Integrity:
    """Compare what training left in memory with what was saved of it.

    base     what training started from; its weights may not have moved
    folder   the run's adapter/ or model/
    loaded   what will be judged, where that was loaded from `folder` in this process: a fresh process must
             agree with it bitwise, and it with the live model within PISSA_NATS
    """
    here = live.scores if loaded is None else probe_scores(loaded, live.texts)
    saved = _in_a_fresh_process(base, folder, live.texts)
    reload = (
        "bitwise"
        if [_digest(nll) for nll in here] == [one["sha256"] for one in saved]
        else _drift(here, saved)
    )
    rounding = _apart_nats(live.scores, here) if loaded is not None else None
    if rounding is not None and not rounding <= PISSA_NATS:  # nor NaN
        reload, rounding = f"differs from memory by {rounding:.1e} nats a token", None
    is_unchanged = hash_weights(base.model) == base.weights_sha256
    return Integrity(reload, is_unchanged, live.unmoved, live.trained, rounding)


def require(found: Integrity, folder: Path) -> None:
    """raises   IntegrityFailed, exit code 4, unless saved equals trained"""
    if found.passed:
        return
    reason = "a base that changed" if not found.base_unchanged else found.reload
    if found.base_unchanged and found.reload == "bitwise":
        reason = "no matrix that moved"
    raise IntegrityFailed(folder, "saved = trained, bitwise", reason, WHAT_NOW)


def _in_a_fresh_process(base: LanguageModel, folder: Path, texts: Sequence[str]) -> list[dict[str, str]]:
    asked = {
        "base": base.name,
        "folder": str(folder),
        "texts": texts,
        "threads": torch.get_num_threads(),
        "device": str(base.device),
    }
    environment = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    found = run_python("-m", "ft_toolkit.judging.integrity", environment=environment, asked=json.dumps(asked))
    if found.returncode:
        raise IntegrityFailed(folder, "a fresh process to load it", last_words(found), WHAT_NOW)
    answer: list[dict[str, str]] = json.loads(found.stdout.splitlines()[-1])
    return answer


def probe_scores(model: LanguageModel, texts: Sequence[str]) -> list[np.ndarray]:
    """Nats of every token of each text, (n,) a text, in float32 and by a protocol that is quick."""
    documents = encode([TextDocument("probe", row, text) for row, text in enumerate(texts)], model.tokenizer)
    protocol = quick_protocol(model)
    return score(model, documents, protocol)


def _digest(values: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _apart_nats(live: Sequence[np.ndarray], saved: Sequence[np.ndarray]) -> float:
    """The largest text's mean distance of its tokens; NaN where one side alone has a score."""
    gaps = [
        np.abs(one - other)[~(np.isnan(one) & np.isnan(other))]
        for one, other in zip(live, saved, strict=True)
    ]
    return float(np.max([gap.mean() for gap in gaps if gap.size], initial=0.0))


def _drift(live: Sequence[np.ndarray], saved: Sequence[dict[str, str]]) -> str:
    there = [float.fromhex(one["nats_per_token"]) for one in saved]
    here = [float(np.nanmean(nll)) for nll in live]
    return f"differs by up to {max(abs(a - b) for a, b in zip(here, there, strict=True)):.2e} nats a token"


def main() -> None:
    """The fresh process: reads a request from stdin, writes each text's scores as one line of JSON."""
    asked = json.loads(sys.stdin.read())
    torch.set_num_threads(asked["threads"])
    base, folder = load_base(asked["base"], asked["device"]), Path(asked["folder"])
    scores = probe_scores(load_pair(base, folder).tuned, asked["texts"])
    answer = [{"sha256": _digest(nll), "nats_per_token": float(np.nanmean(nll)).hex()} for nll in scores]
    print(json.dumps(answer))


if __name__ == "__main__":
    from ft_toolkit.runtime import prepare_process, prepare_torch

    prepare_process()
    prepare_torch()
    main()
