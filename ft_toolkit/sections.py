"""The sections of a recipe: every key, its type, its default and its meaning.

Unknown keys are refused, all defaults are here, and nothing changes a recipe after it is read.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from ft_toolkit.recipe_faults import BRANCHES
from ft_toolkit.recipe_values import codec_name, duration_seconds, folder_name, share
from ft_toolkit.references import parse_text

BasePrecision = Literal["float32", "bfloat16", "4bit"]
Unit = Literal["file", "paragraph", "line", "row"]
SEEDS = 2**63  # every generator takes these
NEAR_DUPLICATES = 0.8  # Jaccard similarity, as in Lee et al. 2022 (arXiv:2107.06499)
LEAST_RANK = 8  # of rank: auto, and what it stands for where no base is known


class Section(BaseModel):
    """Part of a recipe: refuses unknown keys, cannot change once read."""

    # strict: by itself pydantic would take true for 1 and "3" for 3
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Split(Section):
    validation: float = Field(0.1, gt=0, lt=1, description="share of documents that choose the best adapter")
    test: float = Field(0.2, gt=0, lt=1, description="share of documents kept for the verdict")
    seed: int = Field(
        0,
        ge=0,
        lt=SEEDS,
        description="another seed, another split; a part depends on it and on the document (or file) alone",
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="a column: rows where it is equal, such as one patient's, share a part",
    )

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test shares that leave something to train on")
        return self


class Corpus(Section):
    source: str = Field(
        min_length=1, description="package:NAME, a file, folder or glob, hf:owner/name or https://…"
    )
    text: str = Field(
        "text", min_length=1, description='rows with columns: a column, or a template like "{title}\\n{body}"'
    )
    documents: Unit | None = Field(
        None, description="what one document is; by default a row of a table, else a file"
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the file at an https:// address, which needs it"
    )
    encoding: Annotated[str | None, AfterValidator(codec_name)] = Field(
        None, description="of text files and tables, as in cp949; by default UTF-8, strictly"
    )
    redact: bool = Field(
        False, description="replace e-mail addresses, phone and identity numbers before anything sees them"
    )
    skip_unreadable: bool = Field(False, description="leave out files that cannot be read, and list them")
    most_documents: PositiveInt | None = Field(
        None, description="no more than these are read, the first ones; a large data set is then streamed"
    )
    split: Split = Split()
    near_duplicates: float | None = Field(
        0.8,
        ge=0.5,
        le=1,
        description="Jaccard similarity of 5-word runs from which texts share a part; null: off",
    )
    keep_duplicates: bool = Field(False, description="true: training reads copies and near-duplicates, too")
    license: str | None = Field(
        None, description="of the text, as the Hub writes it: cc0-1.0, cc-by-4.0; own: it is yours to give"
    )
    language: str | None = Field(None, description="of the text, as in en or it; stands on the card")
    name: Annotated[str, AfterValidator(folder_name)] | None = Field(
        None, description="of this text in tables; by default its file's, folder's or data set's"
    )
    weight: Annotated[float | None, Field(gt=0, le=1_000_000)] = Field(
        None, description="in a list of sources: its share of an epoch's tokens, beside the others' weights"
    )

    @property
    def label(self) -> str:
        """A short name for tables, without this machine's folders."""
        return self.name or parse_text(self.source).label


def _alone(corpus: Corpus) -> Corpus:
    if corpus.weight is not None:
        raise ValueError("a list of sources where one has a weight: [{source: a, weight: 3}, {source: b}]")
    return corpus


def _distinct(corpora: list[Corpus]) -> list[Corpus]:
    """Sources that can be told apart, and are screened in one way."""
    for what, values in (
        ("each source once", [corpus.source for corpus in corpora]),
        ("a name: for one of two sources of one name", [corpus.label for corpus in corpora]),
    ):
        for number, value in enumerate(values):
            if value in values[:number]:
                raise ValueError(f"{what} ({value})")
    for key in ("near_duplicates", "keep_duplicates"):
        if len({getattr(corpus, key) for corpus in corpora}) > 1:
            raise ValueError(f"the same {key} in each source, since they are screened together")
    return corpora


