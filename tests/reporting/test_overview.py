"""Several runs on one page, and in ft runs: each with its own change, nothing of a name obeyed."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.reporting.figures import overlaid
from ft_toolkit.reporting.overview import summary
from ft_toolkit.run import Run
from reporting.test_report import Seen


@pytest.fixture
def index(reported: dict[str, Run], tmp_path: Path) -> Path:
    named = shutil.copytree(reported["hostile"].folder, tmp_path / "javascript:alert(1)")
    folders = [str(reported["secret"].folder), str(named)]
    done = CliRunner().invoke(app, ["report", *folders, "--out", str(tmp_path / "index.html")])
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'index.html'}\n")
    return tmp_path / "index.html"


def test_every_run_has_its_row_its_cell_and_its_curve(reported: dict[str, Run], index: Path) -> None:
    seen = Seen(index.read_text())
    for run in reported.values():
        held_out = run.comparison["corpora"][0]
        percent = as_percent(held_out["difference"]["nats_per_token"])
        assert f"{percent:+.1f} %".replace("-", "−") in seen.text("td")
        assert f"unseen {held_out['corpus']}" in seen.text("th")
    assert seen.text("p").startswith("2 runs side by side")
    assert "perplexity and pseudo-perplexity" in seen.text("p")  # two quantities, and it says so
    assert len([tag for tag, _ in seen.tags if tag == "polyline"]) == 2


def test_a_link_leads_to_the_runs_own_page_whatever_its_folder_is_called(index: Path) -> None:
    links = [has["href"] for tag, has in Seen(index.read_text()).tags if tag == "a"]
    assert links[0] == "#main"
    assert all(link is not None and link.startswith("./") for link in links[1:])
    assert "./javascript%3Aalert%281%29/report.html" in links


def test_a_summary_says_what_comparison_json_says(reported: dict[str, Run]) -> None:
    run = reported["hostile"]
    found, change = summary(run), run.comparison["corpora"][0]["difference"]
    assert found.percent == pytest.approx(100 * math.expm1(change["nats_per_token"]))
    assert (found.base, found.method, found.documents) == ("tiny-gpt2", "lora", 24)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found.date or "")
    assert re.fullmatch(r"−\d+\.\d % \(−\d+\.\d … −\d+\.\d\)", found.change)


def test_overlaid_curves_all_begin_at_zero() -> None:
    metrics = [{"step": 2, "validation_nats": 4.0}, {"step": 4, "validation_nats": 3.5}]
    found = overlaid([("a", metrics, 5.0), ("none", [], 5.0), ("b", metrics, 4.0)])
    assert found is not None and [(line.name, line.ends_at) for line in found.lines] == [
        ("a", "−1.50"),
        ("b", "−0.50"),
    ]
    starts = {line.points.split()[0] for line in found.lines}
    assert len(starts) == 1
    assert overlaid([("none", [], 5.0)]) is None


def test_several_runs_need_a_file_to_go_to(reported: dict[str, Run]) -> None:
    folders = [str(run.folder) for run in reported.values()]
    done = CliRunner().invoke(app, ["report", *folders])
    assert done.exit_code == 2 and "--out index.html" in done.output
