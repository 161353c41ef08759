"""Checks a checkpoint or adapter from elsewhere before any library acts on it.

Nothing is built or unpickled here: names, numbers and file headers are compared with each other. The limits
are in docs/safety.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from os.path import isdir
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.initialization import no_init_weights
from transformers.utils.hub import cached_file

from ft_toolkit.errors import FtError
from ft_toolkit.runtime import run_python

MOST_PARTS = 1024  # layers, heads, experts, groups: transformers builds each one that a config asks for
LAYERS_OF_ONE = 64  # ALBERT's layers share one set of weights; others have a tensor each, at least
SPARE_BYTES = 2**28  # what a model may need beyond twice its weights, such as the causal mask of every layer
ADAPTER_CONFIG_BYTES = 2**20
PATTERN_SECONDS = 3.0
_SHARD = re.compile(r"[\w][\w.-]*\.safetensors")
_PARTS = re.compile(r"layer|head|expert|group|types")
_SIZES = re.compile(r"size|dim|token|_id$")
# keys that make transformers read other files, replace parts of the model or import a quantiser
_ORDERS = ("quantization_config", "transformers_weights", "fusion_config")
_AGAIN = "Download or save it again."
# in a separate process, since Python's re cannot be interrupted in the middle of a match
_MATCH_ALL = (
    "import json, re, sys; asked = json.load(sys.stdin);"
    "[re.fullmatch(pattern, name) for pattern in asked['patterns'] for name in asked['names']]"
)


def refuse_config(written: Any, where: str) -> None:
    """Check a config.json as written.

    raises   FtError unless it names an architecture that transformers knows, asks for plain weights, and for
             no more parts than any published model has
    """
    kind = written.get("model_type") if isinstance(written, dict) else None
    if kind is None:
        found = "one without" if written else "no config.json"
        fix = "Save the model there with save_pretrained."
        raise FtError(where, "a config.json with its model_type", found, fix)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        fix = "Code that comes with a checkpoint is never run."
        raise FtError(where, "an architecture that transformers knows", kind, fix)
    for key, value in _leaves(written, ""):
        order = next((order for order in _ORDERS if order in key.split(".")), None)
        if order is not None and value is not None:
            raise FtError(f"{where}, config.json", f"no {order}", key, "Use the checkpoint in plain weights.")
        name = key.rpartition(".")[2] or key
        counts = _PARTS.search(name) and not _SIZES.search(name)
        if counts and isinstance(value, int) and value > MOST_PARTS:
            raise FtError(f"{where}, config.json: {key}", f"at most {MOST_PARTS:,}", value, _AGAIN)


def weight_files(place: str, revision: str, where: str) -> list[Path]:
    """The safetensors files of a folder or a Hub id, from the cache or fetched; none where there are none.

    raises   FtError for an index that names anything but plain *.safetensors files, and for a missing one
    """

    def find(name: str) -> Path | None:
        path = cached_file(place, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        return Path(path) if path else None

    if find("adapter_config.json"):  # transformers would silently load the adapter onto it
        raise FtError(where, "a base", "an adapter beside it", "Use its base, or merge the two.")
    if isdir(place) and any(Path(place).glob("shard-*-model-*.safetensors")):
        raise FtError(where, "one checkpoint", "the shards of a distributed one", "Save it as a whole.")
    if whole := find("model.safetensors"):
        return [whole]
    index = find("model.safetensors.index.json")
    if index is None:
        return []
    names = _shards(index, where)
    files = {name: find(name) for name in names}
    missing = ", ".join(name for name, file in files.items() if file is None)
    if missing:
        raise FtError(where, f"all {len(names)} shards of the weights", f"no {missing}", _AGAIN)
    return [file for file in files.values() if file is not None]


def refuse_size(
    build: Callable[[PretrainedConfig], nn.Module],
    config: PretrainedConfig,
    files: Sequence[Path],
    where: str,
) -> None:
    """Compare a config with the weights in its files; the model it describes is built without memory.

    raises   FtError for a config that asks for far more than the files hold, and for a damaged file
    """
    held_shapes = [shape for file in files for shape in shapes(file, where).values()]
    layers, most = getattr(config, "num_hidden_layers", 0), max(LAYERS_OF_ONE, len(held_shapes))
    if layers > most:
        raise FtError(f"{where}, config.json", f"at most {most} layers, for its weights", layers, _AGAIN)
    with torch.device("meta"), no_init_weights():
        model = build(config)
    needed = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    held = 4 * sum(map(prod, held_shapes))
    if needed > 2 * held + SPARE_BYTES:
        found = f"a config.json that asks for {needed / 1e6:,.0f} MB"
        raise FtError(where, f"a model of its weights' {held / 1e6:,.0f} MB", found, _AGAIN)


def shapes(file: Path, where: object) -> dict[str, list[int]]:
    """The shape of every tensor of a safetensors file; its header alone is read."""
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118  # no dict
    except SafetensorError as error:
        raise FtError(where, "whole weights", f"{file.name} cut short: {error}", _AGAIN) from None


def refuse_adapter(folder: Path, model: nn.Module) -> None:
    """Check a saved adapter before PEFT builds it on a model.

    raises   FtError for a config that is none, that asks for a module to import, for more layers, for a rank
             that its weights do not have, or for patterns that take forever to match
    """
    written, where = _adapter_config(folder), folder / "adapter_config.json"
    for order in ("megatron_config", "layer_replication"):  # imports a module by name; multiplies the layers
        if written.get(order):
            raise FtError(where, f"no {order}", "one", "Use an adapter of the base as it is.")
    found = shapes(folder / "adapter_model.safetensors", folder)
    # A is (rank, inputs); for methods with other names the longest side is the limit
    sides = [
        shape[0] if ".lora_" in name else max(shape)
        for name, shape in found.items()
        if prod(shape) > 1 and (".lora_" not in name or ".lora_A" in name or ".lora_embedding_A" in name)
    ]
    pattern = written.get("rank_pattern") or {}
    # AdaLoRA reads init_r and ignores r
    rank = written.get("init_r") if str(written.get("peft_type")).upper() == "ADALORA" else written.get("r")
    ranks = [rank, *(pattern.values() if isinstance(pattern, dict) else ())]
    highest = max((rank for rank in ranks if isinstance(rank, int)), default=0)
    if highest > max(sides, default=1):
        raise FtError(where, f"a rank of its weights, {max(sides, default=0)} at most", highest, _AGAIN)
    _refuse_patterns(list(_patterns(written)), [name for name, _ in model.named_modules()], where)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a JSON value; what stands in a list has the list's key."""
    if isinstance(value, dict):
        yield key, value
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    else:
        yield key, value


