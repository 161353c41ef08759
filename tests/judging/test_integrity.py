"""The gate behind training: what was saved is what was trained, and a fresh process says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FAMILY_NAMES
from peft import PeftModel
from safetensors.torch import load_file, save_file

from ft_toolkit.errors import IntegrityFailed
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.integrity import PISSA_NATS, Integrity, fingerprints, observe, prove, require
from ft_toolkit.models.adapters import attach_adapter, save_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument

METHODS = ("lora", "rslora", "dora", "pissa", "ia3", "full", "scratch")
Trained = tuple[torch.nn.Module, LanguageModel, Path, dict[str, str], list[Document]]


@pytest.fixture
def trained(checkpoints: dict[str, Path], small_corpus: Path, tmp_path: Path) -> Callable[..., Trained]:
    """A model whose trainable parameters moved by a little, saved."""

    def make(family: str = "gpt2", **plan: object) -> Trained:
        base = load_base(str(checkpoints[family]))
        model = attach_adapter(base, Adapter(**plan), seed=0)  # type: ignore[arg-type]
        before = fingerprints(model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        save_adapter(model, tmp_path / "saved")
        return model, base, tmp_path / "saved", before, read_source(str(small_corpus)).documents

    return make


def gate(one: Trained) -> Integrity:
    model, base, folder, before, documents = one
    return prove(observe(base.with_model(model), before, documents), base, folder)


@pytest.mark.parametrize(("family", "method"), [("gpt2", "lora"), ("bert", "dora"), ("distilbert", "full")])
def test_a_fresh_process_gives_the_trained_scores_to_the_bit(
    trained: Callable[..., Trained], family: str, method: str
) -> None:
    found = gate(trained(family, method=method))
    assert (found.reload, found.base_unchanged, found.unmoved) == ("bitwise", True, [])
    assert found.passed
    require(found, Path("adapter"))


def test_the_fresh_process_executes_no_file_of_the_working_folder(
    trained: Callable[..., Trained], poisoned_folder: Path, cold_processes: None
) -> None:
    assert gate(trained()).passed
    assert not (poisoned_folder / "executed").exists()


def test_one_flipped_bit_in_the_saved_file_is_caught_and_ends_with_code_four(
    trained: Callable[..., Trained],
) -> None:
    one = trained()
    path = one[2] / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x40  # an exponent bit of the last weight
    path.write_bytes(bytes(data))
    found = gate(one)
    assert not found.passed
    assert found.reload.startswith("differs by up to ")
    with pytest.raises(IntegrityFailed, match="saved = trained, bitwise, found differs by up to") as failure:
        require(found, one[2])
    assert failure.value.exit_code == 4


def test_a_saved_matrix_that_is_missing_is_told_by_the_fresh_process(trained: Callable[..., Trained]) -> None:
    one = trained()
    path = one[2] / "adapter_model.safetensors"
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityFailed, match="a fresh process to load it"):
        gate(one)


def test_a_base_weight_that_moved_is_caught(trained: Callable[..., Trained]) -> None:
    one = trained()
    with torch.no_grad():
        one[1].model.get_input_embeddings().weight[5, 5] += 1e-3
    found = gate(one)
    assert not found.base_unchanged
    with pytest.raises(IntegrityFailed, match="a base that changed"):
        require(found, one[2])


def test_a_matrix_that_never_moved_is_named(trained: Callable[..., Trained]) -> None:
    model, base, folder, before, documents = trained()
    stuck = next(name for name in before if "lora_B" in name)
    before[stuck] = fingerprints(model)[stuck]
    found = prove(observe(base.with_model(model), before, documents), base, folder)
    assert found.unmoved == [stuck]
    assert stuck in found.words()
    assert found.passed  # it is said; the scores are those of the trained model all the same


def test_a_training_that_moved_nothing_does_not_pass(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    model = attach_adapter(base, Adapter(), seed=0)
    save_adapter(model, tmp_path / "saved")
    seen = observe(base.with_model(model), fingerprints(model), [TextDocument("t.txt", 0, "Boil the pasta.")])
    found = prove(seen, base, tmp_path / "saved")
    assert found.reload == "bitwise"
    with pytest.raises(IntegrityFailed, match="no matrix that moved"):
        require(found, tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_base_is_known_by_its_hash_whatever_adapter_sits_in_it(
    checkpoints: dict[str, Path], family: str, method: str
) -> None:
    base = load_base(str(checkpoints[family]))
    attach_adapter(base, Adapter(method=method), seed=0)  # type: ignore[arg-type]
    assert hash_weights(base.model) == base.weights_sha256


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_rows_of_words_in_training_leave_the_hash_of_the_base_too(
    checkpoints: dict[str, Path], family: str
) -> None:
    base = load_base(str(checkpoints[family]))
    attach_adapter(base, Adapter(tokens=["fever"]), seed=0)
    assert hash_weights(base.model) == base.weights_sha256


def test_a_finished_run_records_the_gate_and_says_it(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = finetune(tiny_recipe(adapter={"method": "scratch", "tokenizer": "train"}), tmp_path)
    assert run.facts["integrity"]["passed"] is True
    assert run.facts["integrity"]["reload"] == "bitwise"
    said = (run.folder / "run.log").read_text()
    assert "saved = trained?  a fresh process: bitwise; its base unchanged" in said


# pissa is saved as plain LoRA of twice the rank, and loaded again to be judged.


def pissa(tiny_recipe: Callable[..., Recipe], family: str = "gpt2", **training: float) -> Recipe:
    return tiny_recipe(family, adapter={"method": "pissa"}, training=training)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "bert" else pytest.mark.slow) for name in FAMILY_NAMES]
)
def test_pissa_as_saved_reads_as_it_was_trained_up_to_rounding(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, family: str
) -> None:
    run = finetune(pissa(tiny_recipe, family), tmp_path, options=Options(judge=False))
    found = run.facts["integrity"]
    assert (found["passed"], found["reload"], found["unmoved"]) == (True, "bitwise", [])
    assert 0 < found["rounding_nats"] <= PISSA_NATS / 4


def never_trained(model: PeftModel, folder: Path) -> None:
    fresh = attach_adapter(
        load_base(model.peft_config["default"].base_model_name_or_path), Adapter(method="pissa"), 0
    )
    save_adapter(fresh, folder)


def one_number_moved(model: PeftModel, folder: Path) -> None:
    save_adapter(model, folder)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)][0, 0] += 0.1  # of a whole row, LayerNorm's outputs would see nothing: they sum to 0
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("spoil", [never_trained, one_number_moved])
def test_a_pissa_file_that_is_not_what_was_trained_does_not_pass(
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[PeftModel, Path], None],
) -> None:
    monkeypatch.setattr(
        "ft_toolkit.finetune.save_adapter", lambda model, folder, beside: spoil(model, folder)
    )
    with pytest.raises(IntegrityFailed, match="expected saved = trained, bitwise, found "):
        finetune(pissa(tiny_recipe), tmp_path, options=Options(judge=False))
    found = Run.open(tmp_path / "tiny-gpt2").facts["integrity"]
    assert found["reload"].startswith("differs from memory by ")
    assert found["passed"] is False


def test_a_pissa_training_that_moved_nothing_does_not_pass(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(IntegrityFailed, match="no matrix that moved"):
        finetune(pissa(tiny_recipe, learning_rate=1e-30), tmp_path, options=Options(judge=False))