# one text, or a mixture: the tags stand in the faults' places, and recipe_faults.py leaves them out
Corpora = Annotated[
    Annotated[Corpus, AfterValidator(_alone), Tag(BRANCHES[0])]
    | Annotated[list[Corpus], Field(min_length=1), AfterValidator(_distinct), Tag(BRANCHES[1])],
    Discriminator(lambda value: BRANCHES[isinstance(value, list)]),
]


class Adapter(Section):
    method: Literal["lora", "rslora", "dora", "pissa", "lora+", "ia3", "full", "scratch"] = Field(
        "lora", description="full trains the base itself; scratch its architecture from fresh weights"
    )
    rank: Literal["auto"] | Annotated[int, Field(gt=0, le=4096)] = Field(
        "auto", description="rows of A, columns of B (arXiv:2106.09685); auto: 64, or a quarter of the width"
    )
    alpha: Literal["auto"] | Annotated[int, Field(gt=0, le=1_000_000)] = Field(
        "auto", description="the update is scaled by alpha / rank; auto: twice the rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")
    targets: Literal["auto", "attention", "all-linear"] | list[str] = Field(
        "auto", description="auto or all-linear: every matrix of the trunk; attention: its own; or names"
    )

    tokenizer: Literal["base", "train"] = Field(
        "base", description="train: scratch learns a tokenizer of the base's kind from the training part"
    )
    base_precision: BasePrecision = Field(
        "float32", description="of the frozen base while it trains; scores are float32 (docs/models.md)"
    )
    strength: Literal["auto"] | Annotated[float, Field(gt=0, le=2)] = Field(
        "auto", description="the update saved, times this; auto: the least that keeps 95 % of the gain"
    )
    tokens: list[str] = Field(
        [], description="words whose pieces' embeddings are trained too, as they stand in the vocabulary"
    )

    @model_validator(mode="after")
    def _tokens_go_with_lora(self) -> Adapter:
        if self.tokens and self.method not in ("lora", "rslora", "dora", "lora+"):
            raise ValueError("tokens only with lora, rslora, dora or lora+; full trains every row anyway")
        return self

    @model_validator(mode="after")
    def _a_base_in_fewer_bits_is_frozen(self) -> Adapter:
        is_apart = self.tokens or self.method not in ("lora", "rslora", "lora+", "ia3")
        if self.base_precision != "float32" and is_apart:
            raise ValueError("base_precision only with lora, rslora, lora+ or ia3, and without tokens")
        return self

    @model_validator(mode="after")
    def _a_new_tokenizer_needs_fresh_weights(self) -> Adapter:
        if self.tokenizer == "train" and self.method != "scratch":
            raise ValueError("tokenizer: train only with method: scratch, since its rows mean other words")
        return self

    @model_validator(mode="after")
    def _only_a_product_has_a_strength(self) -> Adapter:
        if self.strength not in ("auto", 1) and not self.has_strength:
            raise ValueError("strength only with lora, rslora or lora+, and without tokens")
        return self

    @property
    def has_strength(self) -> bool:
        """Whether a smaller alpha alone makes the whole update smaller."""
        return self.method in ("lora", "rslora", "lora+") and not self.tokens

    @property
    def has_rank(self) -> bool:
        return not self.is_whole_model and self.method != "ia3"

    @property
    def known_rank(self) -> int:
        """The rank; for auto the least one, until auto.fill knows the base."""
        return LEAST_RANK if self.rank == "auto" else self.rank

    @property
    def known_alpha(self) -> int:
        return 2 * self.known_rank if self.alpha == "auto" else self.alpha

    @property
    def is_whole_model(self) -> bool:
        """Whether the weights themselves are trained: such a run has a model/ in place of an adapter/."""
        return self.method in ("full", "scratch")


