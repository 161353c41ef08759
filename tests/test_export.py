"""ft export: other programs open the file and score it as the run; what a format cannot say is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.export import Form, export
from ft_toolkit.finetune import finetune
from ft_toolkit.judging import exported
from ft_toolkit.models import gguf_writing
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
TEXT = "Asthma narrows the airways, and 12 of 100 children have it: don't wait – ask.\n\n  Drink water.  "
Trained = Callable[..., Run]


@pytest.fixture(scope="module")
def trained(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(family: str, method: str = "lora", **adapter: object) -> Run:
        key = f"{family}-{method}{adapter}"
        if key not in made:
            values: dict[str, Any] = {
                "name": f"{family}-{method}",
                "base": str(checkpoints[family]),
                "corpus": {"source": str(short_corpus)},
                "adapter": {"method": method, **adapter},
                "training": {"steps": 4, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.05},
                "judging": {"general": None},
            }
            options = Options(gate=False, judge=False)
            made[key] = finetune(Recipe.model_validate(values), folder, options, QUIET)
        return made[key]

    return run


def nats_of_the_run(run: Run, ids: list[int]) -> np.ndarray:
    """By transformers' and PEFT's own forward pass."""
    base = load_base(run.recipe.base)
    tuned = load_pair(base, run.trained_folder).tuned
    row = torch.tensor([[base.special.begin, *ids]])
    with torch.no_grad():
        shares = tuned.model(input_ids=row).logits[0, :-1].double().log_softmax(-1)
    return -shares[torch.arange(len(ids)), torch.tensor(ids)].numpy()


def nats_in_llama(path: Path, lora: Path | None = None) -> tuple[list[int], np.ndarray]:
    """(tokens, nats) of TEXT as llama.cpp reads it; row 0 of the vocabulary stands before it."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="the extra llama is not installed")
    reader = llama_cpp.Llama(
        str(path), lora_path=lora and str(lora), n_ctx=64, n_threads=1, logits_all=True, verbose=False
    )
    ids = reader.tokenize(TEXT.encode(), add_bos=False, special=False)
    reader.eval([0, *ids])
    logits = torch.tensor(np.array(reader.scores[: len(ids)])).double()
    reader.close()
    return ids, -logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].numpy()


