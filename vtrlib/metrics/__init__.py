"""Retrieval metrics, ties included: where the relevant video stands in each ranking, and what follows from that.

`evaluate` is the way in; `evaluate_both` does text to video and video to text at once.
"""

from vtrlib.metrics.bootstrap import QueryInterval, query_bootstrap
from vtrlib.metrics.generation import frechet_distance
from vtrlib.metrics.report import Report, evaluate, evaluate_both, locate
from vtrlib.metrics.rescoring import dual_softmax, querybank_norm
from vtrlib.metrics.standing import Standing, ranks, standing

__all__ = [
    "QueryInterval", "Report", "Standing", "dual_softmax", "evaluate", "evaluate_both", "frechet_distance", "locate",
    "query_bootstrap", "querybank_norm", "ranks", "standing",
]  # fmt: skip
