"""A masked model's features of a text: the mean of its last hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.judging.batches import batches
from ft_toolkit.judging.masked import windows
from ft_toolkit.models.float_products import products_through_onednn
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.rows import Ids

BATCH_TOKENS = 2048
Features = NDArray[np.float64]


def mean_pooled(model: LanguageModel, texts: Sequence[str], where: str = "text") -> Features:
    """(texts, width): the mean over all tokens, begin and end included, as sentence-transformers pools them.

    A text that is longer than the model reads is read in windows of nearly equal size, and the mean is over
    the tokens of all of them. Nothing is masked.

    where    what an error names
    raises   FtError for a text without a token; NumbersGoneWrong for features that are not finite
    """
    rows = _rows(model, texts, where)
    bare = model.model.get_base_model() if isinstance(model.model, PeftModel) else model.model
    trunk = bare.get_submodule(model.family.trunk)
    sums, tokens = np.zeros((len(texts), 0)), np.zeros(len(texts))
    with torch.inference_mode(), products_through_onednn():
        for width, some in batches(rows, lambda row: len(row[1]), BATCH_TOKENS):
            input_ids = torch.zeros((len(some), width), dtype=torch.long)
            attention_mask = torch.zeros((len(some), width), dtype=torch.long)
            for place, (_, ids) in enumerate(some):
                input_ids[place, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
                attention_mask[place, : len(ids)] = 1
            mask = attention_mask.to(model.device)
            hidden = trunk(input_ids=input_ids.to(model.device), attention_mask=mask).last_hidden_state
            added = (hidden.double() * mask[..., None]).sum(1).cpu().numpy()  # (rows, width of the model)
            if not sums.shape[1]:
                sums = np.zeros((len(texts), added.shape[1]))
            for (index, ids), row in zip(some, added, strict=True):
                sums[index] += row
                tokens[index] += len(ids)
    features = sums / tokens[:, None]
    if not np.isfinite(features).all():
        raise NumbersGoneWrong(where, "finite features", "NaN or infinity", "The weights are damaged.")
    return np.asarray(features, dtype=np.float64)


def _rows(model: LanguageModel, texts: Sequence[str], where: str) -> list[tuple[int, Ids]]:
    """(number of the text, framed ids) of every window."""
    documents = encode(
        [TextDocument("labelled", row, text) for row, text in enumerate(texts)], model.tokenizer
    )
    if len(documents) < len(texts):
        row = next(row for row in range(len(texts)) if row not in {d.document.row for d in documents})
        raise FtError(where, "a token in every text", f"none in {texts[row]!r}", "Fix that text.")
    frame = np.array([model.special.begin, model.special.end], dtype=np.int32)
    found = []
    for index, document in enumerate(documents):
        for start, stop in windows(len(document.ids), model.positions - 2):
            found.append((index, np.concatenate([frame[:1], document.ids[start:stop], frame[1:]])))
    return found
