"""Fine-tune small GPT-2 and BERT checkpoints with LoRA, and measure honestly whether it helped."""

__version__ = "0.1.0"