@pytest.mark.parametrize(("method", "dtype"), [("lora", "float16"), ("full", "float32")])
def test_llama_cpp_cuts_and_scores_a_gguf_file_as_the_run_does(
    trained: Trained, tmp_path: Path, method: str, dtype: str
) -> None:
    run = trained("gpt2", method)
    path = export(run, Form("gguf", dtype), tmp_path / "x.gguf", screen=QUIET)
    ids, nats = nats_in_llama(path)
    tokenizer = AutoTokenizer.from_pretrained(run.recipe.base)
    assert ids == tokenizer(TEXT)["input_ids"]
    own = nats_of_the_run(run, ids)
    assert abs(nats.mean() - own.mean()) < 1e-2
    np.testing.assert_allclose(nats, own, atol=0.1)  # of a single token, where the run's are near 10
    assert [each.name for each in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_an_adapters_file_on_its_bases_scores_as_the_run(
    trained: Trained, checkpoints: dict[str, Path], tmp_path: Path, method: str
) -> None:
    run = trained("gpt2", method, rank=4, alpha=10)
    lora = export(run, Form("gguf", adapter=True), tmp_path / "lora.gguf", screen=QUIET)
    base = load_base(str(checkpoints["gpt2"]))
    under = tmp_path / "base.gguf"
    gguf_writing.write_model(base.model, base.tokenizer, under, "base", half=False)  # type: ignore[arg-type]
    ids, alone = nats_in_llama(under)
    _, nats = nats_in_llama(under, lora)
    own = nats_of_the_run(run, ids)
    assert abs(nats.mean() - own.mean()) < 1e-2 < abs(nats.mean() - alone.mean())


def test_the_file_names_no_folder_of_this_machine_and_says_what_it_is(
    trained: Trained, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    run = trained("gpt2")
    path = export(run, Form("gguf"), tmp_path / "x.gguf", screen=QUIET)
    fields = {name: field.contents() for name, field in GGUFReader(str(path)).fields.items()}
    assert fields["general.name"] == "gpt2-lora" and fields["gpt2.context_length"] == 64
    assert fields["tokenizer.ggml.pre"] == "gpt-2" and fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.token_type"][0] == 3  # <|endoftext|> is a control token
    for place in (tmp_path, run.folder, Path(run.recipe.base)):
        assert str(place).encode() not in path.read_bytes()


@pytest.fixture(scope="module")
def onnx_folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    return export(trained("bert"), Form("onnx"), tmp_path_factory.mktemp("out") / "onnx", screen=QUIET)


def test_onnxruntime_gives_the_runs_logits_for_rows_of_any_size(trained: Trained, onnx_folder: Path) -> None:
    import onnxruntime

    run = trained("bert")
    base = load_base(run.recipe.base)
    tuned = load_pair(base, run.trained_folder).tuned.model
    tokenizer = AutoTokenizer.from_pretrained(onnx_folder)  # the folder alone is enough
    session = onnxruntime.InferenceSession(str(onnx_folder / "model.onnx"))
    for texts in (["Asthma [MASK] the airways.", "Drink [MASK]."], ["x"], ["word " * 40]):
        read = tokenizer(texts, return_tensors="pt", padding=True)
        with torch.no_grad():
            own = tuned(**read).logits.numpy()
        (found,) = session.run(["logits"], {name: value.numpy() for name, value in read.items()})
        is_text = read["attention_mask"].numpy().astype(bool)
        np.testing.assert_allclose(found[is_text], own[is_text], atol=1e-3)


def test_an_onnx_folder_is_whole_and_names_no_folder_of_this_machine(
    trained: Trained, onnx_folder: Path
) -> None:
    names = {path.name for path in onnx_folder.iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert [path.name for path in onnx_folder.parent.iterdir()] == ["onnx"]
    config = json.loads((onnx_folder / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    for path in onnx_folder.iterdir():
        data = path.read_bytes()
        assert b"site-packages" not in data and b"ft_toolkit/" not in data
        assert str(trained("bert").recipe.base).encode() not in data


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["distilbert", "roberta", "electra", "albert", "mpnet", "modernbert", "deberta-v2"]
)
def test_other_masked_families_are_exported_too(trained: Trained, tmp_path: Path, family: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    export(trained(family), Form("onnx"), tmp_path / "onnx", screen=QUIET)  # which scores it there


def test_a_model_that_torch_cannot_export_is_one_line_and_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

    def fails(*arguments: object, **settings: object) -> None:
        raise RuntimeError("\nno such operator\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(
        FtError, match=r"expected a model that torch.onnx exports, found bert: no such operator"
    ):
        export(trained("bert"), Form("onnx"), tmp_path / "onnx", screen=QUIET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("family", "method", "arguments", "words"),
    [
        ("gpt2", "lora", ["--to", "pickle"], "expected one of gguf, onnx, found pickle"),
        (
            "gpt2",
            "lora",
            ["--to", "gguf", "--dtype", "int4"],
            "expected float16 or float32 for gguf, found int4",
        ),
        ("gpt2", "lora", ["--to", "onnx", "--adapter"], "expected --to gguf, found --to onnx"),
        (
            "gpt2",
            "lora",
            ["--to", "gguf", "--adapter", "--dtype", "float16"],
            "expected float32 for an adapter",
        ),
        ("gpt2", "lora", ["--to", "onnx"], "expected a run of a masked model"),
        ("bert", "lora", ["--to", "gguf"], "expected a run of a GPT-2, found bert"),
        ("gpt2", "ia3", ["--to", "gguf", "--adapter"], "expected plain LoRA for --adapter, found IA3"),
        ("gpt2", "dora", ["--to", "gguf", "--adapter"], "expected plain LoRA for --adapter, found DoRA"),
        (
            "gpt2",
            "full",
            ["--to", "gguf", "--adapter"],
            "expected a run with an adapter, found a whole model",
        ),
        ("gpt2", "lora", ["--to", "gguf", "--out", "."], "expected a path that is not there yet"),
        ("gpt2", "lora", ["--to", "gguf", "--out", "/dev/null/x"], "expected a folder to write to"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    method: str,
    arguments: list[str],
    words: str,
) -> None:
    run = trained(family, method)
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in arguments else ["--out", "x"]
    done = CliRunner().invoke(app, ["export", str(run.folder.resolve()), *arguments, *out])
    assert done.exit_code == 2 and words in done.stderr.splitlines()[-1], done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda whole: whole["pre_tokenizer"].update(add_prefix_space=True), "found add_prefix_space"),
        (lambda whole: whole["pre_tokenizer"].update(use_regex=False), "found pre-tokenizer ByteLevel"),
        (lambda whole: whole.update(normalizer={"type": "NFC"}), "found a normaliser"),
        (lambda whole: whole["added_tokens"][0].update(lstrip=True), "takes in blanks"),
        (lambda whole: whole["model"].update(ignore_merges=True), "other merges"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    folder = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "odd"))
    whole = json.loads((folder / "tokenizer.json").read_text())
    change(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # GPT-2's own class takes nothing but pieces
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(FtError, match=words):
        gguf_writing.check_writable(load_base(str(folder)))


def test_a_model_that_llama_cpp_computes_otherwise_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "relu"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    with pytest.raises(FtError, match="found activation relu"):
        gguf_writing.check_writable(load_base(str(folder)))


def test_a_file_that_scores_otherwise_fails_with_code_four_and_is_not_left(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp", reason="the extra llama is not installed")
    # two square matrices the wrong way round: every shape fits, and only the scores tell
    monkeypatch.setattr(gguf_writing, "_TURNED", (".c_attn.weight", ".c_fc.weight", ".mlp.c_proj.weight"))
    with pytest.raises(IntegrityFailed, match="nats a token apart from the run") as failure:
        export(trained("gpt2"), Form("gguf"), tmp_path / "x.gguf", screen=QUIET)
    assert failure.value.exit_code == 4 and list(tmp_path.iterdir()) == []


def test_without_the_reader_it_says_that_nothing_was_checked(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exported, "is_readable", lambda kind: False)
    export(trained("gpt2"), Form("gguf"), tmp_path / "x.gguf", screen=Screen())
    assert "not checked: llama-cpp-python is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "kind", "package"), [("gpt2", "gguf", "gguf"), ("bert", "onnx", "onnx")])
def test_without_the_extra_it_says_how_to_install_it(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FtError, match=rf"pip install 'ft-toolkit\[{package}\]'"):
        export(trained(family), Form(kind), tmp_path / "x", screen=QUIET)
    assert list(tmp_path.iterdir()) == []
