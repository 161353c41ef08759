"""The inputs of each artefact, as run.json lists them; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import file_sha256, folder_sha256s, value_sha256
from ft_toolkit.references import BaseReference, parse_base
from ft_toolkit.runtime import versions
from ft_toolkit.sections import NEAR_DUPLICATES, Recipe

_TRAINING_LIBRARIES = ("ft-toolkit", "torch", "transformers", "peft", "tokenizers")

# keys that base and text decide: their section, and what stands in a recipe that leaves them open
_AUTO = {
    "block_tokens": ("training", None),
    "learning_rate": ("training", "auto"),
    "replay": ("training", "auto"),
    "rank": ("adapter", "auto"),
    "alpha": ("adapter", "auto"),
}
# keys that older runs do not have: at their defaults they leave a recipe's hash as it was
_LATER: dict[str, dict[str, Any]] = {
    "corpus": {"near_duplicates": NEAR_DUPLICATES, "keep_duplicates": False, "weight": None},
    "split": {"group": None},
    "adapter": {"base_precision": "float32", "strength": "auto"},
}


def dataset_inputs(recipe: Recipe, documents_sha256: str) -> dict[str, Any]:
    """documents_sha256   over every document and its part"""
    return _keys(recipe, "corpus") | {"the corpus's text": documents_sha256} | _versions("ft-toolkit")


def weights_inputs(recipe: Recipe, machine: Mapping[str, str], dataset: Mapping[str, str]) -> dict[str, Any]:
    """machine   device and precision, which change the last bits"""
    keys = _keys(recipe, "adapter", "training")
    libraries = _versions(*_TRAINING_LIBRARIES)
    keys |= {"judging.canaries": recipe.judging.canaries} if recipe.judging.canaries else {}
    return keys | {"the base": base_sha256(recipe.base)} | libraries | dict(machine) | dict(dataset)


def comparison_inputs(recipe: Recipe, general_sha256: str, above: Mapping[str, str]) -> dict[str, Any]:
    """general_sha256   over the documents of judging.general"""
    keys = _keys(recipe, "judging")
    return (
        keys | {"the general text": general_sha256} | _versions(*_TRAINING_LIBRARIES, "scipy") | dict(above)
    )


def base_sha256(name: str) -> str | None:
    """Over the files of a base: a starter's, a folder's, a .gguf file, or what the Hub's cache holds of it.

    None for a Hub id that is not in the cache.
    """
    base = parse_base(name)
    if base.kind == "gguf":
        return file_sha256(Path(base.place))
    folder = base.folder or _cached_folder(base)
    if folder is None:
        return None
    files = folder_sha256s(folder, folder)
    wanted = (".json", ".safetensors", ".txt", ".model")  # weights, config and tokenizer; no README
    return value_sha256({name: digest for name, digest in files.items() if name.endswith(wanted)})


def base_bytes(name: str) -> int | None:
    """Size of a base's weights on disk; None for a Hub id that is not in the cache."""
    base = parse_base(name)
    if base.kind == "gguf":
        return Path(base.place).stat().st_size
    folder = base.folder or _cached_folder(base)
    return None if folder is None else weights_bytes(folder)


def weights_bytes(folder: Path) -> int:
    """Size of the weights in a checkpoint's or an adapter's folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _cached_folder(base: BaseReference) -> Path | None:
    """Where the Hub's cache has a base."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(base.place, "config.json", revision=base.revision)
    return Path(config).parent if isinstance(config, str) else None


def asked_for(recipe: Recipe, *, judge: bool) -> dict[str, Any]:
    """The recipe as the user asked for it, kept in run.json: the same recipe again resumes an unfinished run.

    recipe.yaml has every default filled in; the values that came from the base are listed here.
    """
    filled = [key for key, (section, auto) in _AUTO.items() if getattr(getattr(recipe, section), key) == auto]
    return {"recipe": value_sha256(recipe.model_dump(mode="json")), "filled": filled, "judge": judge}


def decisive_sha256(recipe: Recipe) -> str:
    """Over what decides a training, wherever base and text are now: these are known by their own hashes."""
    keys = {"text", "documents", "split", *_LATER["corpus"]}
    corpus = {"__all__": keys} if isinstance(recipe.corpus, list) else keys
    sections: Any = {"adapter": True, "training": True, "corpus": corpus}
    sections |= {"judging": {"canaries"}} if recipe.judging.canaries else {}
    values = recipe.model_dump(mode="json", include=sections)
    corpora = values["corpus"] if isinstance(values["corpus"], list) else [values["corpus"]]
    later = [(each, _LATER["corpus"]) for each in corpora]
    later += [(each["split"], _LATER["split"]) for each in corpora]
    for each, defaults in [*later, (values["adapter"], _LATER["adapter"])]:
        for key, default in defaults.items():
            if each[key] == default:
                del each[key]
    return value_sha256(values)


def recipe_asked_for(recipe: Recipe, asked: Mapping[str, Any]) -> Recipe:
    """The recipe as it was asked for, from the one with everything filled in."""
    sections: dict[str, dict[str, Any]] = {"adapter": {}, "training": {}}
    for key in asked["filled"]:
        section, auto = _AUTO[key]
        sections[section][key] = auto
    return recipe.model_copy(
        update={name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    )


def _keys(recipe: Recipe, *sections: str) -> dict[str, Any]:
    values = recipe.model_dump(mode="json")
    flat = [pair for section in sections for pair in _flat(section, values[section])]
    # strings are hashed: run.json names no local path
    return {key: value_sha256(value)[:16] if isinstance(value, str) else value for key, value in flat}


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # the sources of a mixture
        value = {str(number): each for number, each in enumerate(value)}
    if not isinstance(value, dict):
        return [(key, value)]
    return [pair for name, inner in value.items() for pair in _flat(f"{key}.{name}", inner)]


def _versions(*libraries: str) -> dict[str, str]:
    found = versions()
    return {name: found[name] for name in libraries if name in found}
