"""A recipe: closed, frozen, and every fault of it named at once with its place and its cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ft_toolkit.errors import FtError, RecipeError
from ft_toolkit.recipe import Resolved, find_recipe, gallery, read_recipe
from ft_toolkit.run import Run
from ft_toolkit.sections import Corpus, Recipe, Training
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.text.splitting import split

LEAST = "base: starter/gpt2\ncorpus: {source: texts}\n"  # two lines, so an addition begins on line 3


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are written and named below the working folder, so that no fault is shortened for its path."""
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "mine.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def recipe(text: str, *overrides: str) -> Recipe:
    return read_recipe(write(text), overrides).recipe


def faults(action: Callable[[], object]) -> list[str]:
    """The lines of a refusal: one for an FtError, one a fault for a RecipeError."""
    with pytest.raises(FtError) as caught:
        action()
    lines = str(caught.value).split("\n")
    assert all(0 < len(line) <= 200 for line in lines)
    assert len(lines) == 1 or isinstance(caught.value, RecipeError)
    return lines


def schema_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    for key, info in section.model_fields.items():
        inner = Corpus if key == "corpus" else info.annotation  # which may be a list of them, too
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from schema_keys(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


# --- values ----------------------------------------------------------------------------------------


def test_base_and_corpus_are_all_that_a_recipe_needs() -> None:
    found = recipe(LEAST)
    assert (found.base, found.corpus.source, found.name) == ("starter/gpt2", "texts", "mine")
    assert found.training == Training()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training: {learning_rate: 2e-4}", "training.learning_rate", 0.0002),
        ("training: {learning_rate: 1}", "training.learning_rate", 1.0),
        ("training: {learning_rate: auto}", "training.learning_rate", "auto"),
        ("", "training.learning_rate", "auto"),
        ("adapter: {rank: 3}", "adapter.rank", 3),
        ("adapter: {rank: auto, alpha: auto}", "adapter.alpha", "auto"),
        ("", "adapter.rank", "auto"),
        ("training: {budget: 20m}", "training.budget", 1200.0),
        ("training: {budget: 90s}", "training.budget", 90.0),
        ("training: {budget: 1.5 h}", "training.budget", 5400.0),
        ("training: {budget: null}", "training.budget", None),
        ("training: {steps: 7}", "training.steps", 7),
        ("name: no", "name", "no"),
        ("name: 2024-01-01", "name", "2024-01-01"),
        ("name: '007'", "name", "007"),
        ("adapter: {targets: attention}", "adapter.targets", "attention"),
        ("adapter: {targets: [c_attn, c_proj]}", "adapter.targets", ["c_attn", "c_proj"]),
        ("judging: {general: ~}", "judging.general", None),
        ("judging: {keep_text: False}", "judging.keep_text", False),
    ],
)
def test_a_value_means_what_it_says(text: str, key: str, value: object) -> None:
    explained = {row[0]: row[1] for row in read_recipe(write(f"{LEAST}{text}\n")).explained()}
    assert explained[key] == value
    assert type(explained[key]) is type(value)


def test_an_escape_in_a_template_needs_double_quotes() -> None:
    text = "base: x\ncorpus: {source: x, text: %s}\n"
    assert recipe(text % r'"{question}\n{answer}"').corpus.text == "{question}\n{answer}"
    assert recipe(text % r"'{question}\n{answer}'").corpus.text == r"{question}\n{answer}"


def test_a_byte_order_mark_before_a_recipe_is_ignored() -> None:
    assert recipe("\ufeff" + LEAST).base == "starter/gpt2"


def test_a_recipe_cannot_be_changed_once_read() -> None:
    found = recipe(LEAST)
    for section, key in ((found, "base"), (found.training, "epochs"), (found.corpus.split, "seed")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, getattr(section, key))


# --- faults ----------------------------------------------------------------------------------------


