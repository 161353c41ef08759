"""The real Hub: FT_LIVE=1, with a token that may write. A private repository comes and goes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi, ModelCard

from ft_toolkit.publish import Rights, plan_push, push
from ft_toolkit.run import Run
from ft_toolkit.sharing.hub import Destination
from ft_toolkit.sharing.pulled import open_run
from ft_toolkit.sharing.staging import Contents
from sharing.loopback import QUIET


@pytest.mark.live
@pytest.mark.skipif(os.environ.get("FT_LIVE") != "1", reason="talks to the real Hub; FT_LIVE=1 allows it")
def test_the_real_hub_takes_what_the_loopback_hub_takes(
    finished_run: Callable[[str], Run],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FT_CACHE", str(tmp_path / "cache"))
    api = HfApi()
    to = Destination(f"{api.whoami()['name']}/ft-toolkit-test-{uuid.uuid4().hex[:8]}")
    run = finished_run("gpt2")
    recipe = (run.folder / "recipe.yaml").read_text()
    (run.folder / "recipe.yaml").write_text(recipe.replace(run.recipe.base, str(checkpoints["gpt2"])))
    run, rights = Run.open(run.folder), Rights(base_license="mit")
    try:
        plan = plan_push(run, to, Contents(with_base=True), rights, screen=QUIET)
        ModelCard(plan.files["README.md"].read_text()).validate()
        assert push(plan, QUIET).is_new
        assert not push(plan, QUIET).is_new
        assert api.model_info(to.repo).private
        assert open_run(f"hub:{to.repo}").facts["sha256"] == run.facts["sha256"]
    finally:
        api.delete_repo(to.repo, missing_ok=True)
