"""Checkpoints and adapters made to harm, or damaged: one line that names the place, and nothing is run."""

from __future__ import annotations

import ast
import json
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import ft_toolkit
from ft_toolkit.errors import LINE_CHARACTERS, FtError
from ft_toolkit.models.adapters import load_adapter, load_whole
from ft_toolkit.models.checkpoints import base_config, load_base
from ft_toolkit.runtime import prepare_process

MOST_SECONDS = 5
PACKAGE = Path(ft_toolkit.__file__).parent
TEN_MILLION = 10**7


def fault(action: Callable[[], object]) -> str:
    """The one line that an action ends with, in good time."""
    started = time.monotonic()
    with pytest.raises(FtError) as refused:
        action()
    assert time.monotonic() - started < MOST_SECONDS
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) <= LINE_CHARACTERS
    assert refused.value.exit_code == 2
    return line


class Payload:
    """Whoever unpickles it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (self.mark,))


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "base"))


def changed(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def sharded(folder: Path) -> dict[str, Any]:
    """Split a checkpoint's weights in shards; returns their index."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    index: dict[str, Any] = json.loads((folder / "model.safetensors.index.json").read_text())
    return index


# --- the weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "../elsewhere.safetensors",
        "sub/x.safetensors",
        ".safetensors",
        "x.safetensors.bin",
    ],
)
def test_a_shard_is_a_plain_safetensors_file_of_the_same_folder(
    folder: Path, tmp_path: Path, name: str
) -> None:
    index = sharded(folder)
    torch.save({"x": Payload(tmp_path / "was run")}, folder / "pytorch_model.bin")
    index["weight_map"]["transformer.wte.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    line = fault(lambda: load_base(str(folder)))
    assert "index.json: expected an index of plain *.safetensors names, found " in line
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        '{"weight_map": 5}',
        '{"weight_map": {}}',
        '{"weight_map": ["a"]}',
        '{"weight_map": {"a": [1]}}',
        "[" * 100_000,
        '{"weight_map": ' + "9" * 5000 + "}",
    ],
    ids=["nothing", "a list", "a number", "empty", "a list of names", "lists", "deep", "long"],
)
def test_a_shard_index_that_is_none_is_refused(folder: Path, index: str) -> None:
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text(index)
    assert "an index of plain *.safetensors names" in fault(lambda: load_base(str(folder)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        struct.pack("<Q", 5) + b"[[[[[",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        b"\x80\x04pickle of some kind",
    ],
    ids=["nothing", "zeros", "2^63", "100 MB", "no JSON", "a list", "deep", "a pickle"],
)
def test_a_safetensors_header_that_is_none_is_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    assert "expected whole weights, found model.safetensors cut short" in fault(
        lambda: load_base(str(folder))
    )


def test_an_adapter_beside_a_base_is_never_put_onto_it_without_a_word(folder: Path) -> None:
    model = get_peft_model(load_base(str(folder)).model, LoraConfig(r=2, target_modules=["c_attn"]))
    model.save_pretrained(folder)
    assert "expected a base, found an adapter beside it" in fault(lambda: load_base(str(folder)))


def test_the_shards_of_a_distributed_checkpoint_are_not_read_in_place_of_the_weights(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")
    assert "the shards of a distributed one" in fault(lambda: load_base(str(folder)))


def test_the_hubs_conversion_bot_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils.import_utils import is_env_variable_true

    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "0")
    prepare_process()
    assert is_env_variable_true("DISABLE_SAFETENSORS_CONVERSION")


# --- config.json -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [["gpt2"], {"gpt2": 1}, 5, True, "", "x" * 5000])
def test_a_model_type_is_the_name_of_an_architecture(folder: Path, kind: Any) -> None:
    changed(folder / "config.json", model_type=kind)
    assert "an architecture that transformers knows" in fault(lambda: load_base(str(folder)))


@pytest.mark.parametrize(
    "orders",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"text_config": {"quantization_config": {"quant_method": "awq"}}},
        {"transformers_weights": "adapter_model.bin"},
        {"transformers_weights": "../x.safetensors"},
        {"fusion_config": {"qkv": True}},
    ],
    ids=lambda orders: "-".join(orders),
)
def test_a_config_gives_no_orders(folder: Path, orders: dict[str, Any]) -> None:
    changed(folder / "config.json", **orders)
    line = fault(lambda: load_base(str(folder)))
    assert "config.json: expected no " in line


