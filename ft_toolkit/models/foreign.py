"""Adapters made elsewhere: loaded only if our scores agree with PEFT's own forward."""

from __future__ import annotations

from pathlib import Path, PurePath

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from ft_toolkit.errors import FtError
from ft_toolkit.models.adapters import load_adapter
from ft_toolkit.models.inspection import PROBE_TOKENS, TOLERANCE
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer
from ft_toolkit.references import parse_base


def load_foreign(base: LanguageModel, folder: Path) -> PeftModel:
    """Load any PEFT adapter onto a base, and check on a few tokens that no part of it is ignored.

    raises   FtError for an adapter that is not made of layers, does not fit the base, or scores differently
    """
    model = load_adapter(base, folder)
    gap_nats = _gap_nats(model, base)
    if not gap_nats <= TOLERANCE:  # NaN is not either
        wanted = "scores as PEFT's own forward gives them"
        found = f"{gap_nats:.4f} nats between the two"
        raise FtError(folder, wanted, found, f"It cannot be scored here{_outside(model, base)}.")
    return model


def other_name(base: LanguageModel, model: PeftModel) -> str | None:
    """The base that an adapter's config names, unless it is this one's name; a base may have several."""
    named = str(model.peft_config["default"].base_model_name_or_path or "")
    reference = parse_base(base.name)
    given = reference.place if reference.kind == "hub" else reference.name
    # a folder has another path on another machine: its last part counts
    of_folders = PurePath(named).is_absolute() or reference.kind == "folder"
    is_same = PurePath(named).name == PurePath(given).name if of_folders else named == given
    return named if named and not is_same else None


def _gap_nats(model: PeftModel, base: LanguageModel) -> float:
    """The largest difference of a token's loss between ours and that of the model's own logits.

    inf where our forward fails
    """
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, base.config.vocab_size, (2, PROBE_TOKENS), generator=draw).to(model.device)
    targets = ids.roll(1, dims=1)
    targets[:, ::3] = NO_TARGET  # a masked model's last layer then sees a part of its rows
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids).logits.float()
            own = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            ours = TokenScorer(model, base.family)(ids, targets)
    except (
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
    ):  # a foreign layer may fail in any of these ways
        return float("inf")
    return float((own[targets.flatten() != NO_TARGET] - ours).abs().max())


def _outside(model: PeftModel, base: LanguageModel) -> str:
    """The first adapted layer outside the trunk, which is the most likely cause."""
    names = [
        name
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
        and not name.startswith(f"{base.family.trunk}.")
    ]
    return f": it adapts {names[0]}" if names else ""
