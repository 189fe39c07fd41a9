"""How DreamPRVR is read: as its paper says, or as its released code does."""

from __future__ import annotations

from dataclasses import dataclass

from vtrlib.readings import Switches

__all__ = ["Reading"]

# A switch's two values: as the paper has it, as the released code does.
_SWITCHES = {
    "start": ("sampled", "mean"),
    "heads": ("linear", "pooled"),
    "forward_noise": ("fresh", "mean"),
    "reverse_noise": ("fresh", "mean"),
    "reverse_step": ("noise", "clamped"),
    "time_code": ("sinusoidal", "random"),
    "windows": ("printed", "released"),
    "register_entry": ("direct", "projected"),
    "feature_encoder": ("own", "shared"),
    "padding": ("hidden", "seen"),
    "nce": ("cosine", "product"),
    "averages": ("printed", "released"),
    "dre_loss": ("sum", "mean"),
    "query_passes": ("one", "two"),
    "optimiser": ("adam", "bert_adam"),
}


@dataclass(frozen=True)
class Reading(Switches):
    r"""Where DreamPRVR's text and its released code differ, the paper's value first.

    Numbers in brackets are rows of the list of differences. Rows that are missing
    change no number (14, 29), are settings of `Config` (9, 21, 22), or concern data and
    protocol (24, 25). Row 4 needs no switch: both compute the same KL; $\|\mu\| = 1$
    makes its $\mu^2$ a constant in both, and what its gradient reaches follows from
    `heads`.

    Attributes:
        start: where generation starts [1]. "sampled": $r_T = \mu + \sigma \epsilon$ for
            each register (Eq. 9), so that the model draws at inference too; "mean": all
            registers start at $\mu$, and $\sigma$ reaches no output.
        heads: of the video-centric distribution [2, 3]. "linear": one layer each on the
            mean of V_v, $\sigma$ kept positive by a softplus; "pooled": sorted pooling
            and attention pooling, and $\log \sigma^2$.
        forward_noise: $\epsilon$ of Eq. 10 and 13 [5]. "fresh": $\mathcal N(0, I)$ for
            each step and register; "mean": $\mu$ for all of them, which is the target
            too and carries gradient.
        reverse_noise: z of Eq. 12 [7]. "fresh": $\mathcal N(0, I)$; "mean": $\mu$ at
            every step.
        reverse_step: "noise": Eq. 12 with $\sigma_t^2 = \beta_t$, as Algorithm 1;
            "clamped": the posterior's mean at an $\hat x_0$ held within ±1, and its
            variance [7, 8].
        time_code: "sinusoidal"; "random": $\mathcal N(0, 0.02^2)$, drawn once and never
            trained [10].
        windows: widths of the Gaussians [13]. "printed": $\infty, 2^{-2}, \dots,
            2^{N_o-3}$, which are $N_o + 1$; "released": to $2^{N_o-4}$, which are
            $N_o$. Both make a Gaussian of a width as the code does (see
            `gaussian_windows`): the paper calls it a variance and gives neither unit
            nor formula.
        register_entry: "direct": $r_0$ itself stands beside the video's tokens;
            "projected": norm, layer, ReLU [15].
        feature_encoder: "own": V_v has its own layer and positions; "shared": the clip
            branch's [26].
        padding: "hidden": padded frames take part nowhere; "seen": their zero vectors
            take part in a video's maximum, so that no score is negative, and their
            states in the token that mixes the blocks [27].
        nce: similarity in InfoNCE [17]. "cosine": cosines, each positive against the
            negatives; "product": dot products, a video's positives summed.
        averages: of the triplet loss [18], over "printed": pairs, or "released":
            queries and videos; of the diversity loss [19], per video's pairs and over
            videos, or over all queries; and whether a query is among its own
            competitors in QSP [20] ("printed": yes).
        dre_loss: squared error, "sum" over steps, registers and channels (Algorithm 1),
            or their "mean" [6]. The one is T N_r d times the other, so that only λ_dre
            changes its meaning.
        query_passes: the text encoder runs "one" time a step, or "two" with other
            dropout: the first embeddings for the textual losses, the second for the
            scores [28].
        optimiser: "adam" or "bert_adam", a function of `vtrlib.training` each [23].

    Raises:
        ValueError: a switch has no such value.
    """

    VALUES = _SWITCHES

    start: str = "sampled"
    heads: str = "linear"
    forward_noise: str = "fresh"
    reverse_noise: str = "fresh"
    reverse_step: str = "noise"
    time_code: str = "sinusoidal"
    windows: str = "printed"
    register_entry: str = "direct"
    feature_encoder: str = "own"
    padding: str = "hidden"
    nce: str = "cosine"
    averages: str = "printed"
    dre_loss: str = "sum"
    query_passes: str = "one"
    optimiser: str = "adam"
