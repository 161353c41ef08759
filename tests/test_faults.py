"""What a person can get wrong, a row each: one line with place, want, find and cure, and an exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, BertConfig, BertModel, T5Config
from warm_python import WarmPython

from ft_toolkit import cli, shipped
from ft_toolkit.run import Run


@dataclass
class Ground:
    """Where a fault is laid: a folder of its own, beside the tiny checkpoints and the small corpus."""

    folder: Path
    checkpoints: dict[str, Path]
    corpus: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def recipe(self, **changes: Any) -> str:
        """A recipe file that would work, were it not for the changes."""
        values: dict[str, Any] = {
            "base": str(self.checkpoints["gpt2"]),
            "corpus": {"source": str(self.corpus)},
            "training": {"steps": 3, "block_tokens": 32, "batch_tokens": 128},
            "judging": {"general": None},
        }
        for key, change in changes.items():
            both = isinstance(change, dict) and isinstance(values.get(key), dict)
            values[key] = values[key] | change if both else change
        path = self.folder / "mine.yaml"
        text = yaml.safe_dump(values, sort_keys=False)
        path.write_text(text.replace(f"{self.folder}/", ""))  # as a person writes: from where they stand
        return path.name

    def text(self, text: str) -> dict[str, str]:
        """A corpus of 24 documents that differ in one word."""
        folder = self.folder / "texts"
        folder.mkdir()
        for number in range(24):
            (folder / f"{number}.txt").write_text(text and f"{text} {number}")
        return {"source": str(folder)}

    def checkpoint(self, name: str = "gpt2") -> Path:
        """A checkpoint that may be spoiled."""
        return Path(shutil.copytree(self.checkpoints[name], self.folder / "base"))


@pytest.fixture
def ground(
    tmp_path: Path, checkpoints: dict[str, Path], small_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> Ground:
    monkeypatch.chdir(tmp_path)
    return Ground(tmp_path, checkpoints, small_corpus)


def unknown_key(g: Ground) -> list[str]:
    return ["finetune", g.recipe(training={"stpes": 5})]


def wrong_type(g: Ground) -> list[str]:
    return ["finetune", g.recipe(adapter={"rank": "many"})]


def wrong_override(g: Ground) -> list[str]:
    return ["finetune", g.recipe(), "--set", "training.epochs=-1"]


def missing_recipe(g: Ground) -> list[str]:
    return ["finetune", str(g.folder / "nope.yaml")]


def misspelt_recipe(g: Ground) -> list[str]:
    return ["finetune", "quikstart"]


def missing_corpus(g: Ground) -> list[str]:
    return ["finetune", g.recipe(corpus={"source": str(g.folder / "nowhere")})]


def folder_without_text(g: Ground) -> list[str]:
    (g.folder / "empty").mkdir()
    return ["finetune", g.recipe(corpus={"source": str(g.folder / "empty")})]


def documents_without_text(g: Ground) -> list[str]:
    return ["finetune", g.recipe(corpus=g.text(""))]


def text_in_another_encoding(g: Ground) -> list[str]:
    source = g.text("Tea")["source"]
    Path(source, "5.txt").write_bytes("Käsespätzle".encode("latin-1"))
    return ["finetune", g.recipe(corpus={"source": source})]


def less_than_a_row(g: Ground) -> list[str]:
    return ["finetune", g.recipe(corpus=g.text("Tea"), training={"block_tokens": 64})]


def too_few_documents(g: Ground) -> list[str]:
    (g.folder / "one.txt").write_text("One document alone.")
    return ["finetune", g.recipe(corpus={"source": str(g.folder / "one.txt")})]


def unknown_family(g: Ground) -> list[str]:
    T5Config().save_pretrained(g.folder / "t5")
    return ["finetune", g.recipe(base=str(g.folder / "t5"))]


def no_masked_head(g: Ground) -> list[str]:
    small = BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(small).save_pretrained(g.folder / "headless")
    return ["finetune", g.recipe(base=str(g.folder / "headless"))]


def no_checkpoint(g: Ground) -> list[str]:
    (g.folder / "base").mkdir()
    return ["finetune", g.recipe(base=str(g.folder / "base"))]


def pickled_weights(g: Ground) -> list[str]:
    base = g.checkpoint()
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    return ["finetune", g.recipe(base=str(base))]


def cut_off_weights(g: Ground) -> list[str]:
    base = g.checkpoint()
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return ["finetune", g.recipe(base=str(base))]


def long_blocks(g: Ground) -> list[str]:
    return ["finetune", g.recipe(training={"block_tokens": 65})]


def hub_while_offline(g: Ground) -> list[str]:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    return ["finetune", g.recipe(base="nobody/never-downloaded")]


def unknown_modules(g: Ground) -> list[str]:
    return ["finetune", g.recipe(adapter={"targets": ["q_proj"]})]


def runs_is_a_file(g: Ground) -> list[str]:
    g.runs.write_text("mine")
    return ["finetune", g.recipe()]


def run_is_a_file(g: Ground) -> list[str]:
    g.runs.mkdir()
    (g.runs / "mine").write_text("mine")
    return ["finetune", g.recipe()]


def damaged_weights(g: Ground) -> list[str]:
    base = g.checkpoint()
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.transformer.h[0].ln_1.weight[0] = float("nan")
    model.save_pretrained(base)
    return ["finetune", g.recipe(base=str(base))]


def protocol_of_another_objective(g: Ground) -> list[str]:
    return ["finetune", g.recipe(judging={"protocol": "pll"})]


def window_beyond_the_positions(g: Ground) -> list[str]:
    return ["finetune", g.recipe(judging={"window": 65})]


def stride_beyond_the_window(g: Ground) -> list[str]:
    return ["finetune", g.recipe(judging={"window": 32, "stride": 33})]


def missing_general_text(g: Ground) -> list[str]:
    return ["finetune", g.recipe(judging={"general": str(g.folder / "nowhere")})]


def empty_general_text(g: Ground) -> list[str]:
    return ["finetune", g.recipe(judging={"general": g.text("")["source"]})]


def general_text_without_a_token(g: Ground) -> list[str]:
    (g.folder / "blank.txt").write_text("\u00ad\u200b\ufeff")  # BERT's tokenizer drops them
    bert, general = str(g.checkpoints["bert"]), str(g.folder / "blank.txt")
    return ["finetune", g.recipe(base=bert, judging={"general": general})]


JUDGING = (
    protocol_of_another_objective,
    window_beyond_the_positions,
    stride_beyond_the_window,
    missing_general_text,
    empty_general_text,
    general_text_without_a_token,
)


def no_run(g: Ground) -> list[str]:
    return ["compare", str(g.folder)]


def unfinished_run(g: Ground) -> list[str]:
    (g.folder / "recipe.yaml").write_text(Path(g.recipe(name="mine")).read_text())
    Run(g.folder).record(schema=1)
    return ["compare", str(g.folder)]


@dataclass
class Fault:
    lay: Callable[[Ground], list[str]]
    words: tuple[str, ...]  # place, want, find and cure, as far as each can be told
    code: int = 2


WANTS_TEXT = "expected at least one document with text, found 24 empty documents."
WANTS_UTF8 = "5.txt, byte 1: expected UTF-8, found Windows-1252. Convert it: iconv"
WANTS_FAMILY = "expected a causal or a masked language model, found t5, an encoder-decoder."
WANTS_HEAD = "expected weights for every part of BertForMaskedLM, found no "
WANTS_HUB = "nobody/never-downloaded: expected a checkpoint on the Hub, in the cache, or a folder, found "
FAULTS = [
    Fault(unknown_key, ("mine.yaml:8: training.stpes: unknown key", "did you mean 'steps'?")),
    Fault(
        wrong_type,
        ("mine.yaml:11: adapter.rank: expected 'auto' or a valid integer", "found 'many'", "ft recipes"),
    ),
    Fault(wrong_override, ("training.epochs (given as an override)", "expected greater than 0, found -1")),
    Fault(missing_recipe, ("nope.yaml: expected a recipe file or a gallery name, found", "ft recipes lists")),
    Fault(misspelt_recipe, ("quikstart: expected a recipe file", "Did you mean quickstart?")),
    Fault(missing_corpus, ("nowhere: expected a file, folder or glob, found nothing", "corpus.source")),
    Fault(folder_without_text, ("empty: expected files such as .txt", "found none.", "corpus.source")),
    Fault(documents_without_text, ("texts", WANTS_TEXT, "Check corpus.source.")),
    Fault(text_in_another_encoding, (WANTS_UTF8,)),
    Fault(less_than_a_row, ("corpus: expected at least one row of 64 training tokens, found ", "Add text")),
    Fault(
        too_few_documents, ("corpus: expected at least 20 documents (8 to train, 4 to choose, 8 ", "Add 19")
    ),
    Fault(unknown_family, ("t5", WANTS_FAMILY, "Choose")),
    Fault(no_masked_head, ("headless", WANTS_HEAD, "cls.predictions", "Use a checkpoint")),
    Fault(no_checkpoint, ("base: expected a config.json with its model_type, found no config.json. Save",)),
    Fault(pickled_weights, ("base: expected safetensors, found pytorch_model.bin. In it: python -c",)),
    Fault(cut_off_weights, ("base: expected whole weights, found model.safetensors cut short",)),
    Fault(long_blocks, ("training.block_tokens: expected at most 64 for ", "found 65. Lower it.")),
    Fault(hub_while_offline, (WANTS_HUB, "HF_HUB_OFFLINE is set", "network", "starter/gpt2")),
    Fault(unknown_modules, ("adapter.targets: expected ", "found q_proj", "attn.c_attn, attn.c_proj")),
    Fault(runs_is_a_file, ("runs: expected a folder", "found a file.", "--runs")),
    Fault(run_is_a_file, ("runs/mine: expected a folder", "found a file.", "--runs")),
    Fault(damaged_weights, ("samples of ", "expected finite predictions, found NaN", "weights"), code=5),
    Fault(protocol_of_another_objective, ("protocol: expected one of document, rolling, ", "found pll, and")),
    Fault(window_beyond_the_positions, ("window: expected 3 to 64 tokens", "found 65.", "judging.window")),
    Fault(stride_beyond_the_window, ("stride: expected 1 to 32, the window, found 33.", "judging.stride")),
    Fault(missing_general_text, ("judging.general, ", "found nothing there.", "Check judging.general.")),
    Fault(empty_general_text, ("judging.general, ", WANTS_TEXT, "Check judging.general.")),
    Fault(general_text_without_a_token, ("judging.general: expected text with a token of ", "found none.")),
    Fault(no_run, (": expected a run folder, found no run.json in it.", "ft runs")),
    Fault(unfinished_run, ("expected a run that was trained, found", "rain again")),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.lay.__name__.replace("_", " "))
def test_a_fault_is_told_in_one_line_that_says_what_to_do(
    fault: Fault, ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = fault.lay(ground)
    runs = ["--runs", str(ground.runs)] if arguments[0] == "finetune" else []
    code, output, said = run_ft([*arguments, *runs], monkeypatch, capfd)
    assert said, "nothing was said"
    if said[-1].startswith("next: "):  # a run was begun: the command that goes on with it
        assert said.pop().startswith(("next: ft resume ", "next: ft finetune ")) and ground.runs.exists()
    assert (code, output) == (fault.code, "")
    assert "Traceback" not in "\n".join(said)
    assert len(said[-1]) <= 200
    for words in fault.words:
        assert words in said[-1]
    log = ground.runs / "mine" / "run.log"
    assert said[:-1] == (log.read_text().splitlines() if log.is_file() else [])


def run_ft(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[object, str, list[str]]:
    """(exit code, stdout, lines on stderr) of the ft command."""
    monkeypatch.setattr(sys, "argv", ["ft", *arguments])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output, said = capfd.readouterr()
    return ended.value.code, output, said.splitlines()


def test_all_faults_of_a_recipe_are_told_at_once_a_line_each(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = ground.recipe(training={"steps": 0, "epohcs": 3}, adapter={"dropout": 2})
    code, _, said = run_ft(["finetune", recipe, "--runs", str(ground.runs)], monkeypatch, capfd)
    assert code == 2
    assert sorted(line.split(": ")[1] for line in said) == [
        "adapter.dropout",
        "training.epohcs",
        "training.steps",
    ]
    assert not ground.runs.exists()


@pytest.mark.parametrize("lay", [long_blocks, unknown_modules, *JUDGING])
def test_a_fault_that_is_found_before_training_leaves_no_run_folder(
    ground: Ground,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    lay: Callable[[Ground], list[str]],
) -> None:
    run_ft([*lay(ground), "--runs", str(ground.runs)], monkeypatch, capfd)
    assert not ground.runs.exists()


def test_general_text_that_is_not_there_is_told_without_waiting_for_torch(ground: Ground) -> None:
    code = (
        "import sys; from ft_toolkit import cli\n"
        "try: cli.main()\n"
        "finally: print({'torch', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *missing_general_text(ground)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "set()\n")


# A full disk: a small one of our own is mounted, by root here, or by anybody in a namespace of their own.


def mount(folder: Path, kilobytes: int) -> str:
    return f"mount -t tmpfs -o size={kilobytes}k tmpfs '{folder}'"


@pytest.fixture
def run_on_small_disk(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[int, list[str]], tuple[object, list[str], Path]]]:
    """Run ft with --runs on a disk of some kilobytes: (exit code, lines on stderr, the run folder)."""
    disk, copy = ground.folder / "disk", ground.folder / "copy"
    disk.mkdir()
    mounted = False

    def run(kilobytes: int, arguments: list[str]) -> tuple[object, list[str], Path]:
        nonlocal mounted
        arguments = [*arguments, "--runs", str(disk / "runs")]
        mounted = subprocess.run(mount(disk, kilobytes), shell=True, capture_output=True).returncode == 0
        if mounted:
            code, _, said = run_ft(arguments, monkeypatch, capfd)
            return code, said, disk / "runs" / "mine"
        own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        if (
            not shutil.which("unshare")
            or subprocess.run([*own, mount(disk, 4)], capture_output=True).returncode
        ):
            pytest.skip("needs root or user namespaces to mount a small disk")
        command = f"{mount(disk, kilobytes)} && {{ \"$@\"; code=$?; cp -r '{disk}' '{copy}'; exit $code; }}"
        ft = [sys.executable, "-m", "ft_toolkit.cli", *arguments]
        ended = subprocess.run([*own, command, "sh", *ft], capture_output=True, text=True)
        return ended.returncode, ended.stderr.splitlines(), copy / "runs" / "mine"

    yield run
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


SmallDisk = Callable[[int, list[str]], tuple[object, list[str], Path]]


def test_a_disk_that_is_full_from_the_beginning_is_named(
    ground: Ground, run_on_small_disk: SmallDisk
) -> None:
    code, said, _ = run_on_small_disk(4, ["finetune", ground.recipe()])
    assert code == 2
    assert len(said) == 1
    assert ": expected free disk space, found none left. Free some" in said[0]
    assert "disk/runs" in said[0]
    assert len(said[0]) <= 200


def test_a_disk_that_fills_up_keeps_what_was_computed_before(
    ground: Ground, run_on_small_disk: SmallDisk
) -> None:
    large_adapter = ground.recipe(adapter={"rank": 512})
    code, said, run = run_on_small_disk(256, ["finetune", large_adapter])
    assert code == 2
    assert "Traceback" not in "\n".join(said)
    assert "adapter: expected free disk space, found none left. Free some" in said[-2]
    assert len(said[-2]) <= 200 and said[-1].startswith("next: ft resume ")
    # the adapter, saved when training has ended, is the first large file
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert Run(run).read_table("documents.parquet")
    assert not [path for path in run.iterdir() if "unfinished" in path.name or "adapter" in path.name]


# Ctrl-C and SIGTERM reach a real process, in the middle of a training.


@dataclass
class Stopped:
    code: int | None
    output: str
    said: list[str]
    run: Path


@pytest.fixture(scope="module")
def stopped(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Stopped]:
    """Two long trainings, one stopped by Ctrl-C and one by SIGTERM, both after a few steps."""
    started = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        ground = Ground(tmp_path_factory.mktemp("stopped"), checkpoints, small_corpus)
        recipe = str(ground.folder / ground.recipe(training={"steps": 100_000}))
        command = ["-m", "ft_toolkit.cli", "finetune", recipe, "--runs", str(ground.runs)]
        started[number] = (WarmPython(*command), ground.runs / "mine")
    found = {}
    for number, (process, run) in started.items():
        wait_until(process, lambda run=run: lines_of(run / "metrics.jsonl") >= 4)
        process.send_signal(number)
        process.finish(60)
        found[int(number)] = Stopped(process.code, process.output, process.said.splitlines(), run)
    return found


def wait_until(process: WarmPython, has_begun: Callable[[], bool]) -> None:
    waiting_since = time.monotonic()
    while not has_begun():
        assert process.code is None, process.said
        assert time.monotonic() - waiting_since < 120, "it did not begin"
        time.sleep(0.02)


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_stopped_training_keeps_its_adapter_and_its_metrics_and_says_where(
    stopped: dict[int, Stopped], checkpoints: dict[str, Path], number: int, code: int, word: str
) -> None:
    ended = stopped[int(number)]
    assert (ended.code, ended.output) == (code, "")
    assert "Traceback" not in "\n".join(ended.said)
    steps = lines_of(ended.run / "metrics.jsonl")
    assert steps >= 4
    words = rf"{word} at step (\d+) of 100000; the same command resumes from there, or ft resume (.+)"
    told = re.fullmatch(words, ended.said[-1])
    assert told
    assert told[2] == str(ended.run)
    assert int(told[1]) == steps
    assert Run(ended.run).facts["training"]["stopped_by"] == word
    base = AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"])
    PeftModel.from_pretrained(base, ended.run / "adapter")
    assert not Run(ended.run).is_finished
    assert not (ended.run / "comparison.json").exists()


def test_the_last_line_of_metrics_is_whole_after_a_stop(stopped: dict[int, Stopped]) -> None:
    for ended in stopped.values():
        lines = (ended.run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))


def test_a_stopped_run_is_judged_by_compare(
    stopped: dict[int, Stopped], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = stopped[int(signal.SIGINT)].run
    monkeypatch.setattr(sys, "argv", ["ft", "compare", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "unseen text of" in capfd.readouterr().out
    assert Run(run).is_finished


# And before it, and after it: a phase is entered, says so on stdout, and waits for the signal.

PHASES = {
    "importing torch": "cli",
    "loading": "ft_toolkit.material.load_base",
    "first validation": "ft_toolkit.material.score_tokens",
    "checking": "ft_toolkit.judging.integrity._in_a_fresh_process",
    "judging": "ft_toolkit.judging.scoring.score_tokens",
}
WAITS = """
import sys, time