@pytest.mark.parametrize(
    "orders",
    [
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": "someone/kernels"},
        {"_attn_implementation_internal": "someone/kernels"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "someone/kernels"}},
        {"experts_implementation": "someone/kernels"},
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
        {"use_kernels": True},
        {"trust_remote_code": True},
    ],
    ids=lambda orders: "-".join(orders),
)
def test_code_that_a_config_names_is_neither_fetched_nor_run(folder: Path, orders: dict[str, Any]) -> None:
    before = load_base(str(folder)).model
    (folder / "evil.py").write_text("raise SystemExit('was run')\n")
    changed(folder / "config.json", **orders)
    after = load_base(str(folder)).model
    assert type(after) is type(before)
    assert after.config._attn_implementation == before.config._attn_implementation
    ids = torch.arange(9)[None]
    assert torch.equal(after(ids).logits, before(ids).logits)
    assert "kernels" not in sys.modules


@pytest.mark.parametrize(
    "size",
    [
        {"n_layer": TEN_MILLION},
        {"num_hidden_layers": TEN_MILLION},
        {"n_head": TEN_MILLION},
        {"n_positions": TEN_MILLION},
        {"n_embd": TEN_MILLION},
        {"vocab_size": 10**10},
        {"n_inner": 10**9},
        {"n_layer": 1024},
    ],
    ids=lambda size: "-".join(map(str, size)),
)
def test_a_config_of_another_size_than_its_weights_is_refused(folder: Path, size: dict[str, int]) -> None:
    changed(folder / "config.json", **size)
    line = fault(lambda: load_base(str(folder)))
    assert "expected at most " in line or "a model of its weights'" in line


@pytest.mark.parametrize("family", ["gpt_neo", "albert"])
def test_a_family_counts_its_parts_by_names_of_its_own(
    checkpoints: dict[str, Path], tmp_path: Path, family: str
) -> None:
    copied = Path(shutil.copytree(checkpoints[family], tmp_path / "base"))
    size = {
        "gpt_neo": {"attention_types": [[["global", "local"], TEN_MILLION]]},
        "albert": {"num_hidden_groups": TEN_MILLION},
    }
    changed(copied / "config.json", **size[family])
    assert "expected at most 1,024, found 10000000" in fault(lambda: load_base(str(copied)))


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"model_type": ' * 5000, '{"n_layer": ' + "9" * 5000 + "}", "[]", "5", "null", ""],
    ids=["deep", "deep objects", "a long number", "a list", "a number", "null", "nothing"],
)
@pytest.mark.parametrize("read", [load_base, base_config])
def test_a_config_that_is_no_object_of_json_is_refused(
    folder: Path, content: str, read: Callable[[str], object]
) -> None:
    (folder / "config.json").write_text(content)
    assert f"base {folder}"[:40] in fault(lambda: read(str(folder)))


@pytest.mark.parametrize("key", ["activation_function", "dtype", "n_embd", "n_layer", "id2label", "auto_map"])
@pytest.mark.parametrize("value", ["nonsense", -1, [], {}, 5.5])
def test_a_value_that_makes_no_sense_is_one_line_if_it_matters(folder: Path, key: str, value: Any) -> None:
    changed(folder / "config.json", **{key: value})
    try:
        load_base(str(folder))
    except FtError as error:
        assert "\n" not in str(error)


def test_a_base_that_no_file_system_holds_is_refused() -> None:
    assert "base xxx" in fault(lambda: load_base("x" * 5000))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "5", ""], ids=["deep", "a number", "nothing"])
def test_a_file_beside_the_weights_that_is_damaged_is_one_line_if_it_matters(
    folder: Path, name: str, content: str
) -> None:
    (folder / name).write_text(content)
    try:
        load_base(str(folder))
    except FtError as error:
        assert "\n" not in str(error)


# --- adapters ----------------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    """As plain PEFT saves it."""
    model = get_peft_model(load_base(str(folder)).model, LoraConfig(r=2, target_modules=["c_attn"]))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ({"r": TEN_MILLION}, "expected a rank of its weights, 2 at most, found 10000000"),
        ({"rank_pattern": {"c_attn": TEN_MILLION}}, "expected a rank of its weights, 2 at most"),
        ({"target_modules": r"([\w.]+)+\d"}, "expected patterns that match soon"),
        ({"target_modules": "((t|t)(r|r)?)+" + "(.|.)" * 30 + "!"}, "patterns that match soon"),
        ({"exclude_modules": r"(.*)*(.*)*(.*)*x$"}, "patterns that match soon"),
        ({"rank_pattern": {r"([\w.]+)+!": 2}}, "patterns that match soon"),
        ({"alpha_pattern": {r"([\w.]+)+!": 2}}, "patterns that match soon"),
        ({"layers_to_transform": [0], "layers_pattern": r"([\w.]+)+!"}, "patterns that match soon"),
        ({"modules_to_save": [r"([\w.]+)+!"]}, "patterns that match soon"),
        ({"target_modules": "(c_attn"}, "expected regular expressions, found "),
        ({"megatron_config": {"x": 1}, "megatron_core": "antigravity"}, "expected no megatron_config"),
        ({"layer_replication": [[0, 2]] * 10_000}, "expected no layer_replication"),
        ({"peft_type": "NONSENSE"}, "expected an adapter for "),
        ({"peft_type": ["LORA"]}, "expected peft_type: a str, found a list"),
        ({"r": "many"}, "expected an adapter for "),
        ({"r": -1}, "expected an adapter for "),
        ({"target_modules": 5}, "expected an adapter for "),
        ({"target_modules": ["nothing"]}, "expected an adapter for "),
        ({"rank_pattern": 5}, "expected an adapter for "),
        ({"init_lora_weights": "nonsense"}, "expected an adapter for "),
        ({"notes": "x" * 2**20}, "expected at most 1,048,576 bytes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_adapters_config_asks_for_nothing_out_of_proportion(
    folder: Path, adapter: Path, orders: dict[str, Any], words: str
) -> None:
    base = load_base(str(folder))
    changed(adapter / "adapter_config.json", **orders)
    assert words in fault(lambda: load_adapter(base, adapter))


