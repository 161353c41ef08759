"""A damaged file of a run is made again, to the same bytes, or named on one line; no number moves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result
from unbroken import contents, scores_in_this_process

from ft_toolkit import finetune as story
from ft_toolkit.cli import app
from ft_toolkit.judging import integrity
from ft_toolkit.run import Run
from ft_toolkit.training import state

NAME = "mine"
SNAPSHOT_AT_STEP = 11  # behind the checkpoint of step 10; the one of step 8 is there too


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return b""


def bit_flipped(data: bytes) -> bytes:
    """In the middle; in text the last bit of a digit, so that it stays what it was, with another number."""
    digits = [place for place in range(len(data)) if data[place] in b"2345678"]
    is_text = data.isascii()
    place = digits[len(digits) // 2] if is_text and digits else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def flipped_near_the_end(data: bytes) -> bytes:
    """Where Parquet and pretty JSON have what describes the rest."""
    place = len(data) - len(data) // 16 - 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def removed(data: bytes) -> None:
    return None


DAMAGES = (truncated, emptied, bit_flipped, flipped_near_the_end, removed)
DATASET = ["documents.parquet", "known_text.parquet"]
ALWAYS = ["run.json", "recipe.yaml", "metrics.jsonl", *DATASET]
CHECKPOINT = [
    f"checkpoints/step-00000010/{name}"
    for name in (
        "weights.safetensors",
        "best.safetensors",
        "optimizers.safetensors",
        "state.json",
        "metrics.jsonl",
        "manifest.json",
    )
]
ADAPTER = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
JUDGED = [*ADAPTER, "integrity.json", "scores/tokens.parquet", "scores/documents.parquet", "comparison.json"]
FILES = {"training": ALWAYS + CHECKPOINT, "judged": ALWAYS + JUDGED, "ended": ALWAYS + JUDGED}
VERBS = {"training": ("finetune", "resume"), "judged": ("finetune", "resume"), "ended": ("compare", "reuse")}
# what once was passed over in silence, or is the likeliest; the whole table is for `make torture`
EVERY_DAY = {
    ("training", "metrics.jsonl", "bit_flipped", "resume"),
    ("training", "recipe.yaml", "bit_flipped", "finetune"),
    ("judged", "metrics.jsonl", "removed", "finetune"),
    ("judged", "comparison.json", "bit_flipped", "resume"),
    ("judged", "adapter/adapter_model.safetensors", "truncated", "finetune"),
}


def cases() -> Iterator[Any]:
    for moment, files in FILES.items():
        for file in files:
            for damage in DAMAGES:
                for verb in VERBS[moment]:
                    is_quick = verb == "compare" or (moment, file, damage.__name__, verb) in EVERY_DAY
                    marks = [] if is_quick else [pytest.mark.torture]
                    yield pytest.param(
                        moment,
                        file,
                        damage,
                        verb,
                        id=f"{moment}-{file}-{damage.__name__}-{verb}",
                        marks=marks,
                    )


@pytest.fixture(scope="module")
def snapshots(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """One run at three moments: training/mine, judged/mine (all is there, but its end), ended/mine."""
    place = tmp_path_factory.mktemp("snapshots")
    corpus = place / "medicine"
    corpus.mkdir()
    for path in sorted(small_corpus.iterdir())[:20]:
        (corpus / path.name).write_text(path.read_text()[:400])
    values = {
        "name": NAME,
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(corpus)},
        "adapter": {"dropout": 0.1},
        "training": {"steps": 16, "block_tokens": 32, "batch_tokens": 128, "learning_rate": 0.01},
        "judging": {"general": None},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(values))
    end, append = story._ended, Run.append_metrics

    def ended(run: Run, *arguments: Any) -> None:
        shutil.copytree(run.folder, place / "judged" / NAME)
        end(run, *arguments)

    def appended(run: Run, line: dict[str, object]) -> None:
        append(run, line)
        if line["step"] == SNAPSHOT_AT_STEP:
            shutil.copytree(run.folder, place / "training" / NAME)

    patch = pytest.MonkeyPatch()
    patch.setattr(integrity, "_in_a_fresh_process", scores_in_this_process)
    patch.setattr(state, "SPARE_BYTES", 0)
    with pytest.MonkeyPatch.context() as once:
        once.setattr(story, "_ended", ended)
        once.setattr(Run, "append_metrics", appended)
        done = ft("finetune", place, place / "ended")
    assert done.exit_code == 0, done.output
    yield place
    patch.undo()


def ft(verb: str, place: Path, runs: Path) -> Result:
    words = {
        "finetune": ["finetune", place / "recipe.yaml", "--runs", runs],
        "reuse": ["finetune", place / "recipe.yaml", "--runs", runs, "--reuse"],
        "resume": ["resume", runs / NAME],
        "compare": ["compare", runs / NAME, "--details"],
    }
    return CliRunner().invoke(app, [str(word) for word in words[verb]], prog_name="ft")


@pytest.mark.parametrize(("moment", "file", "damage", "verb"), list(cases()))
def test_a_damaged_file_is_made_again_or_named_and_no_number_moves(
    snapshots: Path,
    tmp_path: Path,
    moment: str,
    file: str,
    damage: Callable[[bytes], bytes | None],
    verb: str,
) -> None:
    runs = tmp_path / "runs"
    path = shutil.copytree(snapshots / moment / NAME, runs / NAME) / file
    found = damage(path.read_bytes())
    path.unlink() if found is None else path.write_bytes(found)
    done = ft(verb, snapshots, runs)
    if done.exit_code:
        assert done.exit_code in (2, 4), done.output
        assert isinstance(done.exception, SystemExit), done.exception
        line = [line for line in done.stderr.splitlines() if not line.startswith("next: ")][-1]
        assert Path(file).name in line and "expected " in line, line
    elif verb == "compare":
        assert figures(done.stdout, runs) == figures(
            ft("compare", snapshots, snapshots / "ended").stdout, snapshots / "ended"
        )
    else:
        assert_made_again(snapshots, runs, file)


def figures(stdout: str, runs: Path) -> str:
    return stdout.replace(str(runs), "")


def assert_made_again(snapshots: Path, runs: Path, file: str) -> None:
    """The run, or the one that was begun beside it, is as the undisturbed one."""
    expected, beside = contents(snapshots / "ended" / NAME), runs / f"{NAME}-2"
    if beside.exists():
        # another name stands in its comparison, and in the hash of what that was made from
        now = contents(beside)
        for name in [*ADAPTER, "metrics.jsonl", *DATASET]:
            assert now[name] == expected[name], name
        mine, other = (Run(folder).comparison for folder in (beside, snapshots / "ended" / NAME))
        assert mine["corpora"] == other["corpora"]
        return
    now = contents(runs / NAME)
    assert [name for name in {**expected, **now} if expected.get(name) != now.get(name)] == []