def wait(*_, **__):
    print("here", flush=True)
    time.sleep(120)

class AtTorch:
    def find_spec(self, name, *_):
        if name == "torch":
            wait()

phase = sys.argv.pop(1)
if phase == "cli":
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("torch", "ft_toolkit"):  # a process that has not come to torch yet
            del sys.modules[name]
    sys.meta_path.insert(0, AtTorch())
else:
    import ft_toolkit.finetune, ft_toolkit.judging.scoring
    from unittest.mock import patch
    patch(phase, wait).start()
from ft_toolkit import cli
cli.main()
"""
EARLY = ("importing torch", "loading")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
    ],
)
def test_in_every_phase_a_signal_ends_with_a_word_on_how_far_it_came(
    ground: Ground, phase: str, number: int, code: int, word: str
) -> None:
    recipe = ground.recipe(training={"steps": 1})
    process = WarmPython("-c", WAITS, PHASES[phase], "finetune", recipe, "--runs", str(ground.runs))
    wait_until(process, lambda: process.output == "here\n")
    process.send_signal(number)
    process.finish(60)
    assert "Traceback" not in process.said
    assert process.code == code
    run = ground.runs / "mine"
    if phase in EARLY:
        assert (
            process.said.splitlines()[-1]
            == f"{word} before training; nothing was trained: the same command begins again"
        )
        assert not ground.runs.exists()
    elif phase == "first validation":
        where = f"{word} before the first step; nothing was trained"
        assert process.said.splitlines()[-2:] == [where, f"next: ft resume {run}"]
    else:
        assert (
            process.said.splitlines()[-1] == f"{word} before the verdict: trained; ft compare {run} judges it"
        )
        Run.open(run).check_trained()


def test_every_gallery_recipe_is_free_of_faults(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(shipped.recipe_folder().glob("*.yaml")):
        code, output, said = run_ft(["recipes", "show", path.stem], monkeypatch, capfd)
        assert (code, said) == (0, [])
        assert output.startswith("name ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "x" * 5000],
        ["compare", "x" * 5000],
        ["compare", "--base", "starter/gpt2", "--adapter", "x" * 5000, "--on", "package:general-probe"],
        ["recipes", "show", "x" * 300 + ".yaml"],
    ],
    ids=["recipe", "run", "adapter", "recipe to show"],
)
def test_a_name_that_no_file_system_holds_is_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, output, said = run_ft(arguments, monkeypatch, capfd)
    assert (code, output) == (2, "")
    assert len(said) == 1
    assert ": expected " in said[0]
    assert len(said[0]) <= 200
