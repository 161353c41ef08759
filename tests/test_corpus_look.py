"""ft corpus: what a person sees of a corpus before an hour is spent on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.corpus_look import look, recipe_for
from ft_toolkit.corpus_words import lines
from ft_toolkit.sections import Recipe
from ft_toolkit.text.look import Look

HEADER = "Leaflet of the ward, to be read at home."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Thirty leaflets with a header, a copy, an empty file, personal data, and a file that is no PDF."""
    for number in range(30):
        text = f"{HEADER}\nLeaflet {number}: hyperthyroidism and hyperthyroidism and hyperthyroidism.\n"
        (tmp_path / f"{number:02}.txt").write_text(text * (1 + number // 10))
    (tmp_path / "30.txt").write_text((tmp_path / "00.txt").read_text() + "\n")
    (tmp_path / "31.txt").write_text(" \n")
    long = "Rest, drink plenty of water, and call the ward when the fever stays for more than three days"
    for name, end in (("34.txt", "in a row."), ("35.txt", "in all.")):
        (tmp_path / name).write_text(f"{long}, as some do, or when you cannot keep the water down {end}")
    (tmp_path / "32.txt").write_text("Ask kim@naver.com or call 010-1234-5678.")
    (tmp_path / "33.pdf").write_bytes(b"%PDF-1.4 broken")
    return tmp_path


def looked(source: str | Path, *overrides: str, base: str | None = None) -> Look:
    return look(recipe_for(str(source), base, ["corpus.skip_unreadable=true", *overrides]))


def test_every_fact_of_a_corpus_is_said(corpus: Path) -> None:
    found = looked(corpus)
    assert found.documents == 33
    assert found.copied == [("30.txt#0", "00.txt#0")]
    assert {frozenset(pair) for pair in found.near} >= {frozenset(("34.txt#0", "35.txt#0"))}
    counted_once = sum(found.parts.values())
    assert 33 - len(found.near) <= counted_once < 33 + 1
    assert found.empty == ["31.txt#0"]
    assert [line.partition(": ")[0] for line in found.unreadable] == [str(corpus / "33.pdf")]
    assert (found.repeated[0].text, found.repeated[0].documents) == (HEADER, 30)
    assert {kind: each.count for kind, each in found.personal.items()} == {"e-mail": 1, "phone": 1}
    assert found.languages["en"] > 0
    assert found.tokens is not None
    assert not found.tokens.is_sample
    assert found.tokens.broken[0].word == "hyperthyroidism"
    assert "".join(found.tokens.broken[0].pieces) == " hyperthyroidism"
    assert sum(count for _, _, count in found.tokens.lengths) == 33
    text = "\n".join(lines(found))
    for word in (
        "33 documents",
        "is nearly",
        "30.txt#0 is a copy of 00.txt#0",
        "33.pdf",
        "not stated",
        "Latin",
        "30 × Leaflet",
    ):
        assert word in text
    assert "kim@naver.com" not in text


def test_redacted_data_is_counted_and_gone(corpus: Path) -> None:
    found = looked(corpus, "corpus.redact=true")
    assert (found.redacted, found.personal) == ({"e-mail": 1, "phone": 1}, {})
    assert "replaced    1 × e-mail, 1 × phone" in "\n".join(lines(found))


@pytest.mark.parametrize("base", ["starter/gpt2", "starter/bert"])
def test_the_rows_are_those_that_training_reads(corpus: Path, base: str) -> None:
    from ft_toolkit.material import gathered
    from ft_toolkit.text.blocks import mask
    from ft_toolkit.training.accelerator import make_accelerator

    recipe = recipe_for(str(corpus), base, ["corpus.skip_unreadable=true", "judging.general=null"])
    found = look(recipe)
    material = gathered(recipe, make_accelerator("cpu", (), "runs").device)
    model = material.pair.tuned
    rows = material.rows[:3]
    if base == "starter/bert":
        plain, mask_id = model.ordinary_ids, model.special.mask
        assert mask_id is not None
        rows = [mask(row, 0, 0, mask_id, plain, 0.15) for row in rows]
    assert found.rows == ["|".join(model.tokenizer.decode([i]) for i in row.input_ids) for row in rows]


def test_a_tokenizer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"감기에는 물을 많이 마시고 푹 쉰다. {number}")
    assert "the tokenizer does not fit" in "\n".join(lines(looked(tmp_path)))
    said = "\n".join(lines(looked(tmp_path, base="starter/bert")))
    assert "% [UNK]: the tokenizer does not know many of these words" in said


def test_a_recipe_is_looked_at_with_its_own_base_and_a_few_texts_too(tmp_path: Path) -> None:
    found = looked("quickstart-bert")
    assert found.tokens is not None
    assert found.tokens.base == "starter/bert"
    (tmp_path / "a.txt").write_text("Salt.")
    few = looked(tmp_path)
    assert few.parts == {}
    assert "expected at least 20 documents" in "\n".join(lines(few))
    (tmp_path / "a.yaml").write_text(f"base: nobody/nothing\ncorpus: {{source: {tmp_path}/a.txt}}\n")
    assert "tokens      not counted: base nobody/nothing" in "\n".join(lines(looked(tmp_path / "a.yaml")))


def test_json_is_the_same_look_without_personal_data(corpus: Path) -> None:
    result = CliRunner().invoke(app, ["corpus", str(corpus), "--skip-unreadable", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["schema"] == 1
    assert found["corpus"]["documents"] == 33
    assert found["corpus"]["personal"]["phone"]["examples"] == ["0••-••••-••••"]


def test_a_fault_is_one_line(corpus: Path) -> None:
    result = CliRunner().invoke(app, ["corpus", str(corpus)])
    assert result.exit_code == 2
    assert "33.pdf: expected a PDF, found " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_look_imports_no_torch(corpus: Path) -> None:
    code = (
        "import sys; from ft_toolkit.corpus_look import look, recipe_for\n"
        "from ft_toolkit.corpus_words import lines\n"
        "lines(look(recipe_for(sys.argv[1], None, ['corpus.skip_unreadable=true'])))\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(corpus)], check=False).returncode == 0


def test_the_recipe_of_a_source_is_a_recipe_like_any_other() -> None:
    assert isinstance(recipe_for("package:italian-cooking", None, ["training.seed=3"]), Recipe)