def test_every_fault_is_named_at_once_with_its_line_and_its_cure() -> None:
    text = """\
name: my recipe
bsae: starter/gpt2
corpus:
  source: texts
  split: {test: 2}
adapter:
  rank: -4
training:
  stpes: 100
  learning_rate: fast
  epochs: true
  quantum_entanglement: 1
"""
    write(text)
    cure = ". Fix it; see `ft recipes show`."
    others = (
        "epochs, steps, budget, block_tokens, batch_tokens, learning_rate, mask_fraction, replay, "
        "warmup_fraction, patience, seed"
    )
    assert set(faults(lambda: read_recipe("mine.yaml"))) == {
        "mine.yaml:1: name: expected a name of letters, digits, '.', '_' and '-', found 'my recipe'" + cure,
        "mine.yaml:2: bsae: unknown key; did you mean 'base'?",
        "mine.yaml:5: corpus.split.test: expected less than 1, found 2" + cure,
        "mine.yaml:7: adapter.rank: expected 'auto' or greater than 0, found -4" + cure,
        "mine.yaml:9: training.stpes: unknown key; did you mean 'steps'?",
        "mine.yaml:10: training.learning_rate: expected 'auto' or a valid number, found 'fast'" + cure,
        "mine.yaml:11: training.epochs: expected a valid integer, found True" + cure,
        f"mine.yaml:12: training.quantum_entanglement: unknown key; known here: {others}",
        "mine.yaml: base: expected a value, found none. Add this key.",
    }


def test_a_seed_has_63_bits_wherever_it_stands() -> None:
    most = 2**63 - 1
    found = recipe(LEAST, f"training.seed={most}", f"corpus.split.seed={most}")
    assert (found.training.seed, found.corpus.split.seed) == (most, most)
    (line,) = faults(lambda: recipe(LEAST, f"corpus.split.seed={most + 1}"))
    assert line.startswith("corpus.split.seed (given as an override): expected less than 9223372036854775808")


def test_a_name_of_300_letters_is_refused_and_one_of_100_is_not() -> None:
    assert recipe(f"{LEAST}name: {'x' * 100}\n").name == "x" * 100
    (line,) = faults(lambda: recipe(f"{LEAST}name: {'x' * 300}\n"))
    assert "name: expected a name of at most 100 letters, found 'xxx" in line


def test_a_recipe_without_base_and_corpus_is_told_of_both() -> None:
    path = write("training: {epochs: 2}\n")
    assert [line.removeprefix(f"{path}: ").split(":")[0] for line in faults(lambda: read_recipe(path))] == [
        "base",
        "corpus",
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("training: {epochs: true}", "training.epochs"),
        ("training: {epochs: 2.5}", "training.epochs"),
        ("training: {epochs: '3'}", "training.epochs"),
        ("training: {epochs: 0}", "training.epochs"),
        ("training: {epochs: null}", "training.epochs"),
        ("training: {steps: 0}", "training.steps"),
        ("training: {seed: 9223372036854775808}", "training.seed"),
        ("training: {seed: -1}", "training.seed"),
        ("adapter: {rank: 4097}", "adapter.rank"),
        ("adapter: {alpha: 1000001}", "adapter.alpha"),
        ("training: {block_tokens: 7}", "training.block_tokens"),
        ("training: {learning_rate: true}", "training.learning_rate"),
        ("training: {learning_rate: automatic}", "training.learning_rate"),
        ("training: {learning_rate: null}", "training.learning_rate"),
        ("adapter: {rank: Auto}", "adapter.rank"),
        ("adapter: {alpha: twice}", "adapter.alpha"),
        ("training: {learning_rate: 0}", "training.learning_rate"),
        ("training: {learning_rate: 1.5}", "training.learning_rate"),
        ("training: {learning_rate: .nan}", "training.learning_rate"),
        ("training: {learning_rate: [2e-4]}", "training.learning_rate"),
        ("training: {warmup_fraction: 1}", "training.warmup_fraction"),
        ("training: {warmup_fraction: false}", "training.warmup_fraction"),
        ("training: {seed: -1}", "training.seed"),
        ("training: {budget: 20}", "training.budget"),
        ("training: {budget: '20'}", "training.budget"),
        ("training: {budget: 0s}", "training.budget"),
        ("training: {budget: -5m}", "training.budget"),
        ("training: {budget: 2 days}", "training.budget"),
        ("training: {budget: true}", "training.budget"),
        ("training: 5", "training"),
        ("training:", "training"),
        ("training: [epochs]", "training"),
        ("adapter: {rank: 8.5}", "adapter.rank"),
        ("adapter: {dropout: 1}", "adapter.dropout"),
        ("adapter: {targets: all}", "adapter.targets"),
        ("adapter: {targets: [1]}", "adapter.targets"),
        ("judging: {keep_text: 1}", "judging.keep_text"),
        ("judging: {keep_text: no}", "judging.keep_text"),
        ("judging: {general: 3}", "judging.general"),
        ("name: 7", "name"),
        ("name: null", "name"),
        ("name: a/b", "name"),
        ("name: ..", "name"),
        ("name: -rf", "name"),
        ("name: ''", "name"),
        (f"name: {'x' * 101}", "name"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_key_and_line(text: str, key: str) -> None:
    path = write(f"{LEAST}{text}\n")
    (line,) = faults(lambda: read_recipe(path))
    assert line.startswith(f"{path}:3: {key}: expected ")
    assert ", found " in line


@pytest.mark.parametrize(
    "corpus",
    [
        "5", "texts", "{}", "{source: ''}", "{source: x, documents: word}", "{source: x, text: ''}",
        "{source: x, split: 0.2}", "{source: x, split: {test: 0}}", "{source: x, split: {validation: 1}}",
        "{source: x, split: {test: 0.5, validation: 0.5}}",
    ],
)  # fmt: skip
def test_a_corpus_section_that_cannot_be_meant_is_refused(corpus: str) -> None:
    (line,) = faults(lambda: recipe(f"base: x\ncorpus: {corpus}\n"))
    assert "corpus" in line


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("training: {seed: 1}\ntraining: {seed: 2}\n", ":4: training: ", "duplicate key, first on line 3"),
        ("training: {seed: 1,\n  seed: 2}\n", ":4: training.seed: ", "duplicate key, first on line 3"),
        ("name: &x a\n", ":3: ", "anchor or alias x"),
        ("name: !!python/name:os.system x\n", ":3: ", "python/name:os.system"),
        ("training: !!python/object/apply:os.system [echo]\n", ":3: ", "python/object/apply:os.system"),
        ("training: {epochs: 3\n", ":4: ", "YAML"),
        ("training: {epochs: 3}}\n", ":3: ", "YAML"),
    ],
)
def test_what_yaml_allows_and_recipes_do_not_is_named(text: str, where: str, words: str) -> None:
    path = write(LEAST + text)
    (line,) = faults(lambda: read_recipe(path))
    assert line.startswith(f"{path}{where}")
    assert words in line


