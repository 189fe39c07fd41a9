"""Scores changed after the fact against hubs, videos that are near to too many queries.

Both ways need more than one query to score one. A result with them is no result of the model alone and does not
compare with one without them; the papers list theirs apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.metrics.standing import finite

__all__ = ["dual_softmax", "querybank_norm"]


def dual_softmax(scores: Tensor, *, scale: float = 100.0, dtype: torch.dtype = torch.float64) -> Tensor:
    r"""DSL at inference (dual softmax; Cheng et al. 2021, CAMoE): $S'_{ij} = S_{ij} \cdot \mathrm{softmax}_i(s \, S_{ij})$.

    Caution: the softmax runs over the *queries*. All test queries must be there at once, their number and their mix
    change every score, and it presumes that each video is wanted about equally often. A service that answers one
    query at a time cannot do this.

    Where $S$ is negative the product turns the order round (a less probable pair scores higher), as in the released
    code; it matters only if a query's best scores are negative.

    Args:
        scores: (Q, V). For video to text give the transpose.
        scale: inverse temperature s > 0; PIG's code takes 100.
        dtype: of the computation and the result. In float32, as released, the softmax of cosines vanishes beyond a
            difference of about 1, so that scores tie at 0; float64 reaches to 7.

    Returns:
        (Q, V); −inf stays −inf.

    Raises:
        ValueError: a score is NaN or +inf, or `scale` is not positive.
    """
    check.sizes("scores", scores, "Q V")
    finite("scores", scores)
    if not scale > 0:
        raise ValueError(f"scale={scale}: expected a positive number, such as 100.")
    wide = scores.to(dtype)
    return (wide * (scale * wide).softmax(0)).masked_fill(wide == -torch.inf, -torch.inf)


def querybank_norm(scores: Tensor, bank: Tensor, *, scale: float = 20.0, top: int = 1) -> Tensor:
    r"""QB-Norm (Bogolin et al. 2022): dynamic inverted softmax against a bank of other queries.

    A video is a hub if it is among the `top` of any query of the bank. A query whose best video is a hub gets
    $\log \frac{\exp(s\,S_{qj})}{\sum_{b} \exp(s\,S_{bj})}$, the logarithm of the paper's score, which ranks alike and
    does not overflow; any other query keeps its scores. So rows are on two scales: compare within a row only.

    Caution: it needs a bank, queries of the *training* split scored against the test gallery. With test queries as a
    bank it needs all of them at once, like `dual_softmax`, and the result must say so.

    Args:
        scores: (Q, V), floating.
        bank: (B, V), scores of B other queries with the same videos.
        scale: inverse temperature s > 0; 20 in the paper.
        top: videos per bank query that count as hubs, ≥ 1.

    Returns:
        (Q, V), at least float32.

    Raises:
        ValueError: sizes differ, a score is NaN or +inf, or a setting is out of range.
    """
    known = check.sizes("scores", scores, "Q V")
    check.sizes("bank", bank, "B V", known)
    finite("scores", scores)
    finite("bank", bank)
    if not scale > 0:
        raise ValueError(f"scale={scale}: expected a positive number, such as 20.")
    check.integer("top", top, low=1, high=known["V"])
    wide = torch.promote_types(scores.dtype, torch.float32)
    scores, bank = scores.to(wide), bank.to(wide)
    hub = torch.zeros(known["V"], dtype=torch.bool, device=scores.device)
    hub[bank.topk(top, 1).indices.flatten()] = True
    crowd = (scale * bank).logsumexp(0)
    inverted = (scale * scores - crowd).masked_fill(scores == -torch.inf, -torch.inf)  # −inf − (−inf) would be NaN
    return torch.where(hub[scores.argmax(1)][:, None], inverted, scores)
