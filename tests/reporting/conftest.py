"""Two judged runs for the reports: one of hostile documents, and one that keeps no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

HOSTILE = (
    "</script><script>document.title='owned'</script>\n<img src=x onerror=\"document.title='owned'\">"
    "'\"`${7*7} {{ 7*7 }} {% raw %} &lt;b&gt; \x1b[31m \u202e 🦉 <!-- ]]> javascript:alert(1)\n"
)
SECRETS = ("Quixovaldrine", "Zyxomatetra")  # in every text, and in every file's name


def trained(name: str, checkpoint: Path, corpus: Path, runs: Path, *, keep_text: bool) -> Run:
    recipe = {
        "name": name,
        "base": str(checkpoint),
        "corpus": {"source": str(corpus)},
        "training": {"steps": 3, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
        "judging": {"general": None, "keep_text": keep_text},
    }
    if not keep_text:
        recipe["judging"] = {"general": None, "keep_text": False, "protocol": "covering"}
    return finetune(Recipe.model_validate(recipe), runs, Options(gate=False), Screen(quiet=True))


@pytest.fixture(scope="session")
def reported(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """hostile: a causal model; secret: a masked one whose recipe keeps no text."""
    place = tmp_path_factory.mktemp("reported")
    found = {}
    for name, family, mark in (("hostile", "gpt2", HOSTILE), ("secret", "bert", " ".join(SECRETS))):
        corpus = place / f"{name}-corpus"
        corpus.mkdir()
        for number, path in enumerate(sorted(small_corpus.iterdir())[:24]):
            title = "<img src=x onerror=alert(1)>" if name == "hostile" else SECRETS[1]
            (corpus / f"{title} {number}.md").write_text(f"{mark} {number}\n{path.read_text()[:600]}")
        keeps = name == "hostile"
        found[name] = trained(name, checkpoints[family], corpus, place / "runs", keep_text=keeps)
    return found
