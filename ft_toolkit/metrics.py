"""Our scores through the evaluate library's interface, so that evaluate.combine can use them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import evaluate
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import choose_protocol, prepare, score
from ft_toolkit.judging.totals import corpus_totals, document_totals
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.foreign import load_foreign
from ft_toolkit.models.language_model import LanguageModel, language_model_of
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.references import parse_run
from ft_toolkit.runtime import prepare_torch
from ft_toolkit.sharing.pulled import open_run
from ft_toolkit.text.documents import TextDocument

_DESCRIPTION = """Perplexity (causal) or pseudo-perplexity (masked) of texts: exp(total nats / total tokens)
over all of them, never a mean of perplexities. The model, its adapter and the protocol are passed to
the constructor, since compute() hands its arguments to every metric of a combination."""


class DomainPerplexity(evaluate.Metric):  # type: ignore[misc]  # evaluate carries no types
    """`DomainPerplexity("runs/quickstart").compute(predictions=texts)`.

    model      a run folder, hub:owner/name[@revision], a checkpoint as a recipe names it, or a model object
               with its tokenizer: it is scored as it is at compute(), and left as it was
    adapter    folder of a PEFT adapter for it (a model object is copied then); a run brings its own
    protocol   auto, or a name from judging.protocols; window and stride in tokens
    returns    {"perplexity" or "pseudo_perplexity", "nll_nats", "tokens", "bytes", "words", "protocol"}, and
               "bits_per_byte", "word_perplexity" for causal models; "words" and "word_perplexity" are None
               for texts that are written without spaces
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        adapter: str | Path | None = None,
        protocol: str = "auto",
        window: int | None = None,
        stride: int | None = None,
        **evaluate_options: Any,
    ) -> None:
        prepare_torch()
        self._model = _loaded(model, tokenizer, adapter)
        self._protocol = choose_protocol(self._model, protocol, window, stride)
        super().__init__(**evaluate_options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: texts, each scored alone",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: Sequence[str]) -> dict[str, Any]:
        texts = [TextDocument("predictions", row, text) for row, text in enumerate(predictions) if text]
        encoded = prepare(texts, self._model.tokenizer, self._protocol)
        if not encoded:
            raise FtError("predictions", "at least one text", "none", "Pass predictions=[…].")
        with _evaluating(self._model.model):
            scores = score(self._model, encoded, self._protocol)
        totals = corpus_totals(document_totals(d, nll) for d, nll in zip(encoded, scores, strict=True))
        found: dict[str, Any] = {
            self._protocol.metric.replace("-", "_"): totals.perplexity
        } | totals.as_dict()
        if self._protocol.metric == "perplexity":
            found |= {"bits_per_byte": totals.bits_per_byte, "word_perplexity": totals.word_perplexity}
        return found | {"protocol": self._protocol.words()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _loaded(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, adapter: str | Path | None
) -> LanguageModel:
    if not isinstance(model, str | Path):
        if tokenizer is None:
            fix = "Pass tokenizer=…."
            raise FtError("DomainPerplexity", "a tokenizer beside a model object", "none", fix)
        if adapter is not None:  # PEFT would leave its layers in the caller's model
            model = copy.deepcopy(model)
        with _evaluating(model):
            base = language_model_of(type(model).__name__, model, tokenizer)
    elif parse_run(str(model)).kind == "hub" or any(
        (Path(model) / name).is_file() for name in ("run.json", "recipe.yaml")
    ):
        run = open_run(str(model))
        base = load_base(run.recipe.base)
        run.check_base(base.name, base.sha256s)
        if adapter is None:
            run.check_trained(warnings.warn)
            return load_pair(base, run.trained_folder).tuned
    else:
        base = load_base(str(model))
    return base if adapter is None else base.with_model(load_foreign(base, Path(adapter)))
