"""What an adapter promises: it starts as nothing, learns, is saved whole, and its base stays its base."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILY_NAMES, move_b
from huggingface_hub import constants
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.models.adapters import attach_adapter, load_adapter, save_adapter, set_dropout, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.models.token_nll import SummedLoss, TokenScorer
from ft_toolkit.sections import Adapter
from ft_toolkit.text.blocks import collate, encode, mask
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document
from ft_toolkit.text.packing import pack

STEPS = 5
FRESH_PROCESS = """
import json, sys
from pathlib import Path
import torch
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.models.adapters import load_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import Document, TextDocument
texts = json.loads(sys.stdin.read())
for place, adapter in zip(sys.argv[1::2], sys.argv[2::2]):
    base = load_base(place)
    documents = encode([TextDocument("t.txt", row, text) for row, text in enumerate(texts)], base.tokenizer)
    tuned = base.with_model(load_adapter(base, Path(adapter)))
    print(*(float(nll.sum()).hex() for nll in score(tuned, documents, choose_protocol(base))))
"""


@dataclass(frozen=True)
class Trained:
    """A tiny base with an adapter that took five steps, and what the bare base paid before."""

    place: str
    base: LanguageModel
    model: PeftModel
    documents: list[Document]
    bare: list[TokenNll]  # a base without any adapter
    fresh: list[TokenNll]  # the adapter before its first step
    saved: Path

    def scores(self) -> list[TokenNll]:
        return scores(self.model, self.base, self.documents)


def scores(model: torch.nn.Module, base: LanguageModel, documents: list[Document]) -> list[TokenNll]:
    encoded = encode(documents, base.tokenizer)
    return score(base.with_model(model), encoded, choose_protocol(base))


def train_a_little(model: PeftModel, base: LanguageModel, documents: list[Document]) -> None:
    rows = pack(
        encode(documents, base.tokenizer), base.family.objective, base.special.begin, base.special.end, 32
    )
    if base.special.mask is not None:
        rows = [mask(row, 0, 0, base.special.mask, np.arange(5, 500, dtype=np.int32), 0.15) for row in rows]
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.01)
    summed = SummedLoss(TokenScorer(model, base.family))
    for step in range(STEPS):
        batch = collate(rows[4 * step : 4 * step + 4], base.family.objective)
        nats, count = summed(batch.input_ids, batch.targets, batch.attention_mask, batch.position_ids)
        (nats / count).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def trained(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trained]:
    documents = read_source(str(small_corpus)).documents
    found = {}
    for name in FAMILY_NAMES:
        place = str(checkpoints[name])
        bare = load_base(place)
        base = load_base(place)
        model = attach_adapter(base, Adapter(), seed=0)
        before = scores(bare.model, bare, documents[:4]), scores(model, base, documents[:4])
        train_a_little(model, base, documents[4:])
        saved = tmp_path_factory.mktemp("saved") / name
        save_adapter(model, saved)
        found[name] = Trained(place, base, model, documents[:4], *before, saved)
    return found


def bitwise_equal(left: list[TokenNll], right: list[TokenNll]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_an_untrained_adapter_scores_exactly_as_its_base(trained: dict[str, Trained], name: str) -> None:
    assert bitwise_equal(trained[name].fresh, trained[name].bare)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_lora_b_learns_in_five_steps_and_nothing_else_may(
    trained: dict[str, Trained], name: str
) -> None:
    parameters = trainable(trained[name].model)
    assert all(".lora_A." in key or ".lora_B." in key for key in parameters)
    reaches = {key: float(value.detach().abs().max()) for key, value in parameters.items() if "lora_B" in key}
    assert len(reaches) == len(parameters) // 2 > 0
    assert min(reaches.values()) > 0


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_trained_adapter_scores_unlike_its_base(trained: dict[str, Trained], name: str) -> None:
    change = np.concatenate(trained[name].scores()) - np.concatenate(trained[name].bare)
    assert abs(change.mean()) > 1e-3
    assert np.abs(change).mean() > 1e-3


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_trained_adapter_switched_off_is_exactly_its_base(trained: dict[str, Trained], name: str) -> None:
    one = trained[name]
    with one.model.disable_adapter():
        assert bitwise_equal(one.scores(), one.bare)
    assert not bitwise_equal(one.scores(), one.bare)  # and it is on again


@pytest.fixture(scope="module")
def in_a_fresh_process(trained: dict[str, Trained]) -> dict[str, list[str]]:
    places = [place for one in trained.values() for place in (one.place, str(one.saved))]
    texts = [document.text for document in trained["gpt2"].documents]
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, *places],
        input=json.dumps(texts),
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(trained, (line.split() for line in done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_saved_adapter_in_a_fresh_process_is_bitwise_the_live_one(
    trained: dict[str, Trained], in_a_fresh_process: dict[str, list[str]], name: str
) -> None:
    assert in_a_fresh_process[name] == [float(nll.sum()).hex() for nll in trained[name].scores()]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_what_is_saved_is_a_plain_adapter_and_nothing_more(trained: dict[str, Trained], name: str) -> None:
    saved = trained[name].saved
    assert {path.name for path in saved.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        trained[name].place
    )
    weights = load_file(saved / "adapter_model.safetensors")
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in weights)
    assert len(weights) == len(trainable(trained[name].model))


def test_the_config_names_the_base_as_the_recipe_does(tmp_path: Path) -> None:
    base = load_base("starter/gpt2")
    save_adapter(attach_adapter(base, Adapter(targets="attention"), seed=0), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "starter/gpt2"


def test_saving_asks_the_network_nothing(
    trained: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(host: object, *rest: object, **more: object) -> None:
        asked.append(host)
        raise OSError("no network in this test")

    base = load_base(trained["gpt2"].place)
    model = attach_adapter(base, Adapter(), seed=0)
    model.peft_config["default"].base_model_name_or_path = "someone/some-gpt2"
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    save_adapter(model, tmp_path / "adapter")
    assert asked == []
    with pytest.warns(UserWarning, match="no network in this test"):
        model.save_pretrained(str(tmp_path / "as PEFT does by itself"))
    assert asked  # so the trap was set


def test_a_failed_save_leaves_the_old_adapter_and_nothing_half_done(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = attach_adapter(load_base(str(checkpoints["gpt2"])), Adapter(), seed=0)
    folder = tmp_path / "adapter"
    save_adapter(model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        next(iter(trainable(model).values())).add_(1)
    model.peft_config["default"].lora_alpha = object()  # no JSON: fails after the weights are written
    with pytest.raises(TypeError):
        save_adapter(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_saving_again_replaces_the_old_adapter(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = attach_adapter(load_base(str(checkpoints["gpt2"])), Adapter(), seed=0)
    folder = tmp_path / "adapter"
    save_adapter(model, folder)
    (folder / "stale.txt").write_text("from before")
    before = (folder / "adapter_model.safetensors").read_bytes()
    with torch.no_grad():
        next(iter(trainable(model).values())).add_(1)
    save_adapter(model, folder)
    assert (folder / "adapter_model.safetensors").read_bytes() != before
    assert not (folder / "stale.txt").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_adapters_config_has_the_same_bytes_in_every_process(
    checkpoints: dict[str, Path], tmp_path: Path, method: str
) -> None:
    # PEFT keeps names in sets, whose order follows from the hash seed of the process
    model = attach_adapter(load_base(str(checkpoints["gpt2"])), Adapter(method=method), seed=0)
    save_adapter(model, tmp_path / "adapter")
    lists = [
        value
        for value in json.loads((tmp_path / "adapter" / "adapter_config.json").read_text()).values()
        if isinstance(value, list)
    ]
    assert len(max(lists, key=len)) > 2
    assert lists == [sorted(names) for names in lists]


@pytest.mark.parametrize("other", ["bert", "distilbert", "starter/gpt2", "deeper", "shallower"])
def test_an_adapter_for_another_base_is_refused(
    trained: dict[str, Trained], checkpoints: dict[str, Path], tmp_path: Path, other: str
) -> None:
    if other in ("deeper", "shallower"):
        config = GPT2Config.from_pretrained(checkpoints["gpt2"], n_layer=3 if other == "deeper" else 1)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(checkpoints["gpt2"]).save_pretrained(tmp_path)
    place = {"bert": str(checkpoints["bert"]), "distilbert": str(checkpoints["distilbert"])}.get(
        other, other if "/" in other else str(tmp_path)
    )
    with pytest.raises(FtError, match="an adapter for"):
        load_adapter(load_base(place), trained["gpt2"].saved)


@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_lost_a_file_is_refused(
    trained: dict[str, Trained], tmp_path: Path, lost: str
) -> None:
    folder = Path(shutil.copytree(trained["gpt2"].saved, tmp_path / "adapter"))
    (folder / lost).unlink()
    with pytest.raises(FtError):
        load_adapter(load_base(trained["gpt2"].place), folder)


def test_an_adapter_that_lost_a_matrix_is_refused(trained: dict[str, Trained], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained["gpt2"].saved, tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    lost = next(iter(weights))
    del weights[lost]
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(FtError, match="an adapter for") as refusal:
        load_adapter(load_base(trained["gpt2"].place), folder)
    assert refusal.value.found == f"1 matrices without a counterpart, such as {lost}"


def test_a_truncated_adapter_is_refused(trained: dict[str, Trained], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained["gpt2"].saved, tmp_path / "adapter"))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(FtError, match="expected whole weights"):
        load_adapter(load_base(trained["gpt2"].place), folder)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("gpt2", "lm_head"),
        ("gpt2", "wte"),
        ("gpt2", "wpe"),
        ("bert", "decoder"),
        ("bert", "transform.dense"),
        ("bert", "dense"),  # matches the trunk's and the head's
        ("bert", "word_embeddings"),
        ("distilbert", "vocab_projector"),
        ("distilbert", "vocab_transform"),
        ("distilbert", "distilbert.embeddings.position_embeddings"),
    ],
)
def test_the_head_and_the_embeddings_cannot_be_targets(
    checkpoints: dict[str, Path], name: str, target: str
) -> None:
    base = load_base(str(checkpoints[name]))
    trunk_matrix = base.family.attention[0]
    with pytest.raises(FtError, match=r"adapter\.targets: expected matrices of the trunk"):
        attach_adapter(base, Adapter(targets=[trunk_matrix, target]), seed=0)
    assert hash_weights(base.model) == base.weights_sha256  # and the base was not touched


@pytest.mark.parametrize(
    "targets", [["q_proj"], ["query"], ["attn.c_attn", "attn.c_attm"], ["h.7.mlp.c_fc"], []]
)
def test_unknown_targets_are_refused_with_the_right_names(
    checkpoints: dict[str, Path], targets: list[str]
) -> None:
    with pytest.raises(FtError) as refusal:
        attach_adapter(load_base(str(checkpoints["gpt2"])), Adapter(targets=targets), seed=0)
    assert (targets or ["nothing"])[-1] in str(refusal.value)
    assert "attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj" in str(refusal.value)


@pytest.mark.parametrize(
    ("targets", "matrices"), [(["mlp.c_fc"], 2), (["c_proj"], 4), (["h.1.attn.c_attn", "mlp.c_fc"], 3)]
)
def test_targets_may_be_named_one_by_one(
    checkpoints: dict[str, Path], targets: list[str], matrices: int
) -> None:
    model = attach_adapter(load_base(str(checkpoints["gpt2"])), Adapter(targets=targets), seed=0)
    assert len(trainable(model)) == 2 * matrices


def test_a_hash_of_weights_knows_them_again_and_notices_the_last_bit_of_one(
    checkpoints: dict[str, Path],
) -> None:
    base, again = (load_base(str(checkpoints["bert"])) for _ in range(2))
    assert base.weights_sha256 == again.weights_sha256 == hash_weights(again.model)
    bias = again.model.get_parameter("bert.encoder.layer.1.output.dense.bias")
    bias[3] = torch.nextafter(bias[3], torch.tensor(1.0))
    assert hash_weights(again.model) != base.weights_sha256


def test_starter_weights_are_read_in_float32_whatever_their_file_holds() -> None:
    base = load_base("starter/gpt2")
    stored = load_file(shipped.starter("gpt2") / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in base.model.state_dict().values()} == {torch.float32}


def test_the_seed_alone_decides_how_an_adapter_begins(checkpoints: dict[str, Path]) -> None:
    def begins(seed: int, drawn_before: int) -> list[torch.Tensor]:
        torch.rand(drawn_before)
        model = attach_adapter(load_base(str(checkpoints["gpt2"])), Adapter(), seed=seed)
        return [p.detach() for key, p in trainable(model).items() if "lora_A" in key]

    first, again, other = begins(3, 0), begins(3, 17), begins(4, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def train_mode_losses(model: PeftModel, base: LanguageModel) -> torch.Tensor:
    ids = torch.arange(20, 60)[None]
    found: torch.Tensor = TokenScorer(model, base.family)(ids, ids)
    return found.detach()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_dropout_of_the_base_stays_off_in_training(checkpoints: dict[str, Path], name: str) -> None:
    base = load_base(str(checkpoints[name]))
    assert 0.1 in (
        getattr(base.model.config, key, 0) for key in ("resid_pdrop", "hidden_dropout_prob", "dropout")
    )
    model = attach_adapter(base, Adapter(dropout=0.0), seed=0)
    set_dropout(model, active=True)
    assert torch.equal(train_mode_losses(model, base), train_mode_losses(model, base))
    model.train()  # what a careless loop would do
    assert not torch.equal(train_mode_losses(model, base), train_mode_losses(model, base))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_dropout_of_the_adapter_acts_only_when_switched_on(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    model = attach_adapter(base, Adapter(dropout=0.5), seed=0)
    move_b(model, std=1.0)
    still = train_mode_losses(model, base)
    assert torch.equal(train_mode_losses(model, base), still)  # off to begin with
    set_dropout(model, active=True)
    assert not torch.equal(train_mode_losses(model, base), train_mode_losses(model, base))
    set_dropout(model, active=False)
    assert torch.equal(train_mode_losses(model, base), still)
