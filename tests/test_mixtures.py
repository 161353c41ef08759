"""A recipe with several sources: read, screened and split together, judged apart and as one."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ft_toolkit import halving
from ft_toolkit.cli import app
from ft_toolkit.compare import compare_from
from ft_toolkit.corpus_look import look, recipe_for
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.inputs import recipe_asked_for
from ft_toolkit.judging import drift
from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.judging.verdict import judge
from ft_toolkit.judging.verdict_table import verdict_table
from ft_toolkit.ladder import ladder
from ft_toolkit.material import laid_out
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import read_recipe
from ft_toolkit.reporting.overview import summary
from ft_toolkit.rescoring import compare_run
from ft_toolkit.reuse import current_run
from ft_toolkit.run import Run, list_runs
from ft_toolkit.sections import Corpus, Recipe, Split
from ft_toolkit.text.splitting import read_parts
from ft_toolkit.training.mixture import epoch_rows
from ft_toolkit.trials import Ground, Settings
from ft_toolkit.tune import Asked, tune

TinyRecipe = Callable[..., Recipe]
WORDS = [f"{first}{last}" for first in "bacedifoguhakelimonu" for last in ("rt", "nd", "sk", "lm", "pt")]
ONE, TWO = "first.jsonl", "second.jsonl"


def sentence(number: int, words: int = 24) -> str:
    """One of its own: no two share a run of five words but by chance."""
    return " ".join(Random(number).choices(WORDS, k=words))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources in which ten texts of the first are nearly in the second, too, and five are copies."""
    folder = tmp_path_factory.mktemp("mixture")
    first = [{"text": sentence(n), "patient": f"p{n}"} for n in range(80)]
    twins = [{"body": f"{sentence(n)} twin", "patient": ""} for n in range(10)]
    copies = [{"body": sentence(n), "patient": ""} for n in range(20, 25)]
    alike = [{"body": sentence(n + 500), "patient": f"p{n}"} for n in range(40, 50)]
    own = [{"body": sentence(n + 1000), "patient": f"q{n}"} for n in range(60)]
    for name, rows in (("first", first), ("second", [*twins, *copies, *alike, *own])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def sources(folder: Path, **keys: Any) -> list[dict[str, Any]]:
    return [
        {"source": str(folder / "first.jsonl"), **keys},
        {"source": str(folder / "second.jsonl"), "text": "body", **keys},
    ]


@pytest.fixture(scope="module")
def run(checkpoints: dict[str, Path], tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    mixture = sources(tables)
    mixture[0]["weight"] = 3
    plan = {"steps": 3, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01, "replay": 0.1}
    values = {"name": "mixed", "base": str(checkpoints["gpt2"]), "corpus": mixture, "training": plan}
    recipe = Recipe.model_validate(values | {"judging": {"general": None, "canaries": 2}})
    return finetune(recipe, tmp_path_factory.mktemp("runs"), screen=Screen(quiet=True))


def test_a_twin_a_copy_and_a_group_never_straddle_parts_across_sources(tables: Path) -> None:
    for seed in range(4):
        mixture = [
            Corpus.model_validate(each)
            for each in sources(tables, split={"seed": seed, "test": 0.4, "group": "patient"})
        ]
        reading, parts = read_parts(*mixture)
        assert reading.copies == 5
        part_of = {document.id: name for name, some in parts for document in some}
        for n in range(10):  # of twins one may be left out, the rest stays together
            pair = {
                part_of.get(f"first.jsonl: first.jsonl#{n}"),
                part_of.get(f"second.jsonl: second.jsonl#{n}"),
            }
            assert len(pair - {None}) == 1
        for n in range(40, 50):
            assert part_of[f"{ONE}: {ONE}#{n}"] == part_of[f"{TWO}: {TWO}#{n - 40 + 15}"]


def test_each_source_is_split_by_its_own_shares(tables: Path) -> None:
    first, second = (Corpus.model_validate(each) for each in sources(tables))
    second = second.model_copy(update={"split": Split(test=0.6)})
    sizes = Counter((d.corpus, name) for name, some in read_parts(first, second)[1] for d in some)
    assert sizes["second.jsonl", "test"] > sizes["second.jsonl", "train"]
    assert sizes["first.jsonl", "test"] < sizes["first.jsonl", "train"]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_an_epoch_reads_three_times_as_many_tokens_of_the_heavier_source(
    family: str, tiny_recipe: TinyRecipe, tables: Path
) -> None:
    mixture = sources(tables)
    mixture[0]["weight"] = 3
    recipe = tiny_recipe(family, corpus=mixture)
    base = load_base(recipe.base)
    _, rows, _ = laid_out(recipe, base, read_parts(*recipe.corpora)[1])
    assert {row.corpus for row in rows} == {"first.jsonl", "second.jsonl"}
    whole = sum(len(row.input_ids) for row in rows)
    for epoch in range(3):
        read = Counter[str]()
        for row in epoch_rows(rows, 0, epoch):
            read[row.corpus] += len(row.input_ids)
        assert abs(read["first.jsonl"] - whole * 3 / 4) <= 32
        assert abs(read["second.jsonl"] - whole / 4) <= 32
    plain = laid_out(tiny_recipe(family, corpus=sources(tables)), base, read_parts(*recipe.corpora)[1])[1]
    assert {row.weight for row in plain} == {None}  # no weight anywhere: each is read once


def test_the_verdict_has_a_row_for_each_source_and_one_for_all(run: Run) -> None:
    comparison = compare_from(run)
    (whole,) = comparison.of_kind("held-out")
    apart = comparison.of_kind("source")
    assert [each.corpus for each in apart] == ["first.jsonl", "second.jsonl"]
    assert whole.corpus == "first.jsonl + second.jsonl"
    for side in ("base", "adapter"):
        totals = [getattr(each, side) for each in apart]
        assert sum(each.tokens for each in totals) == getattr(whole, side).tokens
        assert sum(each.nll_nats for each in totals) == pytest.approx(getattr(whole, side).nll_nats)
    names = [name for name, *_ in verdict_table(comparison, judge(comparison)).rows]
    assert names[:3] == ["held-out text", "  first.jsonl", "  second.jsonl"]
    rows = run.read_table("documents.parquet")
    test = [row for row in rows if row["split"] == "test"]
    assert sum(each.difference.documents for each in apart) == len(test)
    assert {row["corpus"] for row in rows} == {"first.jsonl", "second.jsonl"}


def test_a_mixture_is_compared_listed_shown_and_taken_over_like_any_run(run: Run) -> None:
    again = compare_run(run, screen=Screen(quiet=True))
    assert again.corpora == compare_from(run).corpora
    assert TokenScores.read(run).corpora[0].documents[0].source == "first.jsonl"
    assert summary(run).percent == again.subjects[0].difference.percent
    page = (run.folder / "report.html").read_text()
    assert "second.jsonl" in page and "weight 3" in page
    assert str(run.folder.parent) not in json.dumps(run.facts)  # no path of this machine
    asked = recipe_asked_for(run.recipe, run.facts["asked"])
    found = current_run(asked, run.folder.parent)
    assert found is not None and found.folder == run.folder
    lighter = [corpus.model_copy(update={"weight": None}) for corpus in asked.corpora]
    assert current_run(asked.model_copy(update={"corpus": lighter}), run.folder.parent) is None


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["compare", "--strength", "0,1"], 0, ("held-out text", "first.jsonl", "second.jsonl")),
        (["compare", "--details"], 0, ("first.jsonl: ", "second.jsonl: ")),
        (["audit", "--canaries"], 0, ("2 canaries among",)),
        (["push", "--to", "me/mixed"], 2, ("Send it along: --with-base",)),
        (["resume"], 2, ("expected an unfinished run",)),
        (["report"], 0, ("report.html",)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_takes_a_weighted_mixture_with_replay_and_canaries(
    run: Run, command: list[str], code: int, said: tuple[str, ...]
) -> None:
    found = CliRunner().invoke(app, [command[0], str(run.folder), *command[1:]])
    assert found.exit_code == code, found.output
    assert all(words in found.output for words in said)


def test_every_rung_of_a_mixture_s_ladder_reads_the_same_tokens_of_both_sources(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "SAMPLE_TOKENS", 8)
    found = ladder(run.recipe, tmp_path, "cpu", Screen(quiet=True))
    assert [rung.name for rung in found.rungs] == ["base", "unigram", "scratch", "lora", "full"]
    verdict = compare_from(run).subjects[0]
    assert {rung.whole.tokens for rung in found.rungs} == {verdict.base.tokens}
    assert len({(rung.training or {})["tokens"] for rung in found.rungs[2:]}) == 1
    for name in ("scratch", "lora", "full"):
        (judged,) = (r for r in list_runs(tmp_path) if r.recipe.adapter.method == name)
        assert {each.corpus for each in compare_from(judged).corpora} >= {ONE, TWO}


def test_settings_are_searched_for_a_mixture_and_its_tuned_recipe_has_the_same_sources(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(halving, "lengths", lambda steps: [steps])
    monkeypatch.setattr(
        Ground, "settings", lambda ground: [Settings(1.0, 8, "auto", 0.1), Settings(3.0, 8, "auto", 0.1)]
    )
    Path("mixed.yaml").write_text(yaml.safe_dump(run.recipe.model_dump(exclude={"name"})), encoding="utf-8")
    to = tune(Asked("mixed.yaml", (), "10m"), Path("runs"), "cpu", Screen(quiet=True))
    tuned = read_recipe(to).recipe
    assert tuned.corpora == run.recipe.corpora
    assert tuned.training.learning_rate in (0.01, 0.03)
    assert len(list_runs(Path("runs/mixed-tune"))) == 2


def test_a_source_that_gets_another_verdict_than_the_whole_is_named(run: Run) -> None:
    comparison = compare_from(run)
    assert not any("alone" in line for line in judge(comparison).caveats)
    corpora = []
    for each in comparison.corpora:
        if each.corpus == "second.jsonl":
            worse = {"nats_per_token": 0.2, "low": 0.1, "high": 0.3}
            each = each.__class__.from_dict(
                each.as_dict("perplexity") | {"difference": each.as_dict("perplexity")["difference"] | worse}
            )
        corpora.append(each)
    said = judge(comparison.__class__(**{**vars(comparison), "corpora": corpora})).caveats
    assert any(line.startswith("Of second.jsonl alone") and "higher" in line for line in said)


def test_ft_corpus_shows_each_source(tables: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    values = json.dumps({"base": "starter/gpt2", "corpus": sources(tables)})
    recipe.write_text(values)
    found = look(recipe_for(str(recipe), None, ["corpus.1.weight=4"]))
    assert [(each.label, each.weight) for each in found.sources] == [
        ("first.jsonl", None),
        ("second.jsonl", 4),
    ]
    assert sum(each.documents for each in found.sources) == found.documents
    assert found.parts == {
        name: sum(each.parts[name] for each in found.sources) for name in ("train", "validation", "test")
    }


def test_a_name_tells_apart_what_has_one_file_name(tables: Path, tmp_path: Path) -> None:
    other = tmp_path / "first.jsonl"
    other.write_text("\n".join(json.dumps({"text": sentence(n)}) for n in range(3000, 3040)))
    values = [{"source": str(tables / "first.jsonl")}, {"source": str(other), "name": "others"}]
    parts = read_parts(*(Corpus.model_validate(each) for each in values))[1]
    assert {document.corpus for document in parts.train} == {"first.jsonl", "others"}
    assert (
        Recipe.model_validate({"name": "x", "base": "y", "corpus": values}).text_label
        == "first.jsonl + others"
    )


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ("[{source: a, weight: 0}, {source: b}]", r"corpus\.0\.weight: expected greater than 0, found 0"),
        ("[{source: a}, {source: b, weight: -1}]", r"corpus\.1\.weight: expected greater than 0"),
        ("[{source: a}, {source: a}]", r"corpus: expected each source once \(a\), found 2 sections"),
        ("[{source: a/x.txt}, {source: b/x.txt}]", r"expected a name: for one of two .* \(x\.txt\)"),
        ("[{source: a}, {source: b, near_duplicates: 0.9}]", "expected the same near_duplicates in each"),
        ("[{source: a}, {sorce: b}]", r"corpus\.1\.sorce: unknown key; did you mean 'source'\?"),
        ("{source: a, weight: 2}", "expected a list of sources where one has a weight"),
        ("[]", r"corpus: expected List should have at least 1"),
    ],
)
def test_a_mixture_that_cannot_be_meant_gets_one_clear_line(corpus: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: x\ncorpus: {corpus}\n")
    with pytest.raises(FtError, match=said):
        read_recipe(path)


def test_an_override_says_which_source_it_means(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: x\ncorpus: [{source: a}, {source: b}]\n")
    assert read_recipe(path, ["corpus.1.split.seed=5"]).recipe.corpora[1].split.seed == 5
    for key in ("corpus.weight", "corpus.2.weight", "corpus.one.weight", "corpus.0"):
        with pytest.raises(
            FtError, match=r"expected corpus\.0\.KEY to corpus\.1\.KEY, since corpus is a list"
        ):
            read_recipe(path, [f"{key}=3"])


def test_a_source_without_text_of_its_own_is_named(tables: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies.jsonl"
    copies.write_text("\n".join(json.dumps({"text": sentence(n)}) for n in range(80)))
    nearly = tmp_path / "nearly.jsonl"
    nearly.write_text("\n".join(json.dumps({"text": f"{sentence(n)} twin"}) for n in range(80)))
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": " "}\n')
    first = Corpus(source=str(tables / "first.jsonl"))
    for path, said in (
        (copies, "expected at least one document with text, found 80 copies of another source's"),
        (nearly, r"corpus nearly\.jsonl: expected at least 20 documents .* found 0"),
        (empty, "expected at least one document with text, found 1 empty documents"),
    ):
        with pytest.raises(FtError, match=said):
            read_parts(first, Corpus(source=str(path)))


def test_unreadable_files_of_every_source_are_left_out_where_that_is_asked(
    checkpoints: dict[str, Path], tables: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        shutil.copy(tables / f"{name}.jsonl", tmp_path / name)
        (tmp_path / name / "broken.jsonl").write_bytes(b'{"text": "\xff", "body": ""}\n')
    corpora = sources(tmp_path)
    for each, name in zip(corpora, ("first", "second"), strict=True):
        each["source"] = str(tmp_path / name)
    plan = {"steps": 1, "block_tokens": 32, "batch_tokens": 64, "replay": 0}
    recipe = {"base": str(checkpoints["gpt2"]), "corpus": corpora, "training": plan}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe | {"judging": {"general": None}}))  # JSON is YAML
    asked = ["finetune", str(tmp_path / "mine.yaml"), "--runs", str(tmp_path / "runs"), "--no-judge"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and "broken.jsonl" in refused.output
    done = CliRunner().invoke(app, [*asked, "--skip-unreadable"])
    assert done.exit_code == 0, done.output
    made = Run.open(tmp_path / "runs" / "mine")
    assert made.facts["documents"]["unreadable"] == 2
    assert [corpus.skip_unreadable for corpus in made.recipe.corpora] == [True, True]
