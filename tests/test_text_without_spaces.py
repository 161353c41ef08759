"""Text written without spaces, from the recipe to comparison.json: no word count, and every other figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from ft_toolkit.artefacts import read_json
from ft_toolkit.cli import app
from ft_toolkit.finetune import finetune
from ft_toolkit.metrics import DomainPerplexity
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "comparison.schema.json").read_text())
SENTENCES = {
    "Chinese": (["水", "米饭", "面条", "牛肉", "豆腐", "鸡蛋"],
                "先把{0}放进锅里，加入适量的{1}，用小火慢慢煮熟，最后撒上一点盐和{2}，趁热端上桌给家人吃。"),
    "Japanese": (["水", "ご飯", "うどん", "牛肉", "豆腐", "たまご"],
                 "まず{0}を鍋に入れて、{1}を加え、弱火でゆっくり煮込みます。最後に塩と{2}をのせて、熱いうちに食べます。"),
    "Thai": (["น้ำ", "ข้าว", "เส้นหมี่", "เนื้อวัว", "เต้าหู้", "ไข่"],
             "ใส่{0}ลงในหม้อแล้วเติม{1}ต้มด้วยไฟอ่อนจนสุกโรยเกลือและ{2}แล้วยกเสิร์ฟตอนร้อนๆ"),
}  # fmt: skip


@pytest.fixture(scope="module", params=SENTENCES)
def run(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    things, sentence = SENTENCES[request.param]
    folder = tmp_path_factory.mktemp("text")
    for number, some in enumerate(list(product(things, repeat=3))[::3]):
        (folder / f"{number:03}.txt").write_text(sentence.format(*some), encoding="utf-8")
    recipe = Recipe.model_validate({
        "name": "unspaced",
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(folder), "near_duplicates": None},  # all are one sentence
        "training": {"steps": 3, "block_tokens": 64, "batch_tokens": 512, "learning_rate": 0.01},
        "judging": {"general": None},
    })  # fmt: skip
    return finetune(recipe, tmp_path_factory.mktemp("runs"), options=Options(gate=False))


def test_it_is_judged_to_the_end_without_word_figures(run: Run) -> None:
    found = read_json(run.folder / "comparison.json")
    jsonschema.validate({"schema": 7, "comparisons": [found]}, SCHEMA)
    json.dumps(found, allow_nan=False)
    for part in found["corpora"]:
        for side in ("base", "adapter"):
            totals = part[side]
            assert totals["words"] is None
            assert part[f"{side}_word_perplexity"] is None
            nats_a_token = totals["nll_nats"] / totals["tokens"]
            assert part[f"{side}_perplexity"] == pytest.approx(math.exp(nats_a_token))
            assert part[f"{side}_bits_per_byte"] == pytest.approx(
                totals["nll_nats"] / totals["bytes"] / math.log(2)
            )
    rows = run.read_table("scores/documents.parquet")
    assert {row["words"] for row in rows if row["split"] == "held-out"} == {None}


def test_its_details_and_its_metric_name_no_words(run: Run) -> None:
    shown = CliRunner().invoke(app, ["compare", str(run.folder), "--details"])
    assert shown.exit_code == 0
    assert "written without spaces" in shown.output
    assert "word perplexity" not in shown.output
    found = DomainPerplexity(run.recipe.base).compute(predictions=["把水烧开，然后加盐。"])
    assert found["word_perplexity"] is None
    assert found["words"] is None


def test_one_long_word_ends_no_run(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Letters of genes: spaces are the script's habit, but there are none."""
    folder = tmp_path / "genes"
    folder.mkdir()
    for number in range(90):
        bases = f"{number * 7919 + 1:040b}".replace("0", "AC").replace("1", "GT")
        (folder / f"{number}.txt").write_text(bases * 4)
    run = finetune(
        tiny_recipe(corpus={"source": str(folder)}), tmp_path / "runs", options=Options(gate=False)
    )
    part = read_json(run.folder / "comparison.json")["corpora"][0]
    assert part["base"]["words"] == part["difference"]["documents"]
    assert part["base_word_perplexity"] is None
