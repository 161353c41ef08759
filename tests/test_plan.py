"""ft plan: counted, not guessed, and nothing is loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FAMILY_NAMES
from typer.testing import CliRunner

from ft_toolkit import auto, shipped, strict_yaml
from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.material import gathered
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.sizes import count, read_config, shape
from ft_toolkit.plan import Devices, Workload, lines, need, parse_devices
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.text import packed

METHODS = ("lora", "rslora", "dora", "lora+", "ia3", "full", "scratch")


def gpt2_parameters(layers: int, width: int, vocabulary: int, positions: int) -> int:
    """Twelve squares of the width a layer, their biases and norms, two tables, a last norm."""
    return (vocabulary + positions) * width + layers * (12 * width**2 + 13 * width) + 2 * width


def test_gpt3s_shape_has_the_175_billion_parameters_of_its_paper() -> None:
    """Brown et al. 2020, arXiv:2005.14165, table 2.1: 96 layers, width 12,288, 96 heads."""
    sizes = count(shape("gpt2", 96, 12288, 96, vocabulary=50257, positions=2048), Adapter())
    assert sizes.parameters == gpt2_parameters(96, 12288, 50257, 2048)
    assert round(sizes.parameters / 1e9) == 175


def test_opt_has_two_more_rows_of_positions_than_gpt2_and_as_many_parameters_otherwise() -> None:
    sizes = count(shape("opt", 24, 2048, 32, vocabulary=50272, positions=2048), Adapter())
    assert sizes.parameters == gpt2_parameters(24, 2048, 50272, 2050)


def test_the_adapter_of_gpt3s_shape_is_counted_as_by_hand() -> None:
    rank, width, layers = 8, 12288, 96
    attention = count(shape("gpt2", layers, width, 96), Adapter(rank=rank, targets="attention"))
    assert attention.trained == layers * rank * ((width + 3 * width) + (width + width))
    everything = count(shape("gpt2", layers, width, 96), Adapter(rank=rank))
    assert everything.trained == attention.trained + layers * rank * 2 * (width + 4 * width)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_is_counted_without_memory_is_what_is_really_built(
    checkpoints: dict[str, Path], family: str, method: str
) -> None:
    plan = Adapter(method=method, rank=4)  # type: ignore[arg-type]
    sizes = count(read_config(checkpoints[family]), plan)
    base = load_base(str(checkpoints[family]))
    assert sizes.parameters == sum(parameter.numel() for parameter in base.model.parameters())
    assert sizes.trained == sum(p.numel() for p in trainable(attach_adapter(base, plan, seed=0)).values())


def test_a_plan_decides_what_auto_stands_for_as_the_training_does(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    asked = tiny_recipe(training={"steps": None, "epochs": 2, "learning_rate": "auto"})
    it = gathered(asked, torch.device("cpu"))
    file = tmp_path / "mine.yaml"
    file.write_text(strict_yaml.dump(asked.model_dump()))
    found = CliRunner().invoke(app, ["plan", str(file), "--no-probe"])
    assert found.output.splitlines()[-1] == f"training        {auto.words(asked, it.measure)}"


def test_a_plan_reads_its_text_once_and_tells_what_auto_is_and_how_long_it_takes(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tiny_recipe(training={"steps": None, "epochs": 1, "learning_rate": "auto"})
    (tmp_path / "mine.yaml").write_text(strict_yaml.dump(asked.model_dump()))
    opened: list[str] = []
    read = packed._bytes

    def counted(path: Path) -> packed.Data:
        opened.append(path.name)
        return read(path)

    monkeypatch.setattr(packed, "_bytes", counted)
    found = CliRunner().invoke(app, ["plan", str(tmp_path / "mine.yaml")])
    texts = [path.name for path in Path(asked.corpora[0].source).rglob("*") if path.is_file()]
    assert [opened.count(name) for name in texts] == [1] * len(texts)
    *_, training, machine = found.output.splitlines()
    assert training.startswith("training        learning rate ")
    assert machine.startswith("this machine    about ")


def test_a_plan_may_come_before_its_text(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    values = tiny_recipe(training={"learning_rate": "auto", "steps": None}).model_dump()
    values["corpus"]["source"] = "nowhere"
    (tmp_path / "mine.yaml").write_text(strict_yaml.dump(values))
    found = CliRunner().invoke(app, ["plan", str(tmp_path / "mine.yaml")])
    assert (found.exit_code, found.stderr) == (0, "")
    *_, training, machine = found.output.splitlines()
    assert training == "training        learning rate auto: the text decides; give --tokens"
    assert machine.startswith(
        "this machine    not tried: corpus nowhere: expected a file, folder or glob, found"
    )


def test_a_plan_before_its_text_knows_the_rank_where_the_rate_is_given(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    values = tiny_recipe(
        adapter={"rank": "auto"}, training={"learning_rate": 1e-3, "steps": None}
    ).model_dump()
    values["corpus"]["source"] = "nowhere"
    (tmp_path / "mine.yaml").write_text(strict_yaml.dump(values))
    found = CliRunner().invoke(app, ["plan", str(tmp_path / "mine.yaml")])
    assert found.output.splitlines()[-2] == "training        rank 8 (auto)"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ["--tokens", "4096000"],
            "learning rate 0.001 (auto: lora, width 768, 1000 steps), rank 64 (auto)",
        ),
        (
            ["--family", "bert", "--tokens", "4096000"],  # masked: a lower rate, as ft finetune takes
            "learning rate 0.00056 (auto: lora, width 768, 1000 steps), rank 64 (auto)",
        ),
        ([], "learning rate auto: the text decides; give --tokens"),
    ],
)
def test_a_plan_of_a_shape_goes_by_the_tokens_that_are_given(asked: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["plan", "--family", "gpt2", *asked])
    assert found.output.splitlines()[-1].startswith(f"training        {said}")


def test_a_plan_says_nothing_of_auto_where_every_number_is_given() -> None:
    found = CliRunner().invoke(app, ["plan", "quickstart-bert", "--no-probe"])
    assert "auto" not in found.output


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_the_table_can_be_planned_at_another_size(family: str) -> None:
    small = count(shape(family, 2, 64, 4), Adapter())
    deep = count(shape(family, 4, 64, 4), Adapter())
    assert small.trained > 0
    if family != "albert":  # whose layers share one set of matrices
        assert deep.trained == 2 * small.trained
        assert deep.parameters > small.parameters
    assert (deep.layers, deep.width) == (4, 64)


def test_bytes_a_device_by_the_formula_that_is_stated() -> None:
    sizes = count(shape("gpt2", 2, 64, 4), Adapter(rank=4))
    one = need(sizes, Adapter(rank=4), number=4, tokens_at_once=100, dtype="bfloat16")
    assert one.weights == (2 * sizes.parameters + 4 * sizes.trained) / 4
    assert (one.gradients, one.optimizer) == (sizes.trained, 2 * sizes.trained)
    assert one.activations == 34 * 100 * 64 * 2
    assert one.activations_checkpointed == 2 * 100 * 64 * 2 + 34 * 100 * 64
    full = Adapter(method="full")
    everything = need(count(shape("gpt2", 2, 64, 4), full), full, 1, 100, "float32")
    assert everything.known == 16 * sizes.parameters


def test_it_says_whether_it_fits_and_how_many_devices_would_do() -> None:
    plan = Adapter(method="full")
    sizes = count(shape("gpt2", 96, 12288, 96), plan)
    too_few = lines(sizes, plan, Devices(8, 80), Workload(2048))
    assert any(line.startswith("does not fit") and line.count("would do") == 1 for line in too_few)
    enough = lines(sizes, plan, Devices(64, 80), Workload(2048))
    assert any(line.startswith("fits") for line in enough)
    assert any("an estimate" in line for line in enough)


def test_a_time_needs_a_measured_rate() -> None:
    sizes = count(shape("gpt2", 2, 64, 4), Adapter())
    assert "unknown" in lines(sizes, Adapter(), Devices(1, 24), Workload(2048))[-1]
    asked = lines(sizes, Adapter(), Devices(1, 24), Workload(2048, tokens=7.2e6, tokens_per_second=1000))
    assert asked[-1].startswith("time            2.0 hours for 7,200,000 tokens at 1,000 a second")


def test_the_command_of_the_issue_answers_without_loading_any_weights() -> None:
    asked = ["--family", "opt", "--layers", "96", "--width", "12288", "--heads", "96", "--devices", "64x80GB"]
    done = subprocess.run(
        [sys.executable, "-c", f"""
