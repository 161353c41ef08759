"""What is known of a run that goes to the Hub: everything that its card tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_toolkit.references import TextReference, parse_text
from ft_toolkit.sections import Recipe
from ft_toolkit.sharing.licences import Licence
from ft_toolkit.sharing.staging import BaseOnTheHub

MEDICAL = "medical"
_LANGUAGES_OF_PACKAGES = {"italian-cooking": "en", "everyday-medicine": "en"}
_MEDICAL_PACKAGES = ("everyday-medicine",)

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """Everything that the card tells, as it will stand on the Hub."""

    repo: str
    recipe: Recipe
    base: BaseOnTheHub
    licence: Licence
    comparison: Json  # the staged comparison.json, with the facts of run.json under "run"
    snippet: str
    merged: bool

    @property
    def is_medical(self) -> bool:
        packages = {text.package for text in self.texts}
        return MEDICAL in self.recipe.publish.tags or not packages.isdisjoint(_MEDICAL_PACKAGES)

    @property
    def texts(self) -> list[TextReference]:
        """One, or those of a mixture."""
        return [parse_text(corpus.source) for corpus in self.recipe.corpora]

    @property
    def dataset(self) -> TextReference | None:
        """The data set of the Hub that it is about; None for other text, and for a mixture."""
        return self.texts[0] if len(self.texts) == 1 and self.texts[0].dataset else None

    @property
    def metric(self) -> str:
        return str(self.comparison["protocol"]["metric"])

    @property
    def figure(self) -> str:
        """The metric as the keys of comparison.json spell it: base_perplexity, base_pseudo_perplexity."""
        return self.metric.replace("-", "_")

    @property
    def facts(self) -> Json:
        facts: Json = self.comparison["run"]
        return facts

    @property
    def languages(self) -> str | list[str] | None:
        """Of its texts, as far as they are stated."""
        found = [
            corpus.language or _LANGUAGES_OF_PACKAGES.get(text.package or "")
            for corpus, text in zip(self.recipe.corpora, self.texts, strict=True)
        ]
        named = list(dict.fromkeys(language for language in found if language))
        return named if len(named) > 1 else next(iter(named), None)

    @property
    def text_words(self) -> str:
        """Its texts, with links to those on the Hub."""
        names = []
        for corpus, text in zip(self.recipe.corpora, self.texts, strict=True):
            link = f"[{text.dataset}](https://huggingface.co/datasets/{text.dataset})"
            weight = f" (weight {corpus.weight:g})" if corpus.weight is not None else ""
            names.append(f"{link if text.dataset else f'`{text.shown}`'}{weight}")
        return " and ".join(names)

    @property
    def split_words(self) -> str:
        """How its texts are split; once where all are split in one way."""
        said = [
            f"validation {corpus.split.validation:g}, test {corpus.split.test:g}, seed {corpus.split.seed}"
            for corpus in self.recipe.corpora
        ]
        return "; ".join(dict.fromkeys(said))
