"""The registered experiments, a module per chapter; `python -m vtrlib results` runs what the ledger lacks."""

from vtrlib.studies import dreamprvr, msrvtt, partial, registers, similarity, text_space, tiny_clip, world

__all__ = ["dreamprvr", "msrvtt", "partial", "registers", "similarity", "text_space", "tiny_clip", "world"]
