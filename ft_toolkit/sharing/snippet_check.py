"""What needs torch before a push, in a process of its own: run the snippet, merge the adapter.

    python -m ft_toolkit.sharing.snippet_check load RUN WEIGHTS_FOLDER OBJECTIVE MERGED OWN_TOKENIZER
    python -m ft_toolkit.sharing.snippet_check merge RUN FOLDER

The last line of stdout is the answer, as JSON.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

from ft_toolkit.errors import one_line_errors
from ft_toolkit.judging.merging import write_merged
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.references import BaseReference, parse_base
from ft_toolkit.run import Run
from ft_toolkit.runtime import prepare_process, prepare_torch
from ft_toolkit.sharing.snippet import Objective, Place, loading_snippet


def load(
    run: Run, weights_folder: Path, objective: Objective, *, merged: bool, own_tokenizer: bool
) -> dict[str, Any]:
    """Run the card's snippet with local folders, and say which base it was."""
    published = Place(str(weights_folder))
    if merged:
        exec(loading_snippet(objective, None, published, own_tokenizer=True), {})
        return {"base_sha256": None, "base_revision": None}
    base = load_base(run.recipe.base)
    folder, revision = _folder(parse_base(run.recipe.base))
    exec(loading_snippet(objective, Place(str(folder)), published, own_tokenizer=own_tokenizer), {})
    return {"base_sha256": base.weights_sha256, "base_revision": revision}


def _folder(base: BaseReference) -> tuple[Path, str | None]:
    """Where a base's own files are on this machine, and their commit on the Hub."""
    if base.folder is not None:
        return base.folder, None
    from huggingface_hub import hf_hub_download

    config = hf_hub_download(base.place, "config.json", revision=base.revision, local_files_only=True)
    folder = Path(config).parent  # loading the base has just filled it
    return folder, folder.name


def main() -> None:
    prepare_process()
    prepare_torch()
    verb, run_folder, folder, *rest = sys.argv[1:]
    run = Run.open(run_folder)
    with one_line_errors():
        with redirect_stdout(sys.stderr):  # what the snippet prints is not the answer
            if verb == "merge":
                answer = {"moved_nats": write_merged(run, Path(folder))}
            else:
                objective, merged, own_tokenizer = rest
                answer = load(
                    run,
                    Path(folder),
                    cast(Objective, objective),
                    merged=merged == "1",
                    own_tokenizer=own_tokenizer == "1",
                )
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
