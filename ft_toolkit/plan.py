"""Estimates what a training needs, without loading or downloading weights: ft plan, docs/plan.md."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ft_toolkit.errors import FtError

if TYPE_CHECKING:
    from ft_toolkit.auto import Measure
    from ft_toolkit.models.sizes import Sizes
    from ft_toolkit.sections import Adapter, Recipe

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "4bit": 0.5 + 4 / 64}  # 4bit: and a scale for each block of 64
TRAINED_BYTES = 4  # what is trained is float32
GRADIENT_BYTES = 4
OPTIMIZER_BYTES = 8  # AdamW: two float32 moments; Muon has one
CHECKPOINT_BYTES = 2  # a layer's input alone, in 16 bits
# beyond any model; a layer takes a millisecond to count
LIMITS = {
    "layers": 1000,
    "width": 1_000_000,
    "heads": 10_000,
    "vocabulary": 100_000_000,
    "positions": 10_000_000,
    "at_once": 1_000_000_000,
}
_DEVICES = re.compile(r"(\d+)\s*x\s*(\d+(?:\.\d+)?)\s*GB", re.IGNORECASE)


@dataclass(frozen=True)
class Devices:
    """Equal devices that share a model, each holding an equal part of it (fully sharded)."""

    number: int
    gigabytes: float


@dataclass(frozen=True)
class Need:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float  # an estimate
    activations_checkpointed: float  # likewise, with activation checkpointing

    @property
    def known(self) -> float:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Asked:
    """A model by its shape or by its config.json."""

    family: str | None
    layers: int
    width: int
    heads: int
    vocabulary: int | None = None
    positions: int | None = None
    config: Path | None = None


@dataclass(frozen=True)
class Workload:
    """The work to estimate; tokens and tokens_per_second give the time, where both are known."""

    tokens_at_once: int  # read in one forward pass on each device
    dtype: str = "float32"  # of the frozen base
    tokens: float | None = None  # read in all of the training
    tokens_per_second: float | None = None  # as measured on such devices


def adapter_plan(recipe: str | None, method: str, rank: int | None, targets: str) -> Adapter:
    """The recipe's adapter section, or one made of the options."""
    from pydantic import ValidationError

    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.sections import Adapter

    if recipe is not None:
        return read_recipe(recipe).recipe.adapter
    try:
        given = {"method": method, "rank": "auto" if rank is None else rank, "targets": targets}
        return Adapter.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[-1]  # of a union the last branch is the one that an option can be meant for
        where = f"--{fault['loc'][0]}"
        raise FtError(
            where, fault["msg"].removeprefix("Input should be "), fault["input"], "Change it."
        ) from None


def check_workload(asked: Asked, work: Workload) -> None:
    """raises   FtError for a number or a file that no model can be counted from, before torch is imported"""
    for option, most in LIMITS.items():
        value = work.tokens_at_once if option == "at_once" else getattr(asked, option)
        if value is not None and not 1 <= value <= most:
            raise FtError(f"--{option.replace('_', '-')}", f"1 to {most:,}", value, "Change it.")
    if work.dtype not in DTYPE_BYTES:
        raise FtError("--dtype", f"one of {', '.join(DTYPE_BYTES)}", work.dtype, "Leave it out.")
    for option, number in (("--tokens", work.tokens), ("--tokens-per-second", work.tokens_per_second)):
        if number is not None and not 0 < number < math.inf:
            raise FtError(option, "a number above zero", number, "Change it, or leave it out.")
    if asked.config is not None:
        file = asked.config / "config.json" if asked.config.is_dir() else asked.config
        if not file.is_file():  # transformers would ask the Hub for it
            raise FtError(asked.config, "a config.json with a model_type", "nothing there", "Check the path.")


