"""A recipe: YAML read into frozen, validated sections, and the origin of each value.

Unknown keys are refused, all defaults are here, and nothing changes a recipe after it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from ft_toolkit import shipped, strict_yaml
from ft_toolkit.errors import FtError, RecipeError
from ft_toolkit.recipe_faults import faults

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_LETTERS = 100  # a file system takes 255, and a number may stand behind it
SEEDS = 2**63  # every generator takes these
LEAST_RANK = 8  # of rank: auto, and what it stands for where no text is known


def _seconds(value: object) -> object:
    """`20m` becomes 1200.0; a bare number is refused, since its unit would be unclear."""
    if value is None or isinstance(value, float):
        return value
    match = _DURATION.fullmatch(str(value))
    if not match:
        raise ValueError("a time with its unit, such as 90s, 20m or 1.5h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _share(value: object) -> object:
    """`5%` becomes 0.05."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


def _folder_name(value: str) -> str:
    if len(value) > NAME_LETTERS:
        raise ValueError(f"a name of at most {NAME_LETTERS} letters")
    if not _NAME.fullmatch(value):
        raise ValueError("a name of letters, digits, '.', '_' and '-'")
    return value


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

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test shares that leave something to train on")
        return self


class Corpus(Section):
    source: str = Field(min_length=1, description="package:NAME, a file, a folder, a glob or hf:owner/name")
    text: str = Field(
        "text", min_length=1, description='rows with columns: a column, or a template like "{title}\\n{body}"'
    )
    documents: Literal["file", "paragraph", "line", "row"] | None = Field(
        None, description="what one document is; by default a row of a table, else a file"
    )
    split: Split = Split()
    license: str | None = Field(
        None, description="of the text, as the Hub writes it: cc0-1.0, cc-by-4.0; own: it is yours to give"
    )
    language: str | None = Field(None, description="of the text, as in en or it; stands on the card")