import resource, sys
from typer.testing import CliRunner
from ft_toolkit.cli import app
found = CliRunner().invoke(app, ["plan", *{asked!r}])
print(found.stdout)
print(found.stderr, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *said, megabytes = done.stdout.split()
    assert "parameters" in said
    assert not done.stderr.strip()  # no library's warning
    assert int(megabytes) < 4000  # of 700,000 in float32


@pytest.mark.parametrize(
    "asked", [["quickstart"], ["--config", str(shipped.starter("bert") / "config.json")]]
)
def test_a_recipe_or_a_config_file_will_do(asked: list[str]) -> None:
    found = CliRunner().invoke(app, ["plan", *asked])
    name = "gpt2" if asked == ["quickstart"] else "bert"
    base = load_base(f"starter/{name}")
    assert f"parameters      {sum(p.numel() for p in base.model.parameters()):,} " in found.output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--family", "opp"], "--family: expected one of gpt2"),
        (
            ["--family", "opt", "--width", "100", "--heads", "12"],
            "--width: expected a multiple of the 12 heads",
        ),
        (["--family", "opt", "--devices", "64"], "--devices: expected a number and a size, such as 64x80GB"),
        (["--family", "opt", "--method", "olora"], "--method: expected 'lora', 'rslora'"),
        ([], "ft plan: expected a recipe, --family or --config, found none or several"),
        (
            ["--config", "nowhere.json"],
            "nowhere.json: expected a config.json with a model_type, found nothing",
        ),
        (
            ["--family", "gpt2", "--dtype", "int8"],
            "--dtype: expected one of float32, bfloat16, 4bit, found int8",
        ),
        (["--family", "gpt2", "--layers", "999999999"], "--layers: expected 1 to 1,000, found 999999999"),
        (["--family", "gpt2", "--layers", "0"], "--layers: expected 1 to 1,000, found 0"),
        (["--family", "gpt2", "--width", "99999999999"], "--width: expected 1 to 1,000,000, found"),
        (["--family", "gpt2", "--positions", "999999999999"], "--positions: expected 1 to 10,000,000, found"),
        (["--family", "gpt2", "--at-once", "0"], "--at-once: expected 1 to 1,000,000,000, found 0"),
        (["--family", "gpt2", "--rank", "999999999"], "--rank: expected less than or equal to 4096"),
        (["--family", "gpt2", "--tokens", "-5"], "--tokens: expected a number above zero, found -5"),
        (["--family", "gpt2", "--tokens", "nan"], "--tokens: expected a number above zero, found nan"),
        (["--family", "gpt2", "--tokens", "inf"], "--tokens: expected a number above zero, found inf"),
        (
            ["--family", "gpt2", "--tokens", "9", "--tokens-per-second", "0"],
            "--tokens-per-second: expected a number above zero, found 0",
        ),
    ],
)
def test_a_mistake_is_one_line(asked: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["plan", *asked])
    assert found.exit_code == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_config_without_an_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(FtError, match=r"expected a config\.json with its model_type"):
        read_config(tmp_path)


def test_devices_are_read_as_written() -> None:
    assert parse_devices("64x80GB") == Devices(64, 80)
    assert parse_devices("1 x 7.5 gb") == Devices(1, 7.5)
    for wrong in ("0x80GB", "80GB", "64x80", "x"):
        with pytest.raises(FtError):
            parse_devices(wrong)


def test_a_config_that_asks_for_ten_million_layers_is_refused_before_it_is_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 10000000}')
    with pytest.raises(FtError, match=r"n_layer: expected at most 1,024, found 10000000"):
        read_config(tmp_path)
