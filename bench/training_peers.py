"""One process of bench/training.py that trains as a peer does; imports nothing of ft_toolkit.

    python bench/training_peers.py {trainer,trainer-best,trl} CASE STEPS

trainer        transformers' Trainer with peft as run_clm and run_mlm have it: the base's dropout is on
trainer-best   the same with every flag that helps on a CPU: no dropout, rows sorted by length, fused AdamW,
               and bfloat16 where the processor has it
trl            TRL's SFTTrainer, with packing
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from training_cases import ALPHA, CASES, MASKED, RANK, Case, figures
from transformers import Trainer, TrainerCallback, TrainingArguments

MASK_ID = 103


class Moments(TrainerCallback):  # type: ignore[misc]  # the peers' environment has no types
    """The time at the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter())


def collate(rows: Sequence[dict[str, list[int]]], case: Case) -> dict[str, torch.Tensor]:
    """Pad to the longest; for masked models mask as DataCollatorForLanguageModeling does."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    seen = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[number, :length], seen[number, :length] = torch.tensor(row["input_ids"]), 1
    labels = ids.masked_fill(seen == 0, -100)
    if case.objective == "masked":
        hidden = torch.rand(ids.shape) < MASKED
        labels, ids = labels.masked_fill(~hidden, -100), ids.masked_fill(hidden, MASK_ID)
    return {"input_ids": ids, "attention_mask": seen, "labels": labels}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, and is not to be used as an older one."""
    if os.environ.get("ATEN_CPU_CAPABILITY", "avx512") != "avx512":
        return False
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text()


def arguments(side: str, case: Case, folder: str) -> dict[str, Any]:
    """What both kinds of peer are told."""
    best = side != "trainer"
    told = {
        "output_dir": folder,
        "per_device_train_batch_size": case.rows,
        "num_train_epochs": 1,
        "learning_rate": 2e-4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": best and has_bfloat16(),
        "optim": "adamw_torch_fused",
    }
    if side == "trainer-best" and case.is_ragged:
        told["train_sampling_strategy"] = "group_by_length"
    return told


def lora(case: Case) -> LoraConfig:
    """The adapter that the toolkit trains too."""
    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(case.targets), fan_in_fan_out=case.objective == "causal"
    )


def train(side: str, case: Case, documents: Sequence[NDArray[np.int64]]) -> list[float]:
    """Seconds at the end of each step."""
    model, moments = case.model, Moments()
    if side != "trainer":
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for name in ("attn_pdrop", "attention_probs_dropout_prob"):
            if hasattr(model.config, name):
                setattr(model.config, name, 0.0)
        for module in model.modules():
            for name in ("dropout_prob", "attn_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
    dataset = Dataset.from_dict({"input_ids": [ids.tolist() for ids in documents]})
    with tempfile.TemporaryDirectory() as folder:
        told = arguments(side, case, folder)
        if side == "trl":
            from transformers import AutoTokenizer
            from trl import SFTConfig, SFTTrainer

            config = SFTConfig(**told, max_length=case.row_tokens, packing=True, gradient_checkpointing=False)
            tokenizer = AutoTokenizer.from_pretrained(sys.argv[4])
            trainer: Any = SFTTrainer(
                model=model,
                args=config,
                train_dataset=dataset,
                processing_class=tokenizer,
                peft_config=lora(case),
                callbacks=[moments],
            )
        else:
            trainer = Trainer(
                model=get_peft_model(model, lora(case)),
                args=TrainingArguments(**told, remove_unused_columns=False),
                train_dataset=dataset,
                data_collator=lambda rows: collate(rows, case),
                callbacks=[moments],
            )
        trainer.train()
    return moments.seconds


def main() -> None:
    """Print the figures of one training as JSON."""
    side, case, steps = sys.argv[1], CASES[sys.argv[2]], int(sys.argv[3])
    documents = case.documents(steps)
    moments = train(side, case, documents)
    tokens = sum(map(len, documents)) * (len(moments) - 1) / len(moments)
    print(json.dumps(figures(moments, tokens)))


if __name__ == "__main__":
    main()