@pytest.mark.parametrize("text", ["", "- base\n", "just words\n"])
def test_a_file_without_keys_is_no_recipe(text: str) -> None:
    (line,) = faults(lambda: recipe(text))
    assert "keys such as base: and corpus:" in line


def test_a_recipe_that_is_not_utf_8_is_named() -> None:
    path = Path("mine.yaml")
    path.write_bytes(LEAST.encode() + b"name: caf\xe9\n")
    (line,) = faults(lambda: read_recipe(path))
    assert line.startswith(f"{path}: expected a readable UTF-8 file")


# --- extends ---------------------------------------------------------------------------------------

PARENT = """\
name: parent
base: starter/gpt2
corpus:
  source: texts
  split: {test: 0.25, seed: 3}
adapter: {targets: [a, b]}
training: {epochs: 5}
"""


def test_extends_merges_section_by_section() -> None:
    write(PARENT, "parent.yaml")
    found = recipe("extends: parent.yaml\ncorpus: {split: {seed: 4}}\nadapter: {rank: 2, targets: [c]}\n")
    assert found.base == "starter/gpt2"
    assert found.corpus.source == "texts"
    assert (found.corpus.split.test, found.corpus.split.seed) == (0.25, 4)
    assert (found.adapter.rank, found.adapter.targets) == (2, ["c"])  # a list is replaced, not joined
    assert found.training.epochs == 5


def test_a_child_is_named_by_its_own_file() -> None:
    write(PARENT, "parent.yaml")
    assert recipe("extends: parent.yaml\n").name == "mine"
    assert recipe("extends: parent.yaml\nname: given\n").name == "given"


def test_extends_is_relative_to_its_own_file_and_may_go_on() -> None:
    write(PARENT, "far/parent.yaml")
    write("extends: parent.yaml\ntraining: {patience: 9}\n", "far/middle.yaml")
    found = recipe("extends: far/middle.yaml\ntraining: {seed: 1}\n")
    assert (found.training.epochs, found.training.patience, found.training.seed) == (5, 9, 1)


def test_a_fault_of_a_parent_names_the_parent_file() -> None:
    parent = write(PARENT.replace("epochs: 5", "epohcs: 5"), "parent.yaml")
    (line,) = faults(lambda: recipe("extends: parent.yaml\n"))
    assert line == f"{parent}:7: training.epohcs: unknown key; did you mean 'epochs'?"


@pytest.mark.parametrize("other", ["mine.yaml", "other.yaml"])
def test_a_circle_of_extends_is_refused(other: str) -> None:
    write("extends: mine.yaml\n", "other.yaml")
    (line,) = faults(lambda: recipe(f"{LEAST}extends: {other}\n"))
    assert "a circle" in line