def _shards(index: Path, where: str) -> list[str]:
    place, wanted = f"{where}, {index.name}", "an index of plain *.safetensors names"
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))
        names = sorted({str(name) for name in listed["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FtError(place, wanted, f"{type(error).__name__}: {error}", _AGAIN) from None
    strangers = [name for name in names if not _SHARD.fullmatch(name)]
    if strangers or not names:  # transformers opens any file that is named, also pickles and other folders
        raise FtError(place, wanted, strangers[0] if strangers else "none", "Save it as safetensors.")
    return names


def _adapter_config(folder: Path) -> dict[str, Any]:
    path, wanted = folder / "adapter_config.json", "PEFT's config of an adapter"
    if not path.is_file():
        raise FtError(folder, "a saved adapter", "no adapter_config.json", _AGAIN)
    if path.stat().st_size > ADAPTER_CONFIG_BYTES:
        raise FtError(path, f"at most {ADAPTER_CONFIG_BYTES:,} bytes", path.stat().st_size, _AGAIN)
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FtError(path, wanted, error, _AGAIN) from None
    if not isinstance(written, dict):
        raise FtError(path, wanted, type(written).__name__, _AGAIN)
    return written


def _patterns(written: dict[str, Any]) -> Iterator[str]:
    """Everything in an adapter's config that PEFT 0.21 takes for a regular expression, as it does so."""
    for key, frame in {
        "target_modules": "{}",
        "exclude_modules": "{}",
        "feedforward_modules": "{}",
        "modules_to_save": r"(^|.*\.){}($|\..*)",
        "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
        "rank_pattern": r"(.*\.)?({})$",
        "alpha_pattern": r"(.*\.)?({})$",
    }.items():
        value = written.get(key) or []
        listed = [value] if isinstance(value, str) else value if isinstance(value, list | dict) else []
        if frame != "{}" or isinstance(value, str):  # a list of targets is compared, not matched
            yield from (frame.replace("{}", str(text)) for text in listed if not _is_plain(text))


def _is_plain(text: Any) -> bool:
    return re.fullmatch(r"[\w.-]*", str(text)) is not None


def _refuse_patterns(patterns: list[str], names: list[str], where: Path) -> None:
    if not patterns:
        return
    asked = json.dumps({"patterns": patterns, "names": names})
    wanted, shown = "patterns that match soon", max(patterns, key=len)
    try:
        done = run_python("-I", "-S", "-c", _MATCH_ALL, asked=asked, most_seconds=PATTERN_SECONDS)
    except TimeoutError:
        fix = "Name its modules in a list."
        raise FtError(where, wanted, f"{shown}, not done in {PATTERN_SECONDS:g} s", fix) from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise FtError(where, "regular expressions", reason, "Name its modules in a list.")