@pytest.mark.parametrize("content", [None, "", "[]", "5", "[" * 100_000, '{"r": ' + "9" * 5000 + "}", "{}"])
def test_an_adapter_without_a_config_of_its_own_is_refused(
    folder: Path, adapter: Path, content: str | None
) -> None:
    base = load_base(str(folder))
    if content is None:
        (adapter / "adapter_config.json").unlink()
    else:
        (adapter / "adapter_config.json").write_text(content)
    assert "adapter" in fault(lambda: load_adapter(base, adapter))


def test_a_damaged_adapter_is_called_damaged(folder: Path, adapter: Path) -> None:
    base, weights = load_base(str(folder)), adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "expected whole weights, found adapter_model.safetensors" in fault(
        lambda: load_adapter(base, adapter)
    )


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=r".*\.(c_attn|c_proj)$"),
        LoraConfig(r=2, target_modules=["c_attn", "c_proj"], rank_pattern={"h.0.attn.c_attn": 5}),
        LoraConfig(r=2, target_modules=["c_attn"], layers_to_transform=[1], layers_pattern="h"),
        LoraConfig(r=300, target_modules=["c_attn"]),  # above every side of the base's matrices
        IA3Config(target_modules=["c_attn"], feedforward_modules=[]),
    ],
    ids=["a pattern", "ranks", "layers", "a large rank", "no rank"],
)
def test_what_an_honest_adapter_asks_for_is_granted(folder: Path, tmp_path: Path, config: Any) -> None:
    theirs = get_peft_model(load_base(str(folder)).model, config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(load_base(str(folder)), tmp_path / "adapter")
    ids = torch.arange(9)[None]
    assert torch.equal(ours(ids).logits, theirs.eval()(ids).logits)


# --- whole models ------------------------------------------------------------------------------------


def test_a_whole_model_is_looked_at_like_a_base(
    folder: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base, model = load_base(str(folder)), tmp_path / "model"
    shutil.copytree(folder, model)
    assert torch.equal(load_whole(base, model).lm_head.weight, base.model.lm_head.weight)
    changed(model / "config.json", quantization_config={"quant_method": "fp8"})
    assert "expected no quantization_config" in fault(lambda: load_whole(base, model))
    shutil.copytree(checkpoints["gpt_neo"], model, dirs_exist_ok=True)
    assert "expected a GPT2LMHeadModel, as its base, found GPTNeoForCausalLM" in fault(
        lambda: load_whole(base, model)
    )


def test_a_whole_model_that_lost_a_matrix_is_not_filled_with_chance(folder: Path, tmp_path: Path) -> None:
    base, model = load_base(str(folder)), tmp_path / "model"
    shutil.copytree(folder, model)
    weights = load_file(model / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert "weights for every part of GPT2LMHeadModel, found no transfor" in fault(
        lambda: load_whole(base, model)
    )


# --- code of a repository ----------------------------------------------------------------------------


def loads_that_might_run_code(source: str) -> list[str]:
    """from_pretrained and from_config without trust_remote_code=False; PEFT has no such option."""
    tree = ast.parse(source)
    safe = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for option in node.keywords
        if option.arg == "trust_remote_code" and ast.unparse(option.value) == "False"
    }
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config")
        if id(node) not in safe and not ast.unparse(node).startswith("Peft")
    ]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix()
)
def test_every_load_says_that_no_code_of_a_repository_may_run(path: Path) -> None:
    """Left out, transformers asks on the terminal, and a yes runs it."""
    assert loads_that_might_run_code(path.read_text()) == []


def test_a_load_that_says_nothing_is_found() -> None:
    for source in (
        "AutoConfig.from_pretrained(place)",
        "kind.from_pretrained(place, trust_remote_code=trusted)",
        "build(kind.from_config)",
    ):
        assert len(loads_that_might_run_code(source)) == 1
    assert not loads_that_might_run_code("AutoConfig.from_pretrained(place, trust_remote_code=False)")
