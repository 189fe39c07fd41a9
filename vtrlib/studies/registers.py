"""DreamPRVR's registers on Moving Digits, watched from start to end (Fig. 6).

Whose they are: scores in their own space at every step, beside models that are
untrained, trained without L_dre, or whose estimator was trained on by itself. What they
know: a probe for the scene, and the text they are to approximate. Steps are counted as
in Fig. 6: T=0 is the start r_T, T=10 the result r_0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vtrlib.experiments import experiment
from vtrlib.studies.dreamprvr import (
    CHOSEN, PRINTED, STEPS, first_losses, settings, train, world,
)  # fmt: skip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vtrlib.datasets.prvr import PartialRelevance
    from vtrlib.dreamprvr import Config, DreamPRVR, Imagined

__all__ = [
    "SHOWN", "VIDEOS", "Lesson", "crossed", "estimator_errors", "gathered", "lesson",
    "models", "one_step", "planes", "purity", "registers", "saturation", "scene_probe", "targets",
    "text_match", "train_estimator", "untrained",
]  # fmt: skip

REGISTERS, VIDEOS, SHOWN = 16, 20, (0, 5, 10)
"""Of Fig. 6: registers a video, videos, and panels."""

ESTIMATOR_STEPS = 3000

RATES = {
    "released": {"trained": CHOSEN["full"], "w/o L_dre": CHOSEN["w/o L_dre"]},
    "paper": {"trained": PRINTED["paper"], "w/o L_dre": PRINTED["paper"]},
}
"""What validation chose, see `vtrlib.studies.dreamprvr`; for the paper's model without
L_dre that of the whole one."""


def models(reading: str, registers: int = REGISTERS) -> dict[str, Config]:
    """What is trained: the model, and without its register loss (Tab. 3, row 7)."""
    return {
        "trained": settings(reading, registers=registers),
        "w/o L_dre": settings(reading, {"dre": 0.0}, registers=registers),
    }


def untrained(config: Config, seed: int = 0) -> DreamPRVR:
    """The weights that `train` starts from, in evaluation mode."""
    import torch

    from vtrlib.dreamprvr import DreamPRVR

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DreamPRVR(config).eval()


class Lesson(NamedTuple):
    """What L_dre teaches with, of V videos.

    Attributes:
        features: V_v, (V, M_c, d).
        text: the mean of a video's queries, (V, d), which `perturb` makes targets of.
        mean: μ of the start, (V, d).
    """

    features: Tensor
    text: Tensor
    mean: Tensor


def lesson(model: DreamPRVR, data: PartialRelevance) -> Lesson:
    """Encode videos and queries once, without dropout."""
    import torch

    from vtrlib.dreamprvr import mean_queries

    model.eval()
    with torch.no_grad():
        queries = [
            model.encode_query(part.queries, part.query_mask)
            for part in data.query_batches(500)
        ]
        clips = torch.cat([part.clips for part in data.video_batches(100)])
        features = model.video.features(clips, model.video.embed_clips(clips))
        text = mean_queries(torch.cat(queries), data.relevant, len(data))
        return Lesson(features, text, model.video.sampler(features).mean)


def train_estimator(
    model: DreamPRVR, data: PartialRelevance, *, steps: int = ESTIMATOR_STEPS,
    seed: int = 0, rate: float = 6e-3, batch: int = 32,
) -> tuple[DreamPRVR, list[float]]:  # fmt: skip
    """Train estimator and condition on with L_dre alone, all else as it is.

    What the retrieval losses of `train` leave undone: L_dre (Eq. 13), its mean over
    registers and channels, at one step t per video, drawn anew each time.

    Args:
        model: stays as it is; a copy learns.
        data: what it learns from.
        steps, batch: updates by Adam, and videos of each.
        seed: of all draws.
        rate: peak of the learning rate, after a twentieth of the steps; then linear
            to 0.

    Returns:
        The copy, and L_dre of each step.
    """
    import copy

    import torch
    from torch.nn.functional import mse_loss

    from vtrlib.dreamprvr import perturb

    model = copy.deepcopy(model)
    video, config = model.video, model.config
    taught = lesson(model, data)
    model.requires_grad_(False)
    learning = [*video.condition.parameters(), *video.estimator.parameters()]
    learning = [weight for weight in learning if weight is not video.estimator.table]
    for weight in learning:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(learning, lr=rate)
    warm = max(steps // 20, 1)
    plan = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, (steps - k) / max(steps - warm, 1))
    )
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        chosen = torch.randint(len(taught.text), (batch,), generator=generator)
        t = torch.randint(1, config.steps + 1, (batch, 1), generator=generator)
        target = perturb(
            taught.text[chosen], config.registers, config.perturbation,
            generator=generator,
        )  # fmt: skip
        noise = _noise(model, target, taught.mean[chosen], generator)
        guidance = video.estimator.guide(video.condition(taught.features[chosen]))
        noisy = video.schedule.diffuse(target, t, noise)
        loss = mse_loss(video.estimator(noisy, t, guidance), noise)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        plan.step()
        losses.append(float(loss.detach()))
    model.requires_grad_(True)
    video.estimator.table.requires_grad_(False)  # as it was
    return model.eval(), losses


def _noise(
    model: DreamPRVR, target: Tensor, mean: Tensor, generator: Generator
) -> Tensor:
    """ε of Eq. 10 for targets (B, N_r, d), as the reading has it."""
    from vtrlib.diffusion import draw_normal

    if model.config.reading.forward_noise == "mean":
        return mean[:, None].expand_as(target)
    return draw_normal(target.shape, target, generator)


def estimator_errors(
    model: DreamPRVR, data: PartialRelevance, seed: int = 0
) -> tuple[float, float]:
    """Mean squared error of the estimator (Eq. 13), and of one that answers 0.

    The mean is over steps, videos, registers and channels, in either reading.
    """
    import torch

    from vtrlib.dreamprvr import forward_diffusion_loss, perturb

    taught, config = lesson(model, data), model.config
    generator = torch.Generator().manual_seed(seed)
    target = perturb(
        taught.text, config.registers, config.perturbation, generator=generator
    )
    noise = torch.stack(
        [_noise(model, target, taught.mean, generator) for _ in range(config.steps)]
    )
    with torch.no_grad():
        guidance = model.video.estimator.guide(model.video.condition(taught.features))
        error = forward_diffusion_loss(
            model.video.estimator, target, guidance, model.video.schedule, noise
        )
    return float(error), float(noise.square().mean())


def registers(model: DreamPRVR, data: PartialRelevance, seed: int = 0) -> Imagined:
    """Registers of all videos at all steps, r_T, …, r_0: (T + 1, V, N_r, d)."""
    import torch

    clips = torch.cat([part.clips for part in data.video_batches(100)])
    model.eval()
    with torch.no_grad():
        return model.imagine(
            clips, generator=torch.Generator().manual_seed(seed), trajectory=True
        )


def one_step(model: DreamPRVR, imagined: Imagined) -> Tensor:
    """Registers by a single jump, x̂_0 at t = T, (V, N_r, d); clamped if released."""
    x0 = _estimates(model, imagined)[0]
    return x0.clamp(-1, 1) if model.config.reading.reverse_step == "clamped" else x0


def saturation(model: DreamPRVR, imagined: Imagined) -> list[float]:
    """Share of the entries of x̂_0 outside ±1, for t = T, …, 1.

    The released step clamps these, and no gradient passes through them.
    """
    return [float((x0.abs() >= 1).float().mean()) for x0 in _estimates(model, imagined)]


def _estimates(model: DreamPRVR, imagined: Imagined) -> list[Tensor]:
    """x̂_0 before any clamp, for t = T, …, 1."""
    import torch

    video, found, last = model.video, [], model.config.steps
    with torch.no_grad():
        for t in range(last, 0, -1):
            x = imagined.registers[last - t]
            noise = video.estimator(x, t, imagined.guidance)
            found.append(video.schedule.x0_from_noise(x, t, noise))
    return found


def crossed(
    model: DreamPRVR, imagined: Imagined, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start from one video and be guided by another.

    Register k of video v starts where v does, and gets its condition from video
    v + k, counted round; so the registers that share a start share no condition.

    Returns:
        All states (T + 1, V, N_r, d); and three groupings of the registers, flattened,
        (V · N_r,) each: by start; by condition; and by neither, v - k, a control in
        which those that share a group share nothing, as by condition no start.

    Raises:
        ValueError: more registers than videos, of which some would meet again.
    """
    import torch

    from vtrlib.dreamprvr import Draws, generate_registers

    with torch.no_grad():
        condition = model.video.condition(imagined.features)  # (V, N_r, d)
        videos, number, _ = condition.shape
        if number > videos:
            raise ValueError(
                f"imagined: found {videos} videos, expected at least {number}, the "
                "number of registers."
            )
        start = torch.arange(videos)[:, None].expand(videos, number)
        other = (start + torch.arange(number)) % videos
        guidance = model.video.estimator.guide(condition[other, torch.arange(number)])
        states = generate_registers(
            model.video.estimator, imagined.start, guidance, model.video.schedule,
            model.config.reading, Draws(), torch.Generator().manual_seed(seed),
            trajectory=True,
        )  # fmt: skip
    neither = (2 * start - other) % videos
    return states, start.flatten(), other.flatten(), neither.flatten()


