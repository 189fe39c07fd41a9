"""DreamPRVR's text space on Moving Digits: what its losses ask for, what they get.

Fig. 4 of the paper shows a t-SNE of queries, coloured by video, with the diversity loss
alone and with QSP beside it. Here the same spaces are scored: in the plane, in the
original space, against an untrained encoder, and against a reader who knows the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vtrlib.experiments import experiment
from vtrlib.studies.dreamprvr import STEPS, VARIANTS, first_losses, settings

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.datasets.prvr import PartialRelevance
    from vtrlib.dreamprvr import Config, DreamPRVR
    from vtrlib.world import MovingDigits

__all__ = [
    "Shared", "balance", "embed", "few_videos", "forces", "mean_cosines", "reader",
    "settle", "shared", "structure", "text_models", "text_space", "untrained",
]  # fmt: skip

VIDEOS = 20  # of a picture, as in the paper's Fig. 6
_MODELS = ("full", "L_div only", "w/o L_tss")


class Shared(NamedTuple):
    """What queries have in common: for each of Q queries the number of its

    Attributes:
        video: the one it was written for.
        event: digit, colour and motion.
        scene: of its video.
    """

    video: Tensor
    event: Tensor
    scene: Tensor


def shared(world: MovingDigits) -> Shared:
    """Of the queries of a world, which are those of `studies.dreamprvr.world`."""
    import torch

    queries = world.queries()
    numbers = {event: n for n, event in enumerate({q.event: 0 for q in queries})}
    video = torch.tensor([query.video for query in queries])
    event = torch.tensor([numbers[query.event] for query in queries])
    return Shared(video, event, torch.from_numpy(world.screenplay.scene)[video])


def reader(world: MovingDigits) -> Tensor:
    r"""P(scene | caption), (Q, scenes): all that a caption says about its video.

    $$ P(s \mid e, S) \propto \mathbb 1[s \in S]\, P(e_{digit} \mid s)\,
       P(e_{colour} \mid s)\, P(e_{motion} \mid s) $$

    Events of a video are drawn one by one, given its scene. So two captions of one
    video have nothing in common but what they say about the scene. An embedding that
    knew exactly this is as pure as one can hope for.
    """
    import numpy as np
    import torch

    from vtrlib.world import card

    digit, colour, motion = (
        weights / weights.sum(1, keepdims=True)
        for weights in (card.DIGIT_WEIGHTS, card.COLOUR_WEIGHTS, card.MOTION_WEIGHTS)
    )
    beliefs = []
    for query in world.queries():
        event, allowed = query.event, np.zeros(len(digit))
        allowed[list(query.scenes)] = 1
        likely = digit[:, event.digit] * colour[:, event.colour]
        belief = allowed * likely * motion[:, event.motion]
        beliefs.append(belief / belief.sum())
    return torch.tensor(np.array(beliefs))


def mean_cosines(queries: Tensor, kinds: Shared) -> dict[str, float]:
    """The mean cosine of two different queries (Q, d), by what they share.

    Returns:
        Of "video" (the same one), "event" and "scene" (the same, of another video) and
        "other" (all pairs of different videos).
    """
    import torch

    from vtrlib.similarity import cosine

    cosines = cosine(queries, queries)
    video, event, scene = (x[:, None] == x for x in kinds)
    alone = torch.eye(len(queries), dtype=torch.bool)
    which = {
        "video": video & ~alone, "event": event & ~video, "scene": scene & ~video,
        "other": ~video,
    }  # fmt: skip
    return {kind: float(cosines[pairs].mean()) for kind, pairs in which.items()}


def structure(queries: Tensor, kinds: Shared) -> dict[str, float]:
    r"""How a text space (Q, d) is built, in numbers; all from cosines.

    Returns:
        "purity" and "silhouette" of videos, see `vtrlib.clusters`; "event purity";
        "dispersion", 1 − the mean cosine of queries of different videos; "coherence",
        by how much the mean cosine of a video's queries is higher; "video cosine" and
        "event cosine", see `mean_cosines`.
    """
    from vtrlib.clusters import neighbour_purity, silhouette

    cosines = mean_cosines(queries, kinds)
    return {
        "purity": neighbour_purity(queries, kinds.video),
        "silhouette": silhouette(queries, kinds.video),
        "event purity": neighbour_purity(queries, kinds.event),
        "dispersion": 1 - cosines["other"],
        "coherence": cosines["video"] - cosines["other"],
        "video cosine": cosines["video"],
        "event cosine": cosines["event"],
    }


def few_videos(kinds: Shared, videos: int = VIDEOS, seed: int = 0) -> Tensor:
    """Which queries are of `videos` videos drawn at random: their places.

    Raises:
        ValueError: there are fewer videos.
    """
    import torch

    there = kinds.video.unique()
    if len(there) < videos:
        raise ValueError(f"videos={videos}: expected at most {len(there)}, as there.")
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))
    chosen = there[order[:videos]]
    return torch.isin(kinds.video, chosen).nonzero().flatten()


def embed(model: DreamPRVR, data: PartialRelevance) -> Tensor:
    """All queries of a split, (Q, d)."""
    import torch

    model.eval()
    with torch.no_grad():
        parts = data.query_batches(500)
        return torch.cat([model.encode_query(p.queries, p.query_mask) for p in parts])


def untrained(config: Config, seed: int = 0) -> DreamPRVR:
    """The model that `studies.dreamprvr.train` starts from."""
    import torch

    from vtrlib.dreamprvr import DreamPRVR

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DreamPRVR(config)


def forces(config: Config, queries: int) -> tuple[float, float]:
    r"""How hard L_div pushes two queries of a video apart, and QSP pulls them together.

    Where all cosines are 0, of many queries, M of each video. The derivatives of Eq. 34
    and Eq. 4 with respect to one of the two cosines (i, j) and (j, i), times N:

    $$ \lambda_d\, \ell'(0)
       \Bigl(\text{as printed } \frac{2 \lambda_d\, \ell'(0)}{M - 1}\Bigr), \quad
       \frac{\lambda_q}{\tau (M - 1)}, \quad
       \ell'(0) = p \log(1 + e^{\omega \delta})
                  + \frac{\omega}{1 + e^{-\omega \delta}} $$

    with p the exponent of the first factor of $\ell$.

    Args:
        config: its weights, temperature, margins and reading.
        queries: M ≥ 2, of each video.
    """
    import math

    from vtrlib import check

    others = check.integer("queries", queries, low=2) - 1
    at = config.omega * config.delta
    slope = config.exponent * math.log1p(math.exp(at))
    slope += config.omega / (1 + math.exp(-at))
    push = config.weights.diversity * slope
    if config.reading.averages == "printed":
        push *= 2 / others
    return push, config.weights.qsp / (config.temperature * others)


def balance(config: Config, queries: int) -> float:
    """QSP's pull over L_div's push, see `forces`; above 1 QSP wins."""
    push, pull = forces(config, queries)
    return pull / push if push else float("inf")


def settle(
    config: Config, queries: int, *, videos: int = VIDEOS, width: int = 64,
    steps: int = 200, seed: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What Eq. 5 makes of vectors that are free to go anywhere.

    No words, no encoder, no videos: random vectors, M for each video, follow the
    gradient of λ_d L_div + λ_q L_qsp until they rest.

    Args:
        config: its weights, temperature, margins and reading.
        queries: M, of each video.
        videos, width: how many, and how wide the vectors are.
        steps: of Adam.
        seed: of where they start.

    Returns:
        (M · videos, width), and their videos' numbers.
    """
    import torch

    from vtrlib.dreamprvr import textual_losses

    labels = torch.arange(videos).repeat_interleave(queries)
    generator = torch.Generator().manual_seed(seed)
    free = torch.randn(len(labels), width, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([free], 0.05)
    weights = config.weights
    for _ in range(steps):
        terms = textual_losses(free, labels, config)
        loss = weights.diversity * terms["diversity"] + weights.qsp * terms["qsp"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return free.detach(), labels


def text_models(reading: str) -> dict[str, Config]:
    """Fig. 4's two spaces, the one without L_tss, and what tells their parts apart.

    "as printed" averages the losses as the paper does; "balance of TVR" takes the
    weights, temperature and margin of the losses that were released for TVR.
    """
    from vtrlib.dreamprvr import DATASETS, Reading

    models = {name: settings(reading, **VARIANTS[name]) for name in _MODELS}
    models["L_qsp only"] = settings(reading, weights={"diversity": 0.0})
    printed = Reading.of(reading)
    if printed.averages != "printed":
        printed = printed.flipped("averages")
    models["as printed"] = settings(printed)
    tvr, full = DATASETS["tvr"], models["full"]
    weights = tvr["weights"]
    models["balance of TVR"] = replace(
        full, temperature=tvr["temperature"], delta=tvr["delta"],
        weights=replace(full.weights, diversity=weights.diversity, qsp=weights.qsp),
    )  # fmt: skip
    return models


def pictured(queries: Tensor, kinds: Shared, draws: list[Tensor]) -> dict[str, float]:
    """Scores of pictures of a few videos, see `few_videos`: means over the draws.

    Returns:
        "few purity" and "few silhouette" of the queries themselves, "plane purity" and
        "plane silhouette" of their t-SNE.
    """
    from statistics import fmean

    from vtrlib.clusters import neighbour_purity, silhouette, tsne

    found: dict[str, list[float]] = {}
    for some in draws:
        mine, video = queries[some], kinds.video[some]
        plane = tsne(mine)
        for name, value in (
            ("few purity", neighbour_purity(mine, video)),
            ("few silhouette", silhouette(mine, video)),
            ("plane purity", neighbour_purity(plane, video, metric="euclidean")),
            ("plane silhouette", silhouette(plane, video, metric="euclidean")),
        ):
            found.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


def _canary(seed: int, *, reading: str, **others: Any) -> list[float]:
    return first_losses(seed, text_models(reading))


@experiment(
    "dreamprvr-text-space", seeds=(0, 1, 2, 3, 4), canary=_canary, reading="released",
    steps=STEPS, pictures=5,
)  # fmt: skip
def text_space(seed: int, reading: str, steps: int, pictures: int) -> dict[str, float]:
    """Fig. 4 in numbers, on test queries: each space, its pictures, and its SumR.

    "seen" are training queries, in pictures only.
    """
    from statistics import fmean

    from vtrlib.clusters import chance_purity, neighbour_purity
    from vtrlib.studies.dreamprvr import RATE, evaluate_on, train, world
    from vtrlib.world import MovingDigits

    data, test = world("train"), world("test")
    test_world = MovingDigits("test", "untrimmed", size=len(test))
    kinds = shared(test_world)
    seen = shared(MovingDigits("train", "untrimmed", size=len(data)))
    draws, seen_draws = (
        [few_videos(whose, seed=1000 * seed + n) for n in range(pictures)]
        for whose in (kinds, seen)
    )
    found: dict[str, float] = {}

    def measure(name: str, space: Tensor) -> None:
        scores = structure(space, kinds) | pictured(space, kinds, draws)
        found.update({f"{name}/{metric}": value for metric, value in scores.items()})

    models: Mapping[str, Config] = text_models(reading)
    for name, config in {**models, "untrained": models["full"]}.items():
        model = untrained(config, seed)
        if name != "untrained":
            model, _ = train(
                config, data, seed=seed, rate=RATE, steps=steps, val=world("val")
            )
        measure(name, embed(model, test))
        found[f"{name}/SumR"] = evaluate_on(model, test, seed)["SumR"]
        known = embed(model, data)
        found[f"{name}/seen purity"] = fmean(
            neighbour_purity(known[some], seen.video[some]) for some in seen_draws
        )
    measure("reader", reader(test_world))
    for metric, whose, where in (
        ("few", kinds, draws), ("plane", kinds, draws), ("seen", seen, seen_draws),
    ):  # fmt: skip
        chances = [chance_purity(whose.video[some]) for some in where]
        found[f"chance/{metric} purity"] = fmean(chances)
    found["chance/purity"] = chance_purity(kinds.video)
    found["chance/event purity"] = chance_purity(kinds.event)
    return found
