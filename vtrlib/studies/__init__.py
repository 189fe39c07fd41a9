"""The registered experiments, a module per chapter; `python -m vtrlib results` runs what the ledger lacks."""

from vtrlib.studies import similarity, world

__all__ = ["similarity", "world"]
