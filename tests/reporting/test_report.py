"""report.html: made of a run's files alone, self-contained, and harmless whatever a document holds."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.reporting.page import TEMPLATES
from ft_toolkit.reporting.report import report
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from reporting.conftest import HOSTILE, SECRETS

FT = "from ft_toolkit.cli import main; main()"


class Seen(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.inside[-1] if self.inside else "", []).append(data)

    def text(self, *tags: str) -> str:
        return "".join(data for tag in tags or self.texts for data in self.texts.get(tag, []))


@pytest.fixture(scope="module")
def pages(reported: dict[str, Run]) -> dict[str, str]:
    return {name: (run.folder / "report.html").read_text() for name, run in reported.items()}


def test_a_finished_run_has_a_report_and_ft_report_writes_the_same_again_without_torch(
    reported: dict[str, Run], pages: dict[str, str], tmp_path: Path
) -> None:
    for name in ("torch", "transformers", "peft", "accelerate", "pandas.core"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = tmp_path / "again.html"
    command = [sys.executable, "-c", FT, "report", str(reported["hostile"].folder), "--out", str(out)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{out}\n")
    assert out.read_text() == pages["hostile"]


def test_it_tells_what_comparison_json_and_the_recipe_say(
    reported: dict[str, Run], pages: dict[str, str]
) -> None:
    for name, run in reported.items():
        seen = Seen(pages[name])
        verdict = run.comparison["verdict"]
        assert verdict["headline"].removeprefix(f"{name}: ") in seen.text("p")
        assert all(caveat in seen.text("p") for caveat in verdict["caveats"])
        for corpus in run.comparison["corpora"]:
            figure = run.comparison["protocol"]["metric"].replace("-", "_")
            sides = [corpus[f"{side}_{figure}"] for side in ("base", "adapter")]
            assert " → ".join(f"{value:,.1f}" for value in sides) in seen.text("td")
        assert f"ft finetune runs/{name}/recipe.yaml" in seen.text("code")
        for heading in ("Verdict", "Learning curve", "Every document, before and after", "Token map"):
            assert heading in seen.text("h2", "h3")
        assert str(run.folder.parent) not in pages[name]  # nothing of this machine's folders


def test_it_asks_no_other_place_for_anything_and_allows_only_its_own_script(pages: dict[str, str]) -> None:
    script = (TEMPLATES / "page.js").read_text().removesuffix("\n")
    for page in pages.values():
        seen = Seen(page)
        assert not [tag for tag, has in seen.tags if {"src", "srcset", "data", "action"} & has.keys()]
        assert all(has["href"].startswith("#") for _, has in seen.tags if has.get("href"))
        assert "url(" not in page and "@import" not in page
        (policy,) = (has["content"] for _, has in seen.tags if "http-equiv" in has)
        digest = base64.b64encode(sha256(script.encode()).digest()).decode()
        assert policy is not None and policy.startswith("default-src 'none'; ")
        assert f"script-src 'sha256-{digest}';" in policy
        assert len(page) < 2_000_000


def test_a_document_full_of_html_and_script_is_inert(pages: dict[str, str]) -> None:
    seen = Seen(pages["hostile"])
    tags = [tag for tag, _ in seen.tags]
    assert tags.count("script") == 1 and "img" not in tags
    assert seen.text("script") == (TEMPLATES / "page.js").read_text().removesuffix("\n")
    assert not [name for _, has in seen.tags for name in has if name.startswith("on")]
    shown = "".join(seen.texts["b"] + seen.texts["div"])
    for words in ("document.title='owned'", "{{ 7*7 }}", "{% raw %}"):  # whole in the text, none of it obeyed
        assert re.sub(r"\s", "", words) in re.sub(r"[\s↵]", "", _passages(pages["hostile"]))
    assert "\x1b" not in pages["hostile"] and "␛" in shown
    assert "<img src=x onerror=alert(1)> " in seen.text("h3")  # a file's name


def test_the_passages_are_the_documents_own_text(reported: dict[str, Run], pages: dict[str, str]) -> None:
    kept = {
        row["id"].removesuffix("#0"): row["text"]
        for row in reported["hostile"].read_table("documents.parquet")
        if row["split"] == "test"
    }
    shown = re.findall(r'<h3 id="passage-\d+">(.*?)<small>.*?dir="auto">(.*?)</div>', pages["hostile"], re.S)
    assert len(shown) == len(kept) == 8
    for name, passage in shown:
        text = kept[_plain(name)].replace("\x1b", "␛")
        assert text.startswith(_plain(passage).replace("↵\n", "\n")) and HOSTILE[:30] in text
        pairs = re.findall(r'data-n="([\d.e+-]+) ([\d.e+-]+)"', passage)
        assert len(pairs) > 50


def test_where_the_recipe_keeps_no_text_no_word_of_the_corpus_is_in_the_page(
    reported: dict[str, Run], pages: dict[str, str], small_corpus: Path
) -> None:
    page = pages["secret"].lower()
    assert not [word for word in SECRETS if word.lower() in page]
    own = "".join(path.read_text() for path in TEMPLATES.iterdir()).lower()
    texts = " ".join(path.read_text() for path in sorted(small_corpus.iterdir())[:24]).lower()
    rare = set(re.findall(r"[a-z]{7,}", texts)) - set(re.findall(r"[a-z]+", own))
    said = set(
        re.findall(r"[a-z]+", re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S))
    )
    assert rare & said <= {"checked", "another", "pseudo", "measured", "training", "continuation"}
    assert "there is no token map: the recipe keeps no text (judging.keep_text: false)" in page
    assert re.search(r"document \d+", page)  # where a file's name would stand
    assert "by how often the training text has the token" in page  # bands need no text


def test_a_run_that_was_not_judged_says_so_and_shows_its_training(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe("gpt2", training={"steps": 2})
    run = finetune(recipe, tmp_path, Options(gate=False, judge=False), Screen(quiet=True))
    seen = Seen((run.folder / "report.html").read_text())
    assert "Trained, not judged" in seen.text("p")
    assert "Learning curve" in seen.text("h3") and "Token map" not in seen.text("h2")


def test_what_is_missing_of_a_run_is_left_out_or_named_in_one_line(
    reported: dict[str, Run], tmp_path: Path
) -> None:
    run = Run.open(shutil.copytree(reported["hostile"].folder, tmp_path / "hostile"))
    shutil.rmtree(run.folder / "scores")
    (run.folder / "metrics.jsonl").write_text('{"step": 1, "loss_')
    with pytest.raises(FtError, match=r"metrics\.jsonl: expected a JSON object a line"):
        report(run)
    (run.folder / "metrics.jsonl").unlink()
    seen = Seen(report(run))
    assert "Verdict" in seen.text("h2")
    assert not {"Token map", "Where it changed"} & set(seen.texts["h2"])
    damaged = json.loads((run.folder / "comparison.json").read_text())
    damaged["corpora"][0]["base"]["nll_nats"] += 1
    (run.folder / "comparison.json").write_text(json.dumps(damaged))
    done = CliRunner().invoke(app, ["report", str(run.folder)])
    assert done.exit_code == 2 and "comparison.json: expected the values that were" in done.output
    done = CliRunner().invoke(app, ["report", str(reported["hostile"].folder), "--out", str(tmp_path)])
    assert done.exit_code == 2 and "a folder" in done.output


def _plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def _passages(page: str) -> str:
    return _plain("".join(re.findall(r'dir="auto">(.*?)</div>', page, re.S)))
