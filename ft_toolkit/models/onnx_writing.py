"""A masked model as an ONNX file: token ids in, logits out, for any number and length of rows."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ft_toolkit.errors import FtError
from ft_toolkit.models.language_model import LanguageModel

_WHERE = "ft export --to onnx"
_EXAMPLE = (2, 8)  # rows and tokens of what is traced; both stay open in the file


def check_writable(model: LanguageModel) -> None:
    """raises   FtError without the extra `onnx`, and for a causal model"""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        cure = "pip install 'ft-toolkit[onnx]'"
        raise FtError(_WHERE, f"the package {error.name}", "none installed", cure) from None
    if model.family.objective != "masked":
        found = f"{model.name}, a causal one"
        raise FtError(_WHERE, "a run of a masked model", found, "Use --to gguf for a GPT-2, or ft merge.")


def input_names(model: LanguageModel) -> list[str]:
    """What the file is given, each (rows, tokens): as the tokenizer makes it."""
    known = ("input_ids", "attention_mask", "token_type_ids")
    return [name for name in known if name in (*known[:2], *model.tokenizer.model_input_names)]


def write_onnx(plain: PreTrainedModel, names: list[str], longest: int, path: Path) -> None:
    """The whole model in float32, its weights inside the one file; no path of this machine is in it.

    names     of the inputs, as input_names has them; the output is `logits`, (rows, tokens, vocabulary)
    longest   row that the model reads
    raises    FtError for a model that torch cannot export
    """
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names every library that it does without
    rows, tokens = torch.export.Dim("rows", min=1), torch.export.Dim("tokens", min=1, max=longest)
    # a tensor each: torch would take two inputs of one tensor for one input
    inputs = tuple(torch.full(_EXAMPLE, int("type" not in name)) for name in names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(plain, names),
                inputs,
                str(path),
                input_names=names,
                output_names=["logits"],
                dynamic_shapes={"values": tuple({0: rows, 1: tokens} for _ in names)},
                external_data=False,
                verbose=False,
                dynamo=True,  # the older, tracing exporter wrote BERTs with other logits
            )
    except Exception as error:  # torch raises many types at what it cannot export
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        found = f"{plain.config.model_type}: {reason}"
        raise FtError(_WHERE, "a model that torch.onnx exports", found, "Use ft merge.") from None
    written = onnx.load(str(path))
    written.graph.ClearField("metadata_props")
    for part in (written.graph, *written.functions):
        for node in part.node:
            node.ClearField("metadata_props")  # where in the source a node comes from: this machine's folders
            node.ClearField("doc_string")
    onnx.save(written, str(path))


class _Logits(nn.Module):
    """The model with its inputs by position and its logits alone."""

    def __init__(self, plain: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.plain, self.names = plain, names

    def forward(self, *values: Tensor) -> Any:
        return self.plain(**dict(zip(self.names, values, strict=True))).logits