def test_a_missing_parent_is_named_with_the_file_that_wants_it() -> None:
    (line,) = faults(lambda: recipe("extends: nowhere.yaml\n"))
    assert "nowhere.yaml: expected a recipe file" in line
    assert "mine.yaml" in line


def test_a_bare_name_in_extends_is_the_gallerys_unless_a_file_of_that_name_stands_beside() -> None:
    found = recipe("extends: quickstart\ncorpus: {source: mine}\n", "training.seed=1")
    gallery = read_recipe("quickstart").recipe
    assert (found.name, found.base, found.corpus.source) == ("mine", gallery.base, "mine")
    assert found.training == gallery.training.model_copy(update={"seed": 1})
    write(PARENT, "quickstart")
    assert recipe("extends: quickstart\n").training.epochs == 5
    write(f"extends: quickstart\n{LEAST}", "far/quickstart.yaml")
    assert read_recipe("far/quickstart.yaml").recipe.training == gallery.training  # its own name is no circle


def test_a_misspelt_name_in_extends_is_told_the_nearest() -> None:
    (line,) = faults(lambda: recipe("extends: quikstart\n"))
    assert line.endswith("Did you mean extends: quickstart?")


# --- overrides -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.epochs=9", "training.epochs", 9),
        ("training.learning_rate=1e-3", "training.learning_rate", 0.001),
        ("training.budget=2m", "training.budget", 120.0),
        ("training.steps=null", "training.steps", None),
        ("corpus.split.seed=8", "corpus.split.seed", 8),
        ("corpus.text={title}: {body}", "corpus.text", "{title}: {body}"),
        ("corpus.source=a=b", "corpus.source", "a=b"),
        ('corpus.text="a\\nb"', "corpus.text", "a\nb"),
        ("name='7'", "name", "7"),
        ("name=no", "name", "no"),
        ("adapter.targets=[x, y]", "adapter.targets", ["x", "y"]),
    ],
)
def test_an_override_wins_and_is_named_as_such(override: str, key: str, value: object) -> None:
    text = f"{LEAST}training: {{epochs: 2, steps: 3}}\n"
    resolved = read_recipe(write(text), [override])
    rows = {row[0]: row for row in resolved.explained()}
    assert rows[key][1] == value
    assert rows[key][2] == "override"


def test_the_last_of_two_overrides_wins() -> None:
    assert recipe(LEAST, "training.epochs=9", "training.epochs=4").training.epochs == 4


def test_an_override_wins_over_a_child_and_its_parent() -> None:
    write(PARENT, "parent.yaml")
    text = "extends: parent.yaml\ntraining: {epochs: 6}\n"
    assert recipe(text, "training.epochs=7").training.epochs == 7


