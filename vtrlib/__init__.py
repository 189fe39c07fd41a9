"""vtrlib: the library behind *Video-Text Retrieval, Reproduced*.

Nothing heavy is imported here: `vtrlib.ledger` and `vtrlib.claims` serve the page build, which needs no torch.
"""

__version__ = "0.1.0"
