"""What other programs make of an exported file: its scores must be ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from ft_toolkit.errors import IntegrityFailed
from ft_toolkit.judging.integrity import probe_scores
from ft_toolkit.judging.masked import covering, framed_rows, in_windows
from ft_toolkit.judging.merging import moved_nats
from ft_toolkit.judging.protocols import COVERING_GROUPS, SEED
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import NO_TARGET
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.documents import TextDocument

EXPORTED_NATS = 1e-2  # a token and document: what float16 and another program's arithmetic may move
_PADDING = 3  # tokens behind a row: the file's mask must keep them out
READERS = {"gguf": "llama-cpp-python", "onnx": "onnxruntime"}  # as they are installed
_MODULES = {"gguf": "llama_cpp", "onnx": "onnxruntime"}
AWKWARD = (
    "Two  blanks, a\ttab and 12345 digits; it's “quoted” – émigré, 日本語, 🙂.\n\n   <|endoftext|> don't  \n"
)
Nats = NDArray[np.float64]


def is_readable(kind: str) -> bool:
    """Whether the program that reads such a file is installed."""
    return find_spec(_MODULES[kind]) is not None


@dataclass(frozen=True)
class Probed:
    """Texts that a model reads in one row each, and its own nats of their tokens."""

    model: LanguageModel
    texts: Sequence[str]
    nats: Sequence[np.ndarray]


def probed(model: LanguageModel, texts: Sequence[str]) -> Probed:
    """Score the beginnings of texts, and of one that is awkward to cut into tokens.

    texts   those without a token fall away
    """
    found = []
    for text in (*texts, AWKWARD):
        while len(ids := _ids(model, text)) > model.positions - 2:
            text = text[: len(text) * (model.positions - 2) // len(ids)]
        if ids:
            found.append(text)
    return Probed(model, found, probe_scores(model, found))


def moved_by_gguf(wanted: Probed, path: Path, lora: Path | None = None) -> float:
    """By how much llama.cpp's nats a token differ from the model's own, for the worst text.

    lora     an adapter's file, for the base in `path`
    raises   IntegrityFailed when llama.cpp cuts a text into other tokens, or the scores are further apart
             than EXPORTED_NATS
    """
    from llama_cpp import Llama

    positions = wanted.model.positions
    reader: Any = Llama(
        str(path),
        lora_path=None if lora is None else str(lora),
        n_ctx=positions,
        n_batch=positions,
        n_gpu_layers=0,
        n_threads=torch.get_num_threads(),
        n_threads_batch=torch.get_num_threads(),
        logits_all=True,
        verbose=False,
    )
    model, found = wanted.model, []
    try:
        for text in wanted.texts:
            ids = _ids(model, text)
            if reader.tokenize(text.encode(), add_bos=False, special=False) != ids:
                raise _apart(path, "the same tokens from llama.cpp", f"others, in {text[:40]!r}")
            begin = [] if model.special.begin is None else [model.special.begin]
            reader.reset()
            reader.eval([*begin, *ids])
            scored = ids[1 - len(begin) :]  # without a begin token nothing predicts the first
            nats = np.full(len(ids), np.nan)
            nats[len(ids) - len(scored) :] = _nats(reader.scores[: len(scored)], np.array(scored))
            found.append(nats)
    finally:
        reader.close()
    return _compared(wanted, path, found)


def moved_by_onnx(wanted: Probed, path: Path) -> float:
    """The same for onnxruntime, every seventh token masked at a time, with padding behind."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    model = wanted.model
    plan = in_windows(model.positions, covering(COVERING_GROUPS, SEED))
    found = []
    for document in _encoded(model, wanted.texts):
        nats = np.full(len(document.ids), np.nan)
        for each in plan(document):
            width = min(model.positions, len(document.ids) + 2 + _PADDING)
            input_ids, targets, mask = framed_rows([(document.ids, each)], model.special, width)
            given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
            (logits,) = session.run(["logits"], {name: given[name] for name in names})
            is_scored = targets[0] != NO_TARGET
            nats[each.scored] = _nats(logits[0, is_scored], targets[0, is_scored])
        found.append(nats)
    return _compared(wanted, path, found)


def _nats(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Nats:
    """(n,) of each target, from logits (n, vocabulary)."""
    shares = log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    return np.asarray(-shares[np.arange(len(targets)), targets])


def _compared(wanted: Probed, path: Path, found: Sequence[Nats]) -> float:
    moved = moved_nats(wanted.nats, found)
    if not moved <= EXPORTED_NATS:  # NaN is no agreement
        raise _apart(path, f"at most {EXPORTED_NATS} nats a token apart from the run", f"{moved:.2g}")
    return moved


def _apart(path: Path, wanted: str, found: str) -> IntegrityFailed:
    return IntegrityFailed(path.name, wanted, found, "Nothing was written; use ft merge.")


def _encoded(model: LanguageModel, texts: Sequence[str]) -> list[Encoded]:
    return encode([TextDocument("probe", row, text) for row, text in enumerate(texts)], model.tokenizer)


def _ids(model: LanguageModel, text: str) -> list[int]:
    """As we read it; none for a text without a token."""
    return [number for document in _encoded(model, [text]) for number in document.ids.tolist()]
