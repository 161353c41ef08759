"""A run as a file for other programs, scored there before it gets its name: ft export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ft_toolkit.artefacts import folder_written_whole, written_whole
from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.progress import Screen

if TYPE_CHECKING:  # torch comes with them; --help must not wait
    from peft import PeftModel
    from transformers import PreTrainedModel

    from ft_toolkit.judging.exported import Probed
    from ft_toolkit.models.language_model import LanguageModel
    from ft_toolkit.run import Run

DTYPES = {"gguf": ("float16", "float32"), "onnx": ("float32",)}  # the first is the default


@dataclass(frozen=True)
class Form:
    """What to write: kind gguf or onnx; dtype None: the kind's default; adapter: gguf's LoRA alone."""

    kind: str
    dtype: str | None = None
    adapter: bool = False

    def checked(self) -> Form:
        """With its dtype.

        raises   FtError for what there is not
        """
        if self.kind not in DTYPES:
            cure = "Choose one; ft merge writes for transformers."
            raise FtError("--to", f"one of {', '.join(DTYPES)}", self.kind, cure)
        if self.adapter and self.kind != "gguf":
            raise FtError("--adapter", "--to gguf", f"--to {self.kind}", "Leave --adapter out: it is merged.")
        known = ("float32",) if self.adapter else DTYPES[self.kind]
        if self.dtype not in (None, *known):
            what = "an adapter" if self.adapter else self.kind
            raise FtError("--dtype", f"{' or '.join(known)} for {what}", self.dtype, "Leave --dtype out.")
        return Form(self.kind, self.dtype or known[0], self.adapter)

    def name(self, run: Run) -> str:
        """Of the file, or of the folder."""
        if self.kind == "onnx":
            return "onnx"
        return f"{run.recipe.name}-{'adapter' if self.adapter else self.dtype}.gguf"


@one_line_errors()
def main(
    run: Annotated[str, typer.Argument(help="A run folder, or hub:owner/name[@revision].")],
    to: Annotated[str, typer.Option(help="gguf: GPT-2, for llama.cpp; onnx: masked models.")],
    out: Annotated[
        Path | None, typer.Option(help="A new file (gguf) or folder (onnx); by default in the run folder.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="gguf: float16, the default, or float32; onnx: float32.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="gguf: the LoRA alone, for the base's own file.")
    ] = False,
) -> None:
    """Write a run as one file for llama.cpp or onnxruntime, and check that it scores the same there."""
    from ft_toolkit.sharing.pulled import open_run

    screen, form = Screen(), Form(to, dtype, adapter).checked()
    export(open_run(run, screen.say), form, out, screen=screen)


def export(run: Run, form: Form, out: Path | None = None, *, screen: Screen | None = None) -> Path:
    """Write it under another name, score it there, and only then give it its own.

    out      a path that is not there yet; by default in the run folder
    returns  the file (gguf) or folder (onnx)
    raises   FtError for a path that is taken, a missing extra, and a model that the format cannot say;
             IntegrityFailed when the other program's scores are not the run's
    """
    from ft_toolkit.judging.exported import READERS, probed
    from ft_toolkit.judging.merging import probe_texts
    from ft_toolkit.run_models import scoring_session, trained_pair

    screen, form = screen or Screen(), form.checked()
    place = out or run.folder / form.name(run)
    if place.exists() or place.is_symlink():
        raise FtError(place, "a path that is not there yet", "one that is", "Move it, or use --out.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place.parent):
            pass
    except OSError as error:  # before the models are loaded
        raise FtError(place, "a folder to write to", error.strerror, "Choose another with --out.") from None
    tuned = trained_pair(run, scoring_session("cpu", screen)).tuned
    check_writable(tuned, form)
    wanted = probed(tuned, probe_texts(run))  # before the merge, which changes the model
    moved = _onnx(run, wanted, place) if form.kind == "onnx" else _gguf(run, wanted, place, form)
    size = sum(path.stat().st_size for path in (place.iterdir() if place.is_dir() else [place])) / 1e6
    if moved is None:
        said = f"not checked: {READERS[form.kind]} is not installed"
    else:
        said = f"at most {moved:.1e} nats a token from the run, as {READERS[form.kind]} scores it"
    screen.say(f"exported: {place} ({size:.1f} MB, {form.dtype}), {said}")
    return place


def check_writable(tuned: LanguageModel, form: Form) -> None:
    """raises   FtError for a missing extra, and for what the format cannot say"""
    from peft import PeftModel

    from ft_toolkit.models import gguf_writing, onnx_writing

    (onnx_writing if form.kind == "onnx" else gguf_writing).check_writable(tuned)
    if form.adapter:
        if not isinstance(tuned.model, PeftModel):
            raise FtError("--adapter", "a run with an adapter", "a whole model", "Leave --adapter out.")
        gguf_writing.check_adapter(tuned.model)


def _gguf(run: Run, wanted: Probed, place: Path, form: Form) -> float | None:
    """Nats a token apart, for the worst text; None where llama-cpp-python is not installed."""
    from ft_toolkit.judging.exported import is_readable, moved_by_gguf
    from ft_toolkit.models.checkpoints import load_base
    from ft_toolkit.models.gguf_writing import write_adapter, write_model

    tuned, name = wanted.model, run.recipe.name
    with written_whole(place) as temporary:
        if not form.adapter:
            write_model(_merged(tuned), tuned.tokenizer, temporary, name, half=form.dtype == "float16")
            return moved_by_gguf(wanted, temporary) if is_readable("gguf") else None
        write_adapter(cast("PeftModel", tuned.model), temporary, name)
        if not is_readable("gguf"):
            return None
        with TemporaryDirectory() as folder:
            under = Path(folder) / "base.gguf"
            base = load_base(run.recipe.base)  # afresh: the pair's has the adapter in it
            write_model(cast("PreTrainedModel", base.model), base.tokenizer, under, base.name, half=False)
            return moved_by_gguf(wanted, under, temporary)


def _onnx(run: Run, wanted: Probed, place: Path) -> float | None:
    """Nats a token apart, for the worst text; None where onnxruntime is not installed."""
    from ft_toolkit.judging.exported import is_readable, moved_by_onnx
    from ft_toolkit.judging.merging import forget_this_machine
    from ft_toolkit.models.onnx_writing import input_names, write_onnx

    tuned = wanted.model
    with folder_written_whole(place) as temporary:
        plain = _merged(tuned)
        write_onnx(plain, input_names(tuned), tuned.positions, temporary / "model.onnx")
        plain.config.save_pretrained(temporary)
        tuned.tokenizer.save_pretrained(temporary)
        forget_this_machine(temporary / "config.json")
        return moved_by_onnx(wanted, temporary / "model.onnx") if is_readable("onnx") else None


def _merged(tuned: LanguageModel) -> PreTrainedModel:
    """Base and adapter as one plain model; the adapter is gone from the tuned one afterwards."""
    from peft import PeftModel

    if not isinstance(tuned.model, PeftModel):
        return tuned.model
    return cast("PreTrainedModel", tuned.model.merge_and_unload())