class Adapter(Section):
    method: Literal["lora", "rslora", "dora", "pissa", "lora+", "ia3", "full", "scratch"] = Field(
        "lora", description="full trains the base itself; scratch its architecture from fresh weights"
    )
    rank: Literal["auto"] | Annotated[int, Field(gt=0, le=4096)] = Field(
        "auto", description="rows of A, columns of B (arXiv:2106.09685); auto: by the tokens read, 8 to 64"
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
    tokens: list[str] = Field(
        [], description="words whose pieces' embeddings are trained too, as they stand in the vocabulary"
    )

    @model_validator(mode="after")
    def _tokens_go_with_lora(self) -> Adapter:
        if self.tokens and self.method not in ("lora", "rslora", "dora", "lora+"):
            raise ValueError("tokens only with lora, rslora, dora or lora+; full trains every row anyway")
        return self

    @model_validator(mode="after")
    def _a_new_tokenizer_needs_fresh_weights(self) -> Adapter:
        if self.tokenizer == "train" and self.method != "scratch":
            raise ValueError("tokenizer: train only with method: scratch, since its rows mean other words")
        return self

    @property
    def known_rank(self) -> int:
        """The rank; for auto the least one, until auto.fill knows the text."""
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
    budget: Annotated[PositiveFloat | None, BeforeValidator(_seconds)] = Field(
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
    replay: Annotated[float, BeforeValidator(_share)] = Field(
        0.0, ge=0, lt=1, description="share of tokens with the base's own predictions, against forgetting: 5%"
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


class Judging(Section):
    protocol: Literal["auto", "document", "rolling", "concatenated", "word-l2r", "pll", "covering"] = Field(
        "auto", description="how text is scored; auto: document (causal), word-l2r (masked)"
    )
    window: PositiveInt | None = Field(None, description="tokens read at once; by default all positions")
    stride: PositiveInt | None = Field(None, description="tokens a window moves on; by default half of it")
    general: str | None = Field(
        "package:general-probe", description="other text, to measure what was forgotten; null: none"
    )
    keep_text: bool = Field(True, description="keep the held-out documents' text in the run folder")


class Publish(Section):
    repo: str | None = Field(None, description="owner/name on the Hub, when ft push gets no --to")
    private: bool = Field(True, description="false: the repository is public without --public")
    license: str | None = Field(None, description="of the adapter; by default what its base and text allow")
    tags: list[str] = Field(
        [], description="more tags for the card; with medical it says that it is no medical advice"
    )


class Recipe(Section):
    name: Annotated[str, AfterValidator(_folder_name)] = Field(
        description="the run folder's name; by default the recipe file's"
    )
    base: str = Field(
        min_length=1,
        description="starter/gpt2, starter/bert, owner/name[@revision], a folder or a .gguf file",
    )
    corpus: Corpus
    adapter: Adapter = Adapter()
    training: Training = Training()
    judging: Judging = Judging()
    publish: Publish = Publish()

    @model_validator(mode="after")
    def _replay_needs_a_base(self) -> Recipe:
        if self.training.replay and self.adapter.method == "scratch":
            raise ValueError(
                "training.replay without method: scratch, whose fresh weights have nothing to forget"
            )
        return self


@dataclass(frozen=True)
class Resolved:
    """A recipe, and for each dotted key that was given the place it came from."""

    recipe: Recipe
    origins: dict[str, str]

    def explained(self) -> Iterator[tuple[str, object, str, str]]:
        """(dotted key, value, where it came from, meaning) for every key of the schema."""
        yield from _explain(self.recipe, "", self.origins)


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe by file or gallery name, with what it extends below it and overrides above it.

    overrides  `training.epochs=5`; each value is read as a YAML scalar
    raises     FtError for a missing or unreadable file, RecipeError with all faults of its content
    """
    path = find_recipe(name)
    values, origins = _read_chain(path, ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise FtError(
                f"override {override!r}", "section.key=value", override, 'Write SET="training.epochs=5".'
            )
        _put(values, key.split("."), _override_value(text), f"override {key}")
        origins[key] = "override"
    if "name" not in values:
        values["name"], origins["name"] = path.stem, "the file's name"
    try:
        return Resolved(Recipe.model_validate(values), origins)
    except ValidationError as error:
        raise RecipeError(faults(error, Recipe, path, origins)) from None


def gallery() -> list[Path]:
    """The recipes that ship, by name."""
    return sorted(shipped.recipe_folder().glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """A recipe file by its path, or by its name in the gallery."""
    path = Path(name)
    if path.is_file():
        return path
    stem = path.name.removesuffix(".yaml")
    names = {recipe.stem: recipe for recipe in gallery()}
    looks_like_a_path = path.parent != Path() and path.parent != Path("recipes")
    if not looks_like_a_path and stem in names:
        return names[stem]
    near = get_close_matches(stem, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "ft recipes lists them."
    raise FtError(f"recipe {name}", "a recipe file or a gallery name", "none of that name", hint)


def _read_chain(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    if path.resolve() in above:
        raise FtError(f"{path}: extends", "a chain that ends", "a circle", "Remove one extends.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = get_close_matches(path.name, [recipe.stem for recipe in gallery()], n=1)
        hint = f"Did you mean extends: {near[0]}?" if near else f"It is named by extends in {above[-1]}."
        raise FtError(f"{path}", "a recipe file", "nothing there", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FtError(f"{path}", "a readable UTF-8 file", error, "Check the file.") from None
    parsed = strict_yaml.parse(text, str(path))
    if not isinstance(parsed.value, dict):
        raise FtError(
            f"{path}", "keys such as base: and corpus:", type(parsed.value).__name__, "See ft recipes."
        )
    values: dict[str, Any] = parsed.value
    origins = {".".join(keys): f"{path}:{line}" for keys, line in parsed.lines.items() if keys}
    parent = values.pop("extends", None)
    origins.pop("extends", None)
    if parent is None:
        return values, origins
    below, below_origins = _read_chain(_parent(str(parent), path), (*above, path.resolve()))
    below.pop("name", None)  # a child is named by its own file, not by its parent
    below_origins.pop("name", None)
    return _merge(below, values), below_origins | origins


def _parent(name: str, child: Path) -> Path:
    """What a child extends: a file, from where the child stands; else a bare name is the gallery's."""
    beside = child.parent / name
    return beside if beside.is_file() else {path.stem: path for path in gallery()}.get(name, beside)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override_value(text: str) -> Any:
    return (
        strict_yaml.parse(text, "override").value
        if text.startswith(("[", '"', "'"))
        else strict_yaml.scalar(text)
    )


def _put(values: dict[str, Any], keys: Sequence[str], value: object, where: str) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise FtError(where, "a section", inner, f"{key} is a value, not a section; see ft recipes show.")
        values = inner
    values[keys[-1]] = value


def _explain(
    section: BaseModel, prefix: str, origins: dict[str, str]
) -> Iterator[tuple[str, object, str, str]]:
    for key, info in type(section).model_fields.items():
        value, dotted = getattr(section, key), f"{prefix}{key}"
        if isinstance(value, BaseModel):
            yield from _explain(value, f"{dotted}.", origins)
        else:
            yield dotted, value, origins.get(dotted, "default"), info.description or ""
