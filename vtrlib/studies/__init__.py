"""The registered experiments, a module per chapter; `python -m vtrlib results` runs what the ledger lacks."""

from vtrlib.studies import world

__all__ = ["world"]