def sizes_of(recipe: str | None, asked: Asked, plan: Adapter) -> Sizes:
    """Count the model that was asked for.

    raises   FtError unless it was asked for in exactly one way, or for a base that is not here
    """
    from ft_toolkit.models.checkpoints import base_config
    from ft_toolkit.models.sizes import count, read_config, shape
    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.runtime import prepare_torch

    prepare_torch()
    if [recipe, asked.family, asked.config].count(None) != 2:
        raise FtError("ft plan", "a recipe, --family or --config", "none or several", "Say one of them.")
    if recipe is not None:
        return count(base_config(read_recipe(recipe).recipe.base), plan)
    if asked.config is not None:
        return count(read_config(asked.config), plan)
    assert asked.family is not None
    size = asked.layers, asked.width, asked.heads, asked.vocabulary, asked.positions
    return count(shape(asked.family, *size), plan)


def filled(
    recipe: str | None, plan: Adapter, sizes: Sizes, tokens: float | None, measure: Measure | None
) -> tuple[Adapter, str]:
    """The adapter with a number for rank: auto, and what is said of that and of the learning rate.

    measure   of the recipe's text (see tried); `tokens` goes before it, and without both the learning rate
              is not known
    """
    from ft_toolkit import auto
    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.sections import Corpus, Recipe

    if recipe is not None:
        asked = read_recipe(recipe).recipe
    else:  # only method and rank are known
        asked = Recipe(name="plan", base="plan", corpus=Corpus(source="plan"), adapter=plan)
    if "auto" not in (asked.training.learning_rate, asked.adapter.rank):
        return plan, ""
    measure = None if tokens else measure
    if measure is None and (tokens or asked.training.steps):
        steps = asked.training.steps or math.ceil((tokens or 0) / asked.training.batch_tokens)
        read = round(tokens or steps * asked.training.batch_tokens)
        measure = auto.Measure(sizes.width, steps, read, sizes.objective)
    knows_steps = measure is not None
    measure = measure or auto.Measure(sizes.width, 1, 1, sizes.objective)  # the rank goes by the width alone
    adapter = auto.fill(asked, measure).adapter
    if asked.training.learning_rate == "auto" and not knows_steps:
        return adapter, "learning rate auto: the text decides; give --tokens"
    return adapter, auto.words(asked, measure)


def tried(recipe: str, is_probed: bool) -> tuple[Measure | None, str | None]:
    """What decides a recipe's auto, and its time on this machine; each None where base or text are not here.

    The text is read once. Where that fails the fault stands in the time's place: a plan may come before its
    text. A base in 4 bits has no time without CUDA.

    is_probed   also train and score a little of it, for the time
    """
    from ft_toolkit.forecast import forecast
    from ft_toolkit.material import gathered
    from ft_toolkit.progress import Screen
    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.session import Session
    from ft_toolkit.training.accelerator import make_accelerator

    asked = read_recipe(recipe).recipe
    if _base_folder(asked) is None:
        return None, None
    if not is_probed:
        is_open = "auto" in (asked.training.learning_rate, asked.adapter.rank)
        return _measured(asked) if is_open else None, None
    accelerator = make_accelerator()
    try:
        material = gathered(asked, accelerator.device)
        if asked.adapter.base_precision == "4bit" and accelerator.device.type != "cuda":
            return material.measure, None
        return material.measure, forecast(material, Session(accelerator, Screen(quiet=True))).words()
    except FtError as fault:
        return None, f"not tried: {fault}"


def _measured(recipe: Recipe) -> Measure | None:
    """What ft finetune would decide by, without its weights; None where base or text cannot be read yet."""
    from transformers import AutoTokenizer

    from ft_toolkit.material import laid_out
    from ft_toolkit.models.checkpoints import base_config
    from ft_toolkit.models.sizes import without_weights
    from ft_toolkit.text.splitting import read_parts

    folder = _base_folder(recipe)
    if folder is None:
        return None
    with suppress(Exception):  # a plan may come before text and tokenizer; ft finetune names their faults
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        parts = read_parts(*recipe.corpora)[1]
        return laid_out(recipe, without_weights(base_config(recipe.base), tokenizer), parts)[2]
    return None


