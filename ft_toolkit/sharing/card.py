"""README.md of what is pushed: the verdict, the numbers under it, and how to load it.

Every number comes from comparison.json or run.json; what was not measured says so. After peft's template.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ft_toolkit.judging.percent import as_percent
from ft_toolkit.sections import Recipe
from ft_toolkit.sharing.effects import NOT_MEASURED, effect_lines, plain
from ft_toolkit.sharing.licences import OWN
from ft_toolkit.sharing.published import MEDICAL, Json, Published

_TEXTS = {
    "held-out": "unseen text of",
    "source": "of it,",
    "tainted": "text mostly seen in training, of",
    "general": "general text:",
    "train": "training text of",
    "other": "other text:",
}
_METHODS = {  # of adapters; full and scratch have none
    "lora": "LoRA",
    "rslora": "rank-stabilised LoRA",
    "dora": "DoRA",
    "pissa": "PiSSA",
    "lora+": "LoRA+",
    "ia3": "(IA)³",
}
_TASKS = {"perplexity": "text-generation", "pseudo-perplexity": "fill-mask"}


def write_card(it: Published) -> str:
    """The text of README.md; the metadata passes through huggingface_hub's own classes.

    raises   ValueError by those classes for metadata that they refuse
    """
    text = f"---\n{_metadata(it).to_yaml()}\n---\n\n" + "\n\n".join(_sections(it)) + "\n"
    card = ModelCard(text)  # reads it back, as the Hub will
    return str(card).replace("\r\n", "\n")


def _metadata(it: Published) -> ModelCardData:
    method = it.recipe.adapter.method
    kinds = [] if it.merged else ["ia3" if method == "ia3" else "lora", "peft"]
    tags = ["ft-toolkit", *kinds, *it.recipe.publish.tags]
    on_the_hub = it.base.folder is None and method != "scratch"  # which has nothing of its base's weights
    return ModelCardData(
        base_model=it.base.place.name if on_the_hub else None,
        base_model_relation=("finetune" if it.merged else "adapter") if on_the_hub else None,
        library_name="transformers" if it.merged else "peft",
        pipeline_tag=_TASKS[it.metric],
        language=it.languages,
        license=it.licence.id,
        datasets=[text.dataset for text in it.texts if text.dataset] or None,
        tags=tags + ([MEDICAL] if it.is_medical and MEDICAL not in tags else []),
        eval_results=_eval_results(it),
        model_name=it.repo.partition("/")[2] if it.dataset else None,  # only model-index needs it
    )


def _eval_results(it: Published) -> list[EvalResult] | None:
    """Only for a data set of the Hub: model-index names data sets by their ids."""
    if it.dataset is None:
        return None
    protocol = {key: value for key, value in it.comparison["protocol"].items() if key != "metric"}
    return [
        EvalResult(
            task_type=_TASKS[it.metric],
            dataset_type=it.dataset.name,
            dataset_name=it.dataset.name,
            dataset_revision=it.dataset.revision,
            dataset_args={
                "part": "held out by a hash of each text",
                **it.recipe.corpora[0].split.model_dump(exclude_none=True),
            },
            metric_type=it.metric,
            metric_name=f"{it.metric} on held-out documents",
            metric_value=round(part[f"adapter_{it.figure}"], 4),
            metric_args={
                "protocol": protocol,
                "base_value": round(part[f"base_{it.figure}"], 4),
                "change_percent": round(part["percent"], 4),
                "change_percent_interval_95": _interval(part["difference"]),
                "documents": part["difference"]["documents"],
            },
        )
        for part in it.comparison["corpora"]
        if part["kind"] == "held-out"
    ]


def _sections(it: Published) -> Iterator[str]:
    name = it.repo.partition("/")[2]
    yield f"# {name}"
    yield f"**{it.comparison['verdict']['headline']}**"
    yield f"{_what(it)} ft-toolkit, to read {it.text_words}."
    if it.is_medical:
        yield (
            "> **Not medical advice.** It has learnt how medical text is written, not whether it is true.\n"
            "> Do not use it to diagnose, to treat, or to decide anything about anybody's health."
        )
    yield "## How to get started"
    yield _how_to_load(it)
    yield f"```python\n{it.snippet}```"
    yield "## Evaluation"
    yield "\n".join(_table(it))
    yield _method(it)
    yield "\n".join(effect_lines(it.comparison))
    yield "## Training data"
    yield "\n".join(_data(it))
    yield "## Training procedure"
    yield "\n".join(_procedure(it))
    yield "## Uses and limits"
    yield "\n".join(_limits(it))
    yield "## Licence"
    yield "\n".join(_licences(it))
    yield "## Check it yourself"
    yield (
        "`comparison.json` holds the totals behind every figure above, `recipe.yaml` how to train it again. "
        f"`ft compare hub:{it.repo} --on FILE` (ft-toolkit) scores it against its base on your own text."
    )


def _what(it: Published) -> str:
    """What was made of the base, up to the words: trained with."""
    method, base = it.recipe.adapter.method, _link(it)
    if method == "full":
        return f"{base} with all of its weights trained further, with"
    if method == "scratch":
        return f"A model of the architecture of {base}, trained from fresh weights with"
    article = "An" if method == "ia3" else "A"
    adapter = f"{_METHODS[method]} adapter"
    if it.merged:
        return f"A model merged from {article.lower()} {adapter} and its base, {base}, trained with"
    return f"{article} {adapter} for {base}, trained with"


def _how_to_load(it: Published) -> str:
    if it.base.folder is not None and not it.merged:
        return (
            f"The base, {it.base.name}, is in the subfolder `base/` of this repository. These lines were run:"
        )
    return "These lines were run with this very file before it was published:"


def _table(it: Published) -> Iterator[str]:
    yield f"| text | documents | {it.metric} of the base | with it | change | 95 % interval | read better |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for part in it.comparison["corpora"]:
        difference = part["difference"]
        interval = _interval(difference)
        words = (
            "too few documents" if interval is None else f"{_signed(interval[0])} … {_signed(interval[1])} %"
        )
        yield (
            f"| {_TEXTS[part['kind']]} {part['corpus']} | {difference['documents']} "
            f"| {part[f'base_{it.figure}']:.2f} | {part[f'adapter_{it.figure}']:.2f} "
            f"| {_signed(part['percent'])} % | {words} "
            f"| {difference['better']} of {difference['documents']} |"
        )


def _method(it: Published) -> str:
    protocol = it.comparison["protocol"]
    how = ", ".join(f"{key} {value}" for key, value in protocol.items() if key not in ("metric", "name"))
    caveats = " ".join(it.comparison["verdict"]["caveats"])
    return (
        f"{it.metric.capitalize()} is exp(total nats / total tokens); protocol `{protocol['name']}` ({how}). "
        f"{_paired(it)}; differences are paired by document. {caveats}"
    )


def _paired(it: Published) -> str:
    adapter = it.recipe.adapter
    if adapter.tokenizer == "train":
        return "Base and model read the same documents, each with its own tokenizer"
    made = "model" if adapter.is_whole_model else "adapter"
    return f"Base and {made} score the same ids at the same positions"


def _data(it: Published) -> Iterator[str]:
    documents = it.facts.get("documents", {})
    parts = [part for part in ("train", "validation", "test") if part in documents]
    sizes = ", ".join(f"{documents[part]} {part}" for part in parts) or NOT_MEASURED
    empty = documents.get("empty", 0)
    yield f"- **Text**: {it.text_words}."
    yield (
        f"- **Split**: {sizes}; by a hash of each text ({it.split_words}), so equal texts share a part"
        f"{f'; {empty} empty documents were left out' if empty else ''}."
    )
    for part in it.comparison["corpora"]:
        if part["kind"] == "held-out":
            share = 100 * part["repeated_token_fraction"]
            yield f"- **Screening**: {share:.1f} % of held-out tokens stand in lines of several documents."
    screening = it.facts.get("screening")
    if screening is not None:
        yield f"- **Screening before the split**: {plain(screening)}."


def _procedure(it: Published) -> Iterator[str]:
    if mixed := it.facts.get("mixed"):
        words = " + ".join(f"{part['weight']:g} × {plain(part['run'])}" for part in mixed)
        yield f"- **Mixed**: {words}, by ft mix. The recipe is that of the first."
    recipe, training = it.recipe, it.facts.get("training", {})
    yield _trained(recipe)
    if training:
        rate = training.get("learning_rate") or recipe.training.peak  # a start that diverged lowers it
        strength = training.get("strength", 1)
        weakened = "" if strength == 1 else f", saved at strength {strength:g} (in its alpha)"
        yield (
            f"- **Training**: {training['steps']} of {training['planned_steps']} steps, {training['tokens']} "
            f"tokens, learning rate {rate:g}, {training['precision']}; the "
            f"{'weights' if recipe.adapter.is_whole_model else 'adapter'} "
            f"of step {training['best_step']}, chosen on the validation part{weakened}. "
            f"Seed {recipe.training.seed}."
        )
    device = it.facts.get("device", NOT_MEASURED)
    yield f"- **Machine**: {device}, {_seconds(it.facts.get('wall_seconds'))}."
    energy = it.facts.get("energy_kwh")
    method = it.facts.get("energy_method", "method not recorded")
    yield f"- **Energy**: {NOT_MEASURED if energy is None else f'{energy:.4g} kWh ({method})'}."
    versions = ", ".join(f"{name} {version}" for name, version in it.facts.get("versions", {}).items())
    yield f"- **Versions**: {versions or NOT_MEASURED}."
    for what, digest in it.facts.get("sha256", {}).items():
        yield f"- **sha256 of the {what}**: `{digest}`"


def _trained(recipe: Recipe) -> str:
    adapter = recipe.adapter
    if adapter.method == "full":
        return "- **Weights**: all of the base's, trained further."
    if adapter.method == "scratch":
        tokenizer = "trained on the training part" if adapter.tokenizer == "train" else "the base's"
        return f"- **Weights**: all, from a fresh start; the tokenizer is {tokenizer}."
    if adapter.method == "ia3":
        return "- **Adapter**: (IA)³: factors for keys, values and feed-forward; it has no rank."
    words = f"rank {adapter.rank}, alpha {adapter.alpha}, dropout {adapter.dropout:g}"
    return f"- **Adapter**: {_METHODS[adapter.method]}, {words}."


def _limits(it: Published) -> Iterator[str]:
    yield f"- For text like {it.text_words}; measured on nothing but what the table above names."
    if it.metric == "perplexity":
        yield "- It continues text. It does not follow instructions and does not know what is true."
    else:
        yield "- It fills in hidden words. It gives no answers and does not know what is true."
    yield "- It keeps the biases of its base and takes on those of its text."
    if it.is_medical:
        yield "- It gives no medical advice, and nobody has tested whether what it writes is correct or safe."


def _licences(it: Published) -> Iterator[str]:
    yield f"- **This repository**: {it.licence.id}"
    for source in it.licence.sources:
        stated = "the publisher's own text" if source.license == OWN else source.license or "not stated"
        yield f"- **{source.kind.capitalize()}** {source.name}: {stated}"
    if it.licence.has_the_rights:
        yield "- The publisher states that they have the rights to publish it under this licence."


def _link(it: Published) -> str:
    if it.base.folder is not None:
        return it.base.name
    commit = f" at `{it.base.place.revision[:12]}`" if it.base.place.revision else ""
    return f"[{it.base.name}](https://huggingface.co/{it.base.name}){commit}"


def _interval(difference: Json) -> list[float] | None:
    """As changes of perplexity in per cent."""
    if difference["low"] is None or difference["high"] is None:
        return None
    return [round(min(as_percent(difference[side]), sys.float_info.max), 4) for side in ("low", "high")]


def _signed(percent: float) -> str:
    shown = f"{percent:+.1f}"
    return shown.replace("-", "−") if float(shown) else shown[1:]


def _seconds(seconds: float | None) -> str:
    return f"time {NOT_MEASURED}" if seconds is None else f"{seconds:.0f} s"
