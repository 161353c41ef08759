"""ft compare on several runs and corpora: a matrix, gates, kept base scores, seeds."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ft_toolkit import shipped
from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import How
from ft_toolkit.judging.ranking import ranking
from ft_toolkit.judging.verdict import judge, kl_words
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_runs
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.seeds import finetune_seeds
from ft_toolkit.session import Options, score_cache_path

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """Two adapters of one causal base, and two masked ones on bases of different weights."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, family, seed in (("a", "gpt2", 0), ("b", "gpt2", 1), ("m", "bert", 0), ("d", "distilbert", 0)):
        values = {
            "name": name,
            "base": str(checkpoints[family]),
            "corpus": {"source": str(small_corpus)},
            "training": {
                "steps": 3,
                "block_tokens": 32,
                "batch_tokens": 256,
                "learning_rate": 0.01,
                "seed": seed,
            },
            "judging": {"general": None},
        }
        found[name] = finetune(
            Recipe.model_validate(values), folder, options=Options(judge=False, gate=False), screen=QUIET
        )
    return found


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two corpora of unseen text, nine short documents each."""
    folders = []
    for corpus in ("italian-cooking", "general-probe"):
        folder = tmp_path_factory.mktemp("texts") / corpus
        folder.mkdir()
        for path in sorted(shipped.corpus(corpus).glob("*.md"))[:9]:
            (folder / path.name).write_text(path.read_text()[:300])
        folders.append(str(folder))
    return folders


def test_adapters_times_corpora_is_a_matrix(runs: dict[str, Run], texts: list[str]) -> None:
    found = compare_runs([runs["a"], runs["b"]], texts, screen=QUIET)
    assert [(c.name, [part.corpus for part in c.corpora]) for c in found] == [
        ("a", ["italian-cooking", "general-probe"]),
        ("b", ["italian-cooking", "general-probe"]),
    ]
    for one, other in zip(found[0].corpora, found[1].corpora, strict=True):
        assert one.base == other.base  # one base, scored once
        assert one.adapter != other.adapter
        assert one.holm_p_value is not None
    drifts = [c.drift for c in found]
    assert all(drift is not None and drift.kl_nats.value > 0 for drift in drifts) and drifts[0] != drifts[1]
    table = ranking(found, common_text=True)
    assert isinstance(table, Table)
    cells = list(table.columns[-1].cells)
    assert table.columns[-1].header == "drift, nats a token"
    assert sorted(cells) == sorted("{} ({})".format(*kl_words(d.kl_nats)) for d in drifts if d is not None)


def test_two_adapters_on_one_set_of_weights_score_as_each_alone(
    runs: dict[str, Run], texts: list[str]
) -> None:
    together = compare_runs([runs["a"], runs["b"]], texts[:1], screen=QUIET)
    alone = [compare_runs([runs[name]], texts[:1], screen=QUIET)[0] for name in ("a", "b")]
    assert [c.corpora for c in together] == [c.corpora for c in alone]


def test_the_second_comparison_reads_the_bases_scores_and_says_the_same(
    runs: dict[str, Run],
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FT_CACHE", str(tmp_path))
    first = compare_runs([runs["m"]], texts[:1], screen=QUIET)[0]
    assert score_cache_path().stat().st_size > 0
    capfd.readouterr()
    assert compare_runs([runs["m"]], texts[:1], screen=Screen())[0] == first
    (stage,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("other ")]
    done, total = re.match(r"other (\d+)/(\d+) ", stage).groups()  # type: ignore[union-attr]
    assert done == total  # though half of it was not computed
    told = CliRunner().invoke(app, ["cache", "--clear"])
    assert "cleared" in told.output
    assert not score_cache_path().exists()


def test_masked_models_of_different_bases_are_not_mixed_with_causal_ones(
    runs: dict[str, Run], texts: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    compare_runs([runs["a"], runs["m"]], texts[:1], screen=Screen())
    assert "different quantities" in " ".join(capfd.readouterr().out.split())


def test_no_run_is_scored_on_text_that_another_one_was_trained_on(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    trained = next(row for row in runs["a"].read_table("documents.parquet") if row["split"] == "train")
    source = Path(runs["a"].recipe.corpus.source) / trained["source"]
    shutil.copy(source, tmp_path / "seen.md")
    with pytest.raises(FtError, match="was not trained on"):
        compare_runs([runs["b"], runs["a"]], [str(tmp_path)], screen=QUIET)


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--fail-if-worse"], 0), (["--require-gain", "99%"], 3), (["--require-gain", "lots"], 2)],
)
def test_a_gate_decides_the_exit_code(
    runs: dict[str, Run], texts: list[str], flags: list[str], code: int
) -> None:
    result = CliRunner().invoke(app, ["compare", str(runs["a"].folder), "--on", texts[0], "--json", *flags])
    assert result.exit_code == code
    if code != 2:
        assert json.loads(result.stdout)["comparisons"][0]["name"] == "a"  # what was found is still told


@pytest.mark.parametrize("protocol", ["rolling", "concatenated", "document"])
def test_every_causal_protocol_stands_beside_its_result(
    runs: dict[str, Run], texts: list[str], protocol: str
) -> None:
    found = compare_runs([runs["a"]], texts[:1], How(protocol=protocol), screen=QUIET)[0].as_dict()
    assert found["protocol"]["name"] == protocol
    assert found["corpora"][0]["difference"]["documents"] == 9


def test_concatenated_text_marks_its_interval_as_approximate(runs: dict[str, Run], texts: list[str]) -> None:
    many = compare_runs([runs["a"]], ["package:general-probe"], How(protocol="concatenated"), screen=QUIET)[0]
    assert many.corpora[0].difference.method == "bootstrap, approximate"


@pytest.mark.parametrize("name", ["a", "m"])
def test_an_adapter_that_does_nothing_differs_by_exactly_nothing_and_nothing_is_concluded(
    runs: dict[str, Run], texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FT_CACHE", str(tmp_path / "cache"))
    idle = Run.open(shutil.copytree(runs[name].folder, tmp_path / "idle"))
    weights = load_file(idle.adapter_folder / "adapter_model.safetensors")
    untrained = {key: w * 0 if ".lora_B." in key else w for key, w in weights.items()}
    save_file(untrained, idle.adapter_folder / "adapter_model.safetensors")
    idle.record(files=idle.trained_files())
    again = [compare_runs([idle], texts, screen=QUIET)[0] for _ in range(2)]  # then with kept base scores
    for found in (*again, compare_runs([idle], [], screen=QUIET)[0]):
        for corpus in found.corpora:
            difference = corpus.difference
            assert corpus.adapter == corpus.base
            documents = 9 if corpus.kind == "other" else 8
            assert (difference.documents, difference.better, difference.worse) == (documents, 0, 0)
            assert (difference.nats_per_token, difference.low, difference.high) == (0.0, 0.0, 0.0)
            assert (difference.smallest_visible, difference.p_value) == (0.0, 1.0)
        assert "cannot tell a difference from the base" in judge(found).headline
    assert found.gap is not None
    assert (found.gap.excess_nats, found.gap.low, found.gap.high) == (0.0, 0.0, 0.0)


def test_bfloat16_is_labelled(
    runs: dict[str, Run], texts: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    found = compare_runs([runs["a"]], texts[:1], How(precision="bfloat16"), screen=Screen())[0]
    assert found.protocol.precision == "bfloat16"
    assert "trust the differences" in " ".join(capfd.readouterr().out.split())


def test_seeds_repeat_the_training_and_tell_the_spread(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = finetune_seeds(tiny_recipe("gpt2", training={"steps": 2}), 2, tmp_path, screen=Screen())
    assert [run.folder.name for run in runs] == ["tiny-gpt2", "tiny-gpt2-seed1"]
    assert [run.recipe.training.seed for run in runs] == [0, 1]
    said = " ".join(capfd.readouterr().out.split())
    assert "over 2 training seeds" in said
    assert "standard deviation" in said