def test_faults_of_overrides_are_named_as_overrides() -> None:
    found = faults(lambda: recipe(LEAST, "training.epochs=many", "adapter.rnak=3"))
    assert sorted(line.split(":")[0] for line in found) == [
        "adapter.rnak (given as an override)",
        "training.epochs (given as an override)",
    ]
    assert any("did you mean 'rank'?" in line for line in found)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("base.x=3", "override base.x: expected a section, found starter/gpt2"),
        ("corpus.source.x=3", "override corpus.source.x: expected a section, found texts"),
        ("training.epochs", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ('name="open', "override"),
        ("training=3", "training (given as an override): expected"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused(override: str, words: str) -> None:
    (line,) = faults(lambda: recipe(LEAST, override))
    assert words in line


# --- the gallery -----------------------------------------------------------------------------------


def test_every_recipe_that_ships_can_be_read() -> None:
    assert {"quickstart", "quickstart-bert"} <= {path.stem for path in gallery()}
    for path in gallery():
        assert read_recipe(path).recipe.name == path.stem


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_a_recipe_that_ships_is_found_by_name_from_anywhere(
    name: str,
) -> None:
    assert find_recipe(name).samefile(next(path for path in gallery() if path.stem == "quickstart"))


def test_a_file_wins_over_a_gallery_name() -> None:
    write(LEAST, "quickstart.yaml")
    assert read_recipe("quickstart.yaml").recipe.corpus.source == "texts"


@pytest.mark.parametrize("name", ["quikstart", "quickstart-brt", "quikstart.yaml", "recipes/quikstart.yaml"])
def test_a_misspelt_gallery_name_suggests_the_nearest(name: str) -> None:
    (line,) = faults(lambda: read_recipe(name))
    assert f"Did you mean {'quickstart-bert' if 'brt' in name else 'quickstart'}?" in line


def test_a_name_like_nothing_is_told_where_the_gallery_is_listed() -> None:
    (line,) = faults(lambda: read_recipe("zzz"))
    assert "ft recipes lists them" in line


def test_a_missing_file_in_another_folder_is_not_taken_for_the_gallery(tmp_path: Path) -> None:
    (line,) = faults(lambda: read_recipe(tmp_path / "quickstart.yaml"))
    assert "expected a recipe file" in line


# --- explained -------------------------------------------------------------------------------------


def test_each_value_tells_where_it_comes_from() -> None:
    parent = write(PARENT, "parent.yaml")
    child = write("extends: parent.yaml\ncorpus:\n  split: {seed: 4}\n")
    rows = read_recipe(child, ["training.seed=2"]).explained()
    origins = {key: origin for key, _, origin, _ in rows}
    assert origins["name"] == "the file's name"
    assert origins["base"] == f"{parent}:2"
    assert origins["corpus.split.test"] == f"{parent}:5"
    assert origins["corpus.split.seed"] == f"{child}:3"
    assert origins["corpus.split.validation"] == "default"
    assert origins["adapter.targets"] == f"{parent}:6"
    assert origins["training.seed"] == "override"


def test_every_key_of_the_schema_is_explained_with_a_meaning() -> None:
    rows = list(read_recipe(write(LEAST)).explained())
    assert [key for key, *_ in rows] == list(schema_keys())
    assert [key for key, _, _, meaning in rows if len(meaning.split()) < 3] == []


# --- each key acts: those that need no training; the others are shown in tests/training and tests/judging --


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, word in (("a", "salt"), ("b", "pepper")):
        rows = [f'{{"text": "{word} {n}", "title": "on {word} {n}"}}' for n in range(200)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "prose.txt").write_text("uno\ndue\n\ntre\n")
    return folder


def observed(resolved: Resolved) -> tuple[Any, ...]:
    """What a corpus section leads to: the documents, and the part of each."""
    corpus = resolved.recipe.corpus
    documents = read_corpora(corpus).documents
    parts = [
        (document.id, document.text, part)
        for part, some in split(documents, corpus.split)
        for document in some
    ]
    return tuple(sorted(parts))


@pytest.mark.parametrize(
    "override",
    [
        "corpus.source={folder}/b.jsonl", "corpus.text=title",
        "corpus.split.seed=1", "corpus.split.test=0.5", "corpus.split.validation=0.5",
    ],
)  # fmt: skip
def test_each_key_of_the_corpus_changes_what_is_read_or_where_it_goes(
    two_tables: Path, override: str
) -> None:
    path = write(f"base: x\ncorpus: {{source: {two_tables}/a.jsonl}}\n")
    plain = observed(read_recipe(path))
    assert len(plain) == 200
    assert observed(read_recipe(path)) == plain
    assert observed(read_recipe(path, [override.format(folder=two_tables)])) != plain


def test_corpus_documents_changes_what_a_document_is(two_tables: Path) -> None:
    text = f"base: x\ncorpus: {{source: {two_tables}/prose.txt}}\n"
    counts = [
        len(read_corpora(recipe(text, f"corpus.documents={unit}").corpus).documents)
        for unit in ("null", "file", "paragraph", "line")
    ]
    assert counts == [1, 1, 2, 3]


def test_the_name_names_the_run_folder(tmp_path: Path) -> None:
    folders = [
        Run.create(tmp_path / "runs", recipe(LEAST, *overrides)).folder.name
        for overrides in ([], ["name=other"], ["name=other"])
    ]
    assert folders == ["mine", "other", "other-2"]


def test_a_resolved_recipe_reads_back_as_it_was(tmp_path: Path) -> None:
    found = recipe(f"{LEAST}name: '007'\ntraining: {{budget: 20m, learning_rate: 1e-5}}\n", "corpus.text=no")
    run = Run.create(tmp_path / "runs", found)
    assert Run(run.folder).recipe == found
    assert read_recipe(run.folder / "recipe.yaml").recipe == found  # the run's own file is a recipe


def test_a_long_path_gives_way_before_the_fault_does(tmp_path: Path) -> None:
    folder = tmp_path / ("a-rather-long-folder-name-" * 4) / ("and-another-one-" * 5)
    folder.mkdir(parents=True)
    recipe = folder / "mine.yaml"
    recipe.write_text("base: starter/gpt2\ncorpus: {source: docs}\ntraining: {stpes: 3}\n")
    with pytest.raises(RecipeError) as fault:
        read_recipe(recipe)
    assert len(str(fault.value)) <= 200
    assert str(fault.value).endswith("mine.yaml:3: training.stpes: unknown key; did you mean 'steps'?")