def gathered(
    state: Tensor, groups: Tensor | None = None, size: int = VIDEOS
) -> dict[str, float]:
    """How registers gather by video, mean over sets of `size` videos as in Fig. 6.

    Args:
        state: registers (V, N_r, d) of at least `size` videos; what is left over after
            the last whole set is left out.
        groups: of the registers of one set, (size · N_r,); by default their videos.
        size: videos of a set, ≥ 2.

    Returns:
        "purity" and "silhouette" by cosine; "within" and "across", the mean cosine of
        two registers of one video, and of two videos.
    """
    import torch

    from vtrlib.clusters import neighbour_purity, silhouette
    from vtrlib.similarity import unit

    if len(state) < size:
        raise ValueError(f"state: found {len(state)} videos, expected at least {size}.")
    number = state.shape[1]
    if groups is None:
        groups = torch.arange(size).repeat_interleave(number)
    same, itself = groups[:, None] == groups, torch.eye(len(groups), dtype=torch.bool)
    found = []
    for part in state.split(size)[: len(state) // size]:
        points = part.flatten(0, 1)
        directions = unit(points.double())
        cosines = directions @ directions.T
        found.append([
            neighbour_purity(points, groups), silhouette(points, groups),
            float(cosines[same & ~itself].mean()), float(cosines[~same].mean()),
        ])  # fmt: skip
    means = torch.tensor(found).mean(0).tolist()
    return dict(zip(("purity", "silhouette", "within", "across"), means, strict=True))


def purity(state: Tensor, size: int = VIDEOS) -> float:
    """Of `gathered` the purity alone, which takes half the time."""
    import torch

    from vtrlib.clusters import neighbour_purity

    groups = torch.arange(size).repeat_interleave(state.shape[1])
    parts = state.split(size)[: len(state) // size]
    found = [neighbour_purity(part.flatten(0, 1), groups) for part in parts]
    if not found:
        raise ValueError(f"state: found {len(state)} videos, expected at least {size}.")
    return sum(found) / len(found)


def targets(model: DreamPRVR, data: PartialRelevance) -> Tensor:
    """What registers are to approximate, unperturbed: whitened text, (V, d)."""
    from torch.nn.functional import layer_norm

    text = lesson(model, data).text
    return layer_norm(text, text.shape[-1:])


def text_match(state: Tensor, text: Tensor) -> tuple[float, float]:
    """Mean cosine of registers (V, N_r, d) with their own text, and with others'."""
    import torch

    from vtrlib.similarity import unit

    cosines = torch.einsum("vnd,wd->vw", unit(state), unit(text)) / state.shape[1]
    own = torch.eye(len(text), dtype=torch.bool)
    return float(cosines[own].mean()), float(cosines[~own].mean())


def scene_probe(
    state: Tensor, data: PartialRelevance, other: Tensor, asked: PartialRelevance
) -> float:
    """How often a linear probe names a video's scene.

    Args:
        state: (V, N, d) of the videos in `data`; the probe sees the mean over N.
        data: what it is fitted on.
        other, asked: what it is asked about, in the same form.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(state.mean(1).double().numpy(), _scenes(data))
    return float(probe.score(other.mean(1).double().numpy(), _scenes(asked)))


def _scenes(data: PartialRelevance) -> NDArray[np.int64]:
    """The scene of each video, (V,)."""
    from vtrlib.world import MovingDigits

    videos = MovingDigits(data.split, "untrimmed", size=len(data))  # the first of them
    found: NDArray[np.int64] = videos.screenplay.scene
    return found


def planes(
    states: Sequence[Tensor], seed: int = 0, iterations: int = 500
) -> list[NDArray[np.float64]]:
    """A t-SNE for each state, each turned to lie best on the one before.

    Each is fitted by itself, as far as we know like the panels of Fig. 6; turning,
    mirroring and scaling it as a whole changes nothing it shows. A state whose points
    all coincide has no t-SNE; all its points lie in the middle.

    Args:
        states: registers, (V, N_r, d) each.
        seed: of what is left to chance.
        iterations: of each, see `vtrlib.clusters.tsne`.

    Returns:
        (V · N_r, 2) each, of mean 0 and spread 1.
    """
    import numpy as np
    from scipy.linalg import orthogonal_procrustes

    from vtrlib.clusters import tsne

    found: list[NDArray[np.float64]] = []
    for state in states:
        points = state.flatten(0, 1)
        if coincide(points):
            found.append(np.zeros((len(points), 2)))
            continue
        found_plane = tsne(points, seed=seed, iterations=iterations)
        plane = found_plane.astype(np.float64)
        plane -= plane.mean(0)
        plane /= plane.std()
        if found and found[-1].any():
            plane = plane @ orthogonal_procrustes(plane, found[-1])[0]
        found.append(plane)
    return found


def coincide(points: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether points (N, d) are one, by direction and up to rounding."""
    from vtrlib.similarity import unit

    directions = unit(points.double())
    return bool(((directions - directions[0]).norm(dim=1) <= tolerance).all())


def _measured(
    model: DreamPRVR, seed: int, fitted: PartialRelevance, asked: PartialRelevance
) -> dict[str, float]:
    """Everything that the ledger keeps of one model."""
    from vtrlib.dreamprvr import divergence

    imagined = registers(model, asked, seed)
    states, text = imagined.registers, targets(model, asked)
    before = registers(model, fitted, seed)
    found = {}
    for place in SHOWN:
        state = states[place]
        found |= {f"{k} T={place}": v for k, v in gathered(state).items()}
        own, other = text_match(state, text)
        found |= {f"own text T={place}": own, f"other text T={place}": other}
        found[f"size T={place}"] = float(state.square().mean().sqrt())
        first = before.registers[place]
        found[f"scene T={place}"] = scene_probe(first, fitted, state, asked)
        found[f"scene of one T={place}"] = scene_probe(
            first[:, :1], fitted, state[:, :1], asked
        )
    found["scene of V_v"] = scene_probe(
        before.features, fitted, imagined.features, asked
    )
    found["purity one step"] = gathered(one_step(model, imagined))["purity"]
    found |= _by_source(model, imagined, seed)
    clamped = saturation(model, imagined)
    found |= {"saturated first": clamped[0], "saturated last": clamped[-1]}
    found["error"], found["error of zero"] = estimator_errors(model, asked, seed)
    found["KL"] = float(divergence(imagined.start))
    found["sigma"] = float((0.5 * imagined.start.log_variance).exp().mean())
    return found


def _by_source(model: DreamPRVR, imagined: Imagined, seed: int) -> dict[str, float]:
    """Purity of crossed registers by what they share, over sets of videos."""
    import torch

    from vtrlib.dreamprvr import Gaussian

    found = []
    for first in range(0, len(imagined.features) - VIDEOS + 1, VIDEOS):
        some = slice(first, first + VIDEOS)
        start = Gaussian(*(part[some] for part in imagined.start))
        part = imagined._replace(features=imagined.features[some], start=start)
        states, *groupings = crossed(model, part, seed)
        found.append([gathered(states[-1], g)["purity"] for g in groupings])
    by = torch.tensor(found).mean(0).tolist()
    names = ("purity by start", "purity by condition", "purity by neither")
    return dict(zip(names, by, strict=True))


def _first(seed: int, readings: list[str], **rest: Any) -> list[float]:
    """Canary: first losses of both readings, and of an estimator alone."""
    config = {reading: models(reading)["trained"] for reading in readings}
    alone = train_estimator(
        untrained(config[readings[-1]], seed), world("train", 48), steps=3, seed=seed
    )[1]
    return first_losses(seed, config) + alone


@experiment(
    "dreamprvr-registers", seeds=(0, 1, 2, 3, 4), canary=_first,
    readings=["released", "paper"], steps=STEPS, estimator_steps=ESTIMATOR_STEPS,
    rates=RATES,
)  # fmt: skip
def watched(
    seed: int, readings: list[str], steps: int, estimator_steps: int,
    rates: Mapping[str, Mapping[str, float]],
) -> Mapping[str, float]:  # fmt: skip
    """Fig. 6 in numbers, on thirty sets of 20 test videos, with controls.

    Four models a reading: untrained, trained, trained without L_dre, and trained with
    its estimator then "trained on" alone.
    """
    return every_model(
        seed, readings, steps, estimator_steps, rates, world("train"), world("test")
    )


def every_model(
    seed: int, readings: list[str], steps: int, estimator_steps: int,
    rates: Mapping[str, Mapping[str, float]], data: PartialRelevance,
    asked: PartialRelevance,
) -> dict[str, float]:  # fmt: skip
    """The models of `watched`, trained on `data`, measured on `asked`."""
    import numpy as np
    import torch

    from vtrlib.clusters import chance_purity

    groups = torch.arange(VIDEOS).repeat_interleave(REGISTERS)
    common = np.bincount(_scenes(data)).argmax()
    found = {
        "chance/purity": chance_purity(groups),
        "chance/scene": float((_scenes(asked) == common).mean()),
    }
    for reading in readings:
        configs = models(reading)
        made = {"untrained": untrained(configs["trained"], seed)}
        for name, config in configs.items():
            made[name] = train(
                config, data, seed=seed, steps=steps, rate=rates[reading][name]
            )[0]
        made["trained on"] = train_estimator(
            made["trained"], data, steps=estimator_steps, seed=seed
        )[0]
        for name, model in made.items():
            measured = _measured(model, seed, data, asked)
            found |= {f"{reading}/{name}/{k}": v for k, v in measured.items()}
    return found
