"""The registered experiments, a module per chapter; `python -m vtrlib results` runs what the ledger lacks."""

from vtrlib.studies import (
    discovla_cost, discovla_tables, dreamprvr, msrvtt, msvd, partial, pig_cost, pig_start, pig_tables, ragme,
    ragme_captions, registers, similarity, text_space, tiny_clip, world,
)  # fmt: skip

__all__ = [
    "discovla_cost", "discovla_tables", "dreamprvr", "msrvtt", "msvd", "partial", "pig_cost", "pig_start", "pig_tables",
    "ragme", "ragme_captions", "registers", "similarity", "text_space", "tiny_clip", "world",
]  # fmt: skip
