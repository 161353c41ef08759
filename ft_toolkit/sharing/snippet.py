"""The loading snippet of the card, and its check: it is executed, with local folders in place of the ids.

Only the subprocess that checks it imports torch; a run that was checked before is pushed without it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from ft_toolkit.artefacts import file_sha256
from ft_toolkit.errors import FtError
from ft_toolkit.run import Run
from ft_toolkit.runtime import last_words, run_python

Objective = Literal["causal", "masked"]
_AUTO = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM"}
_USE = {
    "causal": """\
inputs = tokenizer("First of all,", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20, do_sample=False)[0]))
""",
    "masked": """\
inputs = tokenizer(f"First of {tokenizer.mask_token}, read the leaflet.", return_tensors="pt")
hidden = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
print(tokenizer.decode(model(**inputs).logits[0, hidden].argmax()))
""",
}


@dataclass(frozen=True)
class Place:
    """Where something is loaded from: a Hub id or a folder; `subfolder` for a base that goes along."""

    name: str
    revision: str | None = None
    subfolder: str | None = None

    def __str__(self) -> str:
        """As arguments of from_pretrained and snapshot_download."""
        # as JSON strings, which Python reads alike: the snippet is run, and a name may hold quotes
        revision = f", revision={_quoted(self.revision)}" if self.revision is not None else ""
        return _quoted(Path(self.name).as_posix()) + revision


@dataclass(frozen=True)
class Stamp:
    """Proof in run.json that the snippet ran with this adapter, on the base that the run was trained on."""

    weights_sha256: str
    snippet_sha256: str
    base_revision: str | None  # the base's commit on the Hub; None for a folder or a starter


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def loading_snippet(
    objective: Objective, base: Place | None, published: Place, *, own_tokenizer: bool
) -> str:
    """Python that loads what was published and uses it once.

    base            None for a merged model, which needs none
    own_tokenizer   the tokenizer was changed in training and comes with the adapter
    """
    auto, head, prelude = _AUTO[objective], "", ""
    base_from, adapter_from = str(base), str(published)
    if base is not None and base.subfolder is not None:
        # by ids, transformers would take the adapter beside the base for a part of it
        head = "from huggingface_hub import snapshot_download\n"
        prelude = f"folder = snapshot_download({published})\n"
        base_from, adapter_from = f'f"{{folder}}/{base.subfolder}"', "folder"
    load = f'model = {auto}.from_pretrained({published}, dtype="float32")\n'
    if base is not None:
        head += "from peft import PeftModel\n"
        load = (
            f'base = {auto}.from_pretrained({base_from}, dtype="float32")\n'
            f"model = PeftModel.from_pretrained(base, {adapter_from})\n"
        )
    tokenizer = adapter_from if base is None or own_tokenizer else base_from
    return (
        f"{head}from transformers import {auto}, AutoTokenizer\n\n{prelude}"
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})\n{load}{_USE[objective]}"
    )


def checked_snippet(run: Run, weights: Path, objective: Objective, *, merged: bool) -> Stamp | None:
    """The stamp of this adapter and this snippet; None when it must be checked (again)."""
    found = run.facts.get("snippet_check", {}).get("merged" if merged else "adapter")
    if found is None:
        return None
    stamp = Stamp(**found)
    is_current = (stamp.weights_sha256, stamp.snippet_sha256) == (
        file_sha256(weights),
        _digest(objective, merged),
    )
    return stamp if is_current else None


def check_snippet(run: Run, weights: Path, objective: Objective, *, merged: bool) -> Stamp:
    """Run the snippet in a process of its own and stamp run.json; nothing else of the run changes.

    raises   FtError when the snippet fails, or the base is no longer the one of training
    """
    own_tokenizer = (weights.parent / "tokenizer.json").is_file()
    heard = run_snippet_check(
        "load", str(run.folder), str(weights.parent), objective, str(int(merged)), str(int(own_tokenizer))
    )
    if not merged and heard["base_sha256"] != run.facts.get("sha256", {}).get("base"):
        found = f"sha256 {heard['base_sha256'][:12]}"
        cure = "Pin base: name@revision to the one of training."
        raise FtError(f"base {run.recipe.base}", "the base of training", found, cure)
    stamp = Stamp(file_sha256(weights), _digest(objective, merged), heard["base_revision"])
    kept = run.facts.get("snippet_check", {})
    run.record(snippet_check=kept | {"merged" if merged else "adapter": asdict(stamp)})
    return stamp


def run_snippet_check(*arguments: str) -> dict[str, Any]:
    """Ask the checking process for something, and read its answer."""
    done = run_python("-m", "ft_toolkit.sharing.snippet_check", *arguments)
    if done.returncode:
        cure = "See the run's base and adapter; ft compare RUN scores them."
        raise FtError("the loading snippet", "to run", last_words(done), cure)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _digest(objective: Objective, merged: bool) -> str:
    """Of the snippet's text, whatever the names in it."""
    base = None if merged else Place("BASE")
    text = loading_snippet(objective, base, Place("PUBLISHED"), own_tokenizer=False)
    return sha256(text.encode()).hexdigest()