def _base_folder(recipe: Recipe) -> Path | None:
    """The folder of its base; None where base or text would have to be fetched."""
    from ft_toolkit.references import parse_base, parse_text

    is_away = any(parse_text(corpus.source).kind == "hub" for corpus in recipe.corpora)
    return None if is_away else parse_base(recipe.base).folder


def parse_devices(text: str) -> Devices:
    """`64x80GB`: sixty-four devices of 80 GB each."""
    match = _DEVICES.fullmatch(text.strip())
    if not match or int(match[1]) == 0:
        raise FtError("--devices", "a number and a size, such as 64x80GB", text, "Write 1x24GB for one.")
    return Devices(int(match[1]), float(match[2]))


def need(sizes: Sizes, plan: Adapter, number: int, tokens_at_once: int, dtype: str) -> Need:
    """Bytes a device, of `number` devices that share everything but the activations.

    tokens_at_once   read in one forward pass on each device
    """
    from ft_toolkit.models.sizes import ACTIVATION_BYTES

    # 4bit: the matrices of the layers; the embeddings stay in bfloat16
    matrices = sizes.matrices if dtype == "4bit" else sizes.parameters
    others = (sizes.parameters - matrices) * DTYPE_BYTES["bfloat16"]
    frozen = 0 if plan.is_whole_model else matrices * DTYPE_BYTES[dtype] + others
    one_layer = tokens_at_once * sizes.width * ACTIVATION_BYTES
    return Need(
        weights=(frozen + sizes.trained * TRAINED_BYTES) / number,
        gradients=sizes.trained * GRADIENT_BYTES / number,
        optimizer=sizes.trained * OPTIMIZER_BYTES / number,
        activations=one_layer * sizes.layers,
        activations_checkpointed=tokens_at_once * sizes.width * CHECKPOINT_BYTES * sizes.layers + one_layer,
    )


def lines(sizes: Sizes, plan: Adapter, devices: Devices, work: Workload) -> list[str]:
    """What ft plan prints."""
    one = need(sizes, plan, devices.number, work.tokens_at_once, work.dtype)
    share = 100 * sizes.trained / sizes.parameters
    found = [
        f"parameters      {sizes.parameters:,} (counted without memory)",
        f"trained         {sizes.trained:,} ({share:.3g} %), {plan.method}",
        f"on disk         {_size(TRAINED_BYTES * sizes.trained)}, what is trained, in float32",
        f"on each of {devices.number} x {devices.gigabytes:g} GB, everything sharded:",
        f"  weights       {_size(one.weights)}",
        f"  gradients     {_size(one.gradients)}",
        f"  optimizer     {_size(one.optimizer)}",
        f"  activations   about {_size(one.activations)}, an estimate for {work.tokens_at_once:,} tokens "
        f"at once; with checkpointing about {_size(one.activations_checkpointed)}",
        _fits(sizes, plan, devices, work),
    ]
    if work.tokens and work.tokens_per_second:
        hours, rate = work.tokens / work.tokens_per_second / 3600, f"{work.tokens_per_second:,.0f} a second"
        found.append(f"time            {hours:,.1f} hours for {work.tokens:,.0f} tokens at {rate}")
    else:
        found.append("time            unknown: give --tokens and a measured --tokens-per-second")
    return found


def _fits(sizes: Sizes, plan: Adapter, devices: Devices, work: Workload) -> str:
    room = devices.gigabytes * 1e9
    one = need(sizes, plan, devices.number, work.tokens_at_once, work.dtype)
    for activations, how in ((one.activations, ""), (one.activations_checkpointed, " with checkpointing")):
        if one.known + activations <= room:
            return f"fits            {_size(one.known + activations)} of {devices.gigabytes:g} GB{how}"
    alone = need(sizes, plan, 1, work.tokens_at_once, work.dtype)
    left = room - alone.activations_checkpointed
    enough = (
        f"{int(-(-alone.known // left)):,} of them would do" if left > 0 else "no number of them would do"
    )
    asked = _size(one.known + one.activations_checkpointed)
    return f"does not fit    {asked} of {devices.gigabytes:g} GB with checkpointing; {enough}"


def _size(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
