"""A base and the model that was tuned from it: what a comparison compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from ft_toolkit.models.adapters import attach_adapter, load_trained
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.tokenizers import saved_tokenizer
from ft_toolkit.sections import Adapter


@dataclass(frozen=True)
class ModelPair:
    """Base and tuned; each reads text with its own tokenizer.

    Where the tuned model's adapter can be switched off exactly, both share one set of weights and neither can
    drift from the other. Elsewhere (pissa, full, scratch) adapters.py gives them weights of their own.
    """

    base: LanguageModel
    tuned: LanguageModel

    @property
    def own_tokenizer_sha256(self) -> str | None:
        """Of the tuned model's tokenizer; None where it is the base's."""
        own = self.tuned.tokenizer_sha256
        return own if own != self.base.tokenizer_sha256 else None

    @property
    def has_common_figure(self) -> bool:
        """False for masked models with two tokenizers: they mask different pieces of a text."""
        return self.own_tokenizer_sha256 is None or self.base.family.objective == "causal"

    @contextmanager
    def base_side(self) -> Iterator[LanguageModel]:
        """The base as it was before training: every adapter inside it is switched off for a while."""
        layers = [
            layer
            for layer in self.base.model.modules()
            if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
        ]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield self.base
        finally:
            for layer in layers:
                layer.enable_adapters(True)


def new_pair(
    base: LanguageModel, plan: Adapter, seed: int, learner: LanguageModel | None = None
) -> ModelPair:
    """A base and what is to be trained from it; nothing is learnt yet.

    learner   the base's architecture with a tokenizer of its own, where that is not the base's
    """
    start = learner or base
    return ModelPair(base, start.with_model(attach_adapter(start, plan, seed)))


def load_pair(base: LanguageModel, folder: Path, onto: PeftModel | None = None) -> ModelPair:
    """What a run saved, on its base, with the tokenizer that was saved beside the weights if there is one.

    onto     the tuned model of an earlier pair of this base, whose weights may serve this adapter too
    raises   FtError as load_adapter and load_whole do
    """
    tokenizer = saved_tokenizer(folder)
    reader = base if tokenizer is None else base.with_tokenizer(tokenizer, f"tokenizer of {folder}")
    return ModelPair(base, reader.with_model(load_trained(base, folder, onto)))