class Training(Section):
    epochs: PositiveInt = Field(3, description="passes over the training part")
    steps: PositiveInt | None = Field(None, description="optimizer steps, in place of epochs")
    budget: Annotated[PositiveFloat | None, BeforeValidator(duration_seconds)] = Field(
        None, description="stop cleanly after this much training time: 90s, 20m, 1.5h"
    )
    block_tokens: int | None = Field(
        None, ge=8, description="tokens in a training row; by default 256, or the model's positions if fewer"
    )
    batch_tokens: PositiveInt = Field(4096, description="tokens in an optimizer step")
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "auto", description="the peak, after the warm-up; auto: by method, width and steps (docs/auto.md)"
    )
    mask_fraction: float = Field(
        0.15, gt=0, lt=1, description="masked models: share of the tokens masked in training"
    )
    replay: Literal["auto"] | Annotated[float, BeforeValidator(share), Field(ge=0, lt=1)] = Field(
        "auto",
        description="share of tokens with the base's own predictions, against forgetting: 5% (docs/auto.md)",
    )
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="share of the steps that warm up")
    patience: PositiveInt = Field(3, description="validations without improvement before stopping early")
    seed: int = Field(0, ge=0, lt=SEEDS, description="adapter initialisation, order of rows, masks, dropout")

    @property
    def peak(self) -> float:
        """The peak learning rate as a number.

        raises   ValueError for auto, which auto.fill replaces before a training starts
        """
        return float(self.learning_rate)

    @property
    def replay_share(self) -> float:
        """Replay as a number; raises as peak does."""
        return float(self.replay)


class Judging(Section):
    protocol: Literal["auto", "document", "rolling", "concatenated", "word-l2r", "pll", "covering"] = Field(
        "auto", description="how text is scored; auto: document (causal), word-l2r (masked)"
    )
    window: PositiveInt | None = Field(None, description="tokens read at once; by default all positions")
    stride: PositiveInt | None = Field(None, description="tokens a window moves on; by default half of it")
    general: str | None = Field(
        "package:general-probe", description="other text, to measure what was forgotten; null: none"
    )
    most_documents: Annotated[int, Field(ge=8)] | None = Field(
        2000, description="no more test documents than these are scored, chosen by hash; null: all"
    )
    keep_text: bool = Field(True, description="keep the held-out documents' text in the run folder")
    canaries: int = Field(0, ge=0, le=1000, description="planted sentences, for ft audit --canaries")


class Publish(Section):
    repo: str | None = Field(None, description="owner/name on the Hub, when ft push gets no --to")
    private: bool = Field(True, description="false: the repository is public without --public")
    license: str | None = Field(None, description="of the adapter; by default what its base and text allow")
    tags: list[str] = Field(
        [], description="more tags for the card; with medical it says that it is no medical advice"
    )


class Recipe(Section):
    name: Annotated[str, AfterValidator(folder_name)] = Field(
        description="the run folder's name; by default the recipe file's"
    )
    base: str = Field(
        min_length=1,
        description="starter/gpt2, starter/bert, owner/name[@revision], a folder or a .gguf file",
    )
    corpus: Corpora
    adapter: Adapter = Adapter()
    training: Training = Training()
    judging: Judging = Judging()
    publish: Publish = Publish()

    @property
    def corpora(self) -> list[Corpus]:
        """Its sources: one, or those of a mixture."""
        return self.corpus if isinstance(self.corpus, list) else [self.corpus]

    def with_corpora(self, **values: object) -> Recipe:
        """With these values in each of its sources."""
        corpora = [corpus.model_copy(update=values) for corpus in self.corpora]
        return self.model_copy(update={"corpus": corpora if isinstance(self.corpus, list) else corpora[0]})

    @property
    def text_source(self) -> str:
        """All of its sources, as the recipe names them."""
        return " + ".join(corpus.source for corpus in self.corpora)

    @property
    def text_label(self) -> str:
        """A short name for all of its text."""
        return " + ".join(corpus.label for corpus in self.corpora)

    @model_validator(mode="after")
    def _replay_needs_a_base(self) -> Recipe:
        if self.training.replay not in ("auto", 0) and self.adapter.method == "scratch":
            raise ValueError(
                "training.replay without method: scratch, whose fresh weights have nothing to forget"
            )
        return self
