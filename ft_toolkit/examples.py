"""Two lines for each command that work as pasted; its help ends with them.

They name recipes that ship, texts that ship, and the runs that these recipes make.
"""

from __future__ import annotations

EXAMPLES = {
    "finetune": ("ft finetune quickstart", "ft finetune quickstart-bert --set training.epochs=2 --no-judge"),
    "resume": ("ft resume runs/quickstart", "ft resume runs/quickstart --restart"),
    "compare": (
        "ft compare runs/quickstart",
        "ft compare runs/quickstart --on package:everyday-medicine --details",
    ),
    "corpus": ("ft corpus quickstart", "ft corpus package:everyday-medicine --base starter/bert"),
    "runs": ("ft runs", "ft runs --runs runs --json"),
    "recipes": ("ft recipes", "ft recipes show quickstart"),
    "recipes show": (
        "ft recipes show quickstart",
        "ft recipes show quickstart --set training.epochs=5",
    ),
    "push": (
        "ft push runs/quickstart --to me/cooking-lora",
        "ft push runs/quickstart --to me/cooking-lora --scores --tag v1",
    ),
    "report": (
        "ft report runs/quickstart",
        "ft report runs/quickstart runs/quickstart-bert --out index.html",
    ),
    "audit": ("ft audit runs/quickstart", "ft audit runs/quickstart --calibration --null 5 --json"),
    "try": ('ft try runs/quickstart "Peel the garlic and"', "ft try runs/quickstart --web"),
    "probe": (
        "ft probe runs/quickstart-bert --labels package:everyday-medicine",
        "ft probe runs/quickstart-bert --labels package:italian-cooking --json",
    ),
    "export": (
        "ft export runs/quickstart --to gguf",
        "ft export runs/quickstart-bert --to onnx --out elsewhere",
    ),
    "merge": ("ft merge runs/quickstart", "ft merge runs/quickstart --to merged --dtype bfloat16"),
    "mix": (
        "ft mix runs/quickstart:0.5 --to runs/half",
        "ft mix runs/quickstart:0.7 runs/quickstart-2:0.3 --to runs/both",
    ),
    "tune": ("ft tune quickstart --budget 30m", "ft tune quickstart-bert --budget 1h --to tuned.yaml"),
    "ladder": ("ft ladder quickstart", "ft ladder quickstart-bert --set training.epochs=1"),
    "plan": ("ft plan quickstart", "ft plan --family gpt2 --layers 24 --width 1024 --heads 16 --tokens 2e6"),
    "cache": ("ft cache", "ft cache --clear"),
    "doctor": ("ft doctor", "python -m ft_toolkit doctor"),
}


def epilog(command: str) -> str:
    """What the help of a command ends with; the \\b keeps the lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[command])])
