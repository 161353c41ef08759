"""The wheel: whoever installs it has everything that the first command needs, offline."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    apart = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=apart | offline, capture_output=True, text=True
    )


def test_an_installed_wheel_trains_and_judges_from_an_empty_folder(tmp_path: Path) -> None:
    built = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, REPOSITORY,
        folder=tmp_path,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert {"ft_toolkit/py.typed", "ft_toolkit/recipes/quickstart.yaml"} <= names
    assert {f"ft_toolkit/starters/{name}/model.safetensors" for name in ("gpt2", "bert")} <= names
    for corpus in ("italian-cooking", "everyday-medicine", "general-probe"):
        assert len([name for name in names if f"corpora/{corpus}/documents/" in name]) > 30
    for labelled in ("italian-cooking", "everyday-medicine"):
        assert {f"ft_toolkit/labelled/{labelled}/{file}" for file in ("sentences.csv", "README.md")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "runs/"))]

    installed = tmp_path / "installed"
    venv.create(installed, with_pip=False)
    python = installed / "bin" / "python"
    paths = {"base": str(installed), "platbase": str(installed)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    install = run(
        sys.executable, "-m", "pip", "--python", python, "install",
        "--no-deps", "--no-compile", "--quiet", wheel,
        folder=tmp_path,
    )  # fmt: skip
    assert install.returncode == 0, install.stderr
    # nothing is downloaded: the dependencies are seen where these tests see them, behind the wheel's own
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    away = tmp_path / "away"
    away.mkdir()
    asked = run(python, "-c", "import ft_toolkit; print(ft_toolkit.__file__)", folder=away)
    assert asked.stdout.strip() == str(packages / "ft_toolkit" / "__init__.py"), asked.stderr

    cheap = ("training.steps=2", "training.batch_tokens=512", "judging.general=null", "corpus.split.test=0.1")
    values = [word for value in cheap for word in ("--set", value)]
    ended = run(installed / "bin" / "ft", "finetune", "quickstart", *values, folder=away)
    assert ended.returncode == 0, ended.stderr
    assert "perplexity than its base on unseen text of italian-cooking" in ended.stdout
    kept = {path.name for path in (away / "runs" / "quickstart").iterdir()}
    assert {"adapter", "comparison.json", "run.log", "metrics.jsonl"} <= kept
    assert [path.name for path in away.iterdir()] == ["runs"]
