"""One training loop for every model of the book, on Hugging Face Accelerate; `fit` is the way in."""

from vtrlib.training import schedules
from vtrlib.training.config import Config
from vtrlib.training.history import History
from vtrlib.training.loop import Interrupted, fit
from vtrlib.training.optimisers import BertAdam, TransformersAdamW, adam, adamw, bert_adam, transformers_adamw

__all__ = [
    "BertAdam", "Config", "History", "Interrupted", "TransformersAdamW", "adam", "adamw", "bert_adam", "fit",
    "schedules", "transformers_adamw",
]  # fmt: skip
