"""RagMe on the dark stage: what retrieved clips do for a generator that isn't told how things move.

The generator reads "a red seven"; the retriever may read "a red seven moves left". Everything that the clips' motion is
worth beyond chance then comes from what was retrieved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vtrlib.ragme import RagMe, Retrieved
    from vtrlib.world import DarkStage
    from vtrlib.world.judges import Judge

__all__ = ["Adapting", "Bank", "adapt", "adapted", "asked", "bank", "generate", "judged", "neighbours", "precision"]

PROMPTS = 96  # clips of the test split that are asked for, by their captions
STEPS, GUIDANCE = 20, 2.0  # of the sampler
DEDUP, MINIMUM = 0.999, 0.99  # quantiles of similarities in the training split; see `Bank`
LOWEST = 500  # step of the process from which adapters are trained
RADIUS = 0.99  # as released: a training clip and its twins are no neighbours of it
SIZES: dict[str, Any] = {"width": 64, "layers": 2, "heads": 8}
REAL = 600  # clips of the bank with which generated ones are compared
FEATURES = 16  # principal components of clips' latents, for the Fréchet distance of appearance
_SMALL = 200  # clips of the bank that canaries use
RETRIEVERS = ("frames", "captions", "motion", "random")


@dataclass(frozen=True, eq=False)
class Bank:
    r"""What is retrieved from: the training split of the book's own world, on the dark stage, V clips.

    Attributes:
        stage: the clips and their truth.
        frames: (V, F, D), the tiny CLIP's embeddings of them.
        videos: (V, D), of each clip as a whole, by which it is found.
        captions: (V, D), of their captions, for the retriever that reads.
        latents: (V, C, F, h, w), for RagInit.
        dedup: $\delta_{dedup}$, the 0.999 quantile of the similarities of two clips (the paper's 0.965 is a number of
            CLIP B/32's).
        minimum: $\delta_{min}$ by kind of query: the 0.99 quantile of the similarities of all "video" pairs, and of
            all "text" queries of the validation split and clips: the hundredth that is nearest counts as relevant.
        mean, axes: of the latents, (n,) and (n, 16), principal components.
        towers, states, codec, scheduler: what the tiny generator works with.
    """

    stage: DarkStage
    frames: Tensor
    videos: Tensor
    captions: Tensor
    latents: Tensor
    dedup: float
    minimum: Mapping[str, float]
    mean: Tensor
    axes: Tensor
    towers: Any
    states: Any
    codec: Any
    scheduler: Any

    @cached_property
    def judge(self) -> Judge:
        """Of clips that went through the codec."""
        from vtrlib.world.judges import Judge

        return Judge(self.stage, self.through)

    def seen(self, frames: Tensor) -> Tensor:
        """The tiny CLIP's embeddings of clips, (V, F, D)."""
        return _seen(self.towers, frames)

    def said(self, prompts: Sequence[str]) -> Tensor:
        """The tiny CLIP's embeddings of sentences, (Q, D)."""
        import torch

        with torch.no_grad():
            found: Tensor = self.towers.encode_text(list(prompts))
        return found

    def through(self, frames: Tensor) -> Tensor:
        """Clips as the codec gives them back."""
        decoded: Tensor = self.codec.decode(self.codec.encode(frames))
        return decoded

    def appearance(self, latents: Tensor) -> Tensor:
        """(N, 16): principal components of clips' latents."""
        return (latents.flatten(1) - self.mean) @ self.axes


def _seen(towers: Any, frames: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return torch.cat([towers.encode_frames(part) for part in frames.split(16)])  # stays in the cache


@cache
def bank(size: int | None = None) -> Bank:
    """The bank, of the first `size` clips; once; about ten seconds for all 2,000."""
    import torch

    from vtrlib.clip import load
    from vtrlib.ragme import video_embedding
    from vtrlib.ragme.tiny import PixelCodec, TinyStates, dark_scheduler
    from vtrlib.world import DarkStage

    stage, codec, towers = DarkStage("train", size=size), PixelCodec(), load("tiny").frozen()
    frames = _seen(towers, stage.frames)
    with torch.no_grad():
        captions = towers.encode_text(stage.prompts())
        asked = towers.encode_text(DarkStage("val").prompts())
    videos = video_embedding(frames)
    pairs = (videos @ videos.mT)[tuple(torch.triu_indices(len(videos), len(videos), 1))]
    latents = codec.encode(stage.frames)
    flat = latents.flatten(1)
    mean = flat.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, axes = torch.pca_lowrank(flat, FEATURES, niter=4)
    return Bank(
        stage, frames, videos, captions, latents, _quantile(pairs, DEDUP),
        {"video": _quantile(pairs, MINIMUM), "text": _quantile((asked @ videos.mT).flatten(), MINIMUM)},
        mean, axes, towers, TinyStates(towers), codec, dark_scheduler(),
    )  # fmt: skip


def _quantile(values: Tensor, share: float) -> float:
    """Of any number of values (torch.quantile takes 16 million)."""
    place = min(int(share * len(values)), len(values) - 1)
    return float(values.sort().values[place])


def neighbours(
    known: Bank, prompts: Sequence[str], motion: Tensor, k: int, how: str = "frames", *, dedup: bool = True,
    minimum: bool = False, rule: str = "greedy", seed: int = 0,
) -> Retrieved:  # fmt: skip
    """K clips of the bank for each prompt, (Q, K).

    Args:
        known: the bank.
        prompts: what the retriever may read, Q sentences.
        motion: (Q,), the truth, which only "motion" looks at.
        k: K.
        how: "frames": by the tiny CLIP's similarity of text and frames, as the paper; "captions": of text and the
            clips' captions; "motion": drawn among the clips of the same motion, an oracle; "random": drawn.
        dedup, minimum, rule: rules of `retrieve`; not of draws.
        seed: of draws.
    """
    import torch

    from vtrlib import check
    from vtrlib.ragme import Retrieved, retrieve

    check.one_of("how", how, RETRIEVERS)
    check.integer("k", k, low=1)
    if how in ("motion", "random"):
        generator = torch.Generator().manual_seed(seed)
        fits = torch.ones(len(motion), len(known.stage), dtype=torch.bool)
        if how == "motion":
            fits = motion[:, None] == known.stage.motion
        lots = torch.rand(fits.shape, generator=generator).masked_fill(~fits, -1)
        lots = torch.nn.functional.pad(lots, (0, max(0, k - len(known.stage))), value=-1)
        lots, ids = lots.topk(k)
        return Retrieved(ids.where(lots >= 0, -1), torch.zeros(ids.shape), lots >= 0)
    searched = known.videos if how == "frames" else known.captions
    return retrieve(
        known.said(prompts), searched, k, known.dedup if dedup and how == "frames" else None,
        known.minimum["text"] if minimum else None, rule,
    )  # fmt: skip


def precision(known: Bank, found: Retrieved, motion: Tensor) -> float:
    """Share of neighbours that move as they should."""
    right = known.stage.motion[found.ids.clamp_min(0)] == motion[:, None]
    return float(right[found.mask].double().mean()) if bool(found.mask.any()) else 0.0


class Adapting:
    """Training clips with neighbours, for what RagMe adds; the generator isn't told how they move.

    Args:
        known: the bank.
        shown: "similar": by their own frames; "motion": drawn anew each time among the clips of the same motion; in
            both the released radius keeps a clip and its twins out; "nothing".
        k: K.
        empty: share of clips without a prompt, the released 0.2.
    """

    def __init__(self, known: Bank, shown: str, k: int = 5, empty: float = 0.2) -> None:
        from vtrlib.ragme import retrieve

        self.known, self.shown, self.k, self.empty = known, shown, k, empty
        self.states = known.states(["", *known.stage.prompts(motion=False)])
        videos = known.videos
        self.found = (
            retrieve(videos, videos, k, known.dedup, known.minimum["video"], radius=RADIUS)
            if shown == "similar" else None
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.known.stage)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: one[0] for name, one in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        import torch

        rows = torch.as_tensor(indices)
        said = torch.where(torch.rand(len(rows)) < self.empty, 0, rows + 1)
        batch = {"latents": self.known.latents[rows], "text_states": self.states[said]}
        if self.shown == "nothing":
            return batch
        if self.found is not None:
            ids, mask = self.found.ids[rows], self.found.mask[rows]
        else:
            motion = self.known.stage.motion
            fits = (motion[rows, None] == motion) & (self.known.videos[rows] @ self.known.videos.mT < RADIUS)
            lots, ids = torch.rand(fits.shape).masked_fill(~fits, -1).topk(self.k)
            mask = lots >= 0
        return {**batch, "z": self.known.frames[ids.clamp_min(0)], "mask": mask}


def adapt(
    known: Bank, unet: nn.Module, shown: str, *, seed: int, steps: int, rate: float, positions: int = 0,
    batch: int = 16, k: int = 5, lowest: int = LOWEST, until: int | None = None, **config: Any,
) -> tuple[RagMe, list[float]]:  # fmt: skip
    """Train RagCA on a frozen base; or, for what is shown "nothing", the base's own temporal attentions.

    Steps of the process are drawn from `lowest` on: where less noise is, a clip's motion can be seen, and what was
    retrieved has nothing to add.

    Returns:
        The wrapped model, and the losses. Nothing of the given U-Net changes.
    """
    import copy

    import torch

    from vtrlib.ragme import Config, RagMe, diffusion_loss
    from vtrlib.training import Config as Training
    from vtrlib.training import fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RagMe(copy.deepcopy(unet), Config(**{**SIZES, "positions": positions, **config}))
    trained: nn.Module = model
    if shown == "nothing":
        model.requires_grad_(False)
        for site in model.sites:
            model.unet.get_submodule(site.name).requires_grad_(True)
        trained = model.unet

    def loss(module: nn.Module, data: Mapping[str, Tensor]) -> Tensor:
        t = torch.randint(lowest, len(known.scheduler.alphas_cumprod), (len(data["latents"]),))
        return diffusion_loss(module, known.scheduler, **data, of="clean", t=t)

    plan = Training(
        steps=steps, batch_size=batch, learning_rate=rate, schedule="cosine", warmup=0.05, clip=1.0, seed=seed,
    )  # fmt: skip
    data: Any = Adapting(known, shown, k)
    losses = fit(trained, data, loss, plan, collate=lambda items: items, until=until).losses
    return model.eval().requires_grad_(False), losses


def generate(
    known: Bank, model: RagMe, prompts: Sequence[str], noise: Tensor, found: Retrieved | None = None, *,
    rag_ca: bool = False, rag_init: bool = False, steps: int = STEPS,
    guidance: float = GUIDANCE, batch: int = 48,
) -> Tensor:  # fmt: skip
    """Latents of clips, (Q, C, F, h, w), from given noise, each prompt as if it were alone."""
    import torch

    pipe, parts = pipeline(known, model), []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        shown = None if found is None else type(found)(*(one[rows] for one in found))
        parts.append(
            pipe(
                list(prompts[rows]), frames=noise.shape[2], size=_size(known, noise), k=None, found=shown,
                rag_ca=rag_ca, rag_init=rag_init, steps=steps, guidance=guidance, latents=noise[rows],
            ).latents
        )  # fmt: skip
    return torch.cat(parts)


def _size(known: Bank, noise: Tensor) -> tuple[int, int]:
    return noise.shape[3] * known.codec.factor, noise.shape[4] * known.codec.factor


def pipeline(known: Bank, model: RagMe) -> Any:
    """The bank and a model as a `vtrlib.ragme.Pipeline`."""
    from vtrlib.ragme import Collection, Pipeline

    collection = Collection(known.frames, clips=known.stage.frames)
    return Pipeline(model, known.scheduler, collection, known.said, known.states, known.codec)


def judged(known: Bank, latents: Tensor, wanted: DarkStage, found: Retrieved | None = None) -> dict[str, float]:
    """What clips are worth.

    "motion", "axis" (the motion or its reverse), "digit", "colour": share right, per cent; "direction": of motions that
    have another reverse, where the axis is right, the share that go the right way, and 50 where there is none; "none":
    share without any motion that is known; "path", "jerk": means, pixels; "dynamic": share of clips that change as much
    from frame to frame as nine tenths of real ones do, per cent; "motion distance", "appearance distance": Fréchet, to
    clips of the bank; "alignment": the tiny CLIP's mean cosine of frames and "a red seven"; "copy": the mean cosine to
    the most similar clip of the bank, about the bank's mean, and, with neighbours, "copy of neighbour".

    Args:
        known: the bank.
        latents: (Q, C, F, h, w).
        wanted: what they should show.
        found: what they were made with.
    """
    from torch.nn import functional

    from vtrlib.metrics import frechet_distance
    from vtrlib.world import card
    from vtrlib.world.judges import motion_features, motions, trace

    clips = known.codec.decode(latents)
    traces = trace(clips)
    right = known.judge.scored(clips, wanted.digit, wanted.colour, wanted.motion, traces)
    said, features = motions(traces), motion_features(traces)
    real, spread, least = _real(known)
    numbers = {name: 100 * float(one.double().mean()) for name, one in right.items()}
    axis = said.div(2, rounding_mode="floor") == wanted.motion // 2
    numbers["axis"] = 100 * float(axis.double().mean())
    ways = right["motion"][axis & (wanted.motion < card.MOTIONS.index("spins"))]
    numbers["direction"] = 100 * float(ways.double().mean()) if len(ways) else 50.0
    numbers["none"] = 100 * float((said < 0).double().mean())
    numbers["path"], numbers["jerk"] = float(features[:, 5].mean()), float(features[:, 6].mean())
    numbers["dynamic"] = 100 * float((_change(traces) >= least).double().mean())
    numbers["motion distance"] = frechet_distance(features / spread, real / spread)
    numbers["appearance distance"] = frechet_distance(known.appearance(latents), known.appearance(known.latents[:REAL]))
    shown, told = known.seen(clips), known.said(wanted.prompts(motion=False))
    numbers["alignment"] = float((shown * told[:, None]).sum(-1).mean())
    own, all_ = (functional.normalize(one.flatten(1) - known.mean, dim=1) for one in (latents, known.latents))
    alike = own @ all_.mT
    numbers["copy"] = float(alike.amax(1).mean())
    if found is not None:
        near = alike.gather(1, found.ids.clamp_min(0)).masked_fill(~found.mask, -1)
        numbers["copy of neighbour"] = float(near.amax(1).mean())
    return numbers


def _change(traces: Any) -> Tensor:
    """How much of the ink changes its place from frame to frame, (V,)."""
    moved = (traces.ink.diff(dim=1).abs()).sum((2, 3)).mean(1)
    return moved / traces.mass.mean(1).clamp_min(1e-6)


@cache
def _real(known: Bank) -> tuple[Tensor, Tensor, float]:
    """Of clips of the bank the motion features, their spread, and what nine tenths of the clips change at least."""
    from vtrlib.world.judges import motion_features, trace

    traces = trace(known.through(known.stage.frames[:REAL]))
    features = motion_features(traces)
    return features, features.std(0), float(_change(traces).quantile(0.1))


ADAPTED: dict[str, dict[str, Any]] = {  # what ships, by settings of `adapt`
    "similar": {"shown": "similar", "positions": 0, "seed": 0, "steps": 400, "rate": 3e-3},
    "motion": {"shown": "motion", "positions": 8, "seed": 0, "steps": 1000, "rate": 3e-3},
}


def adapted(name: str = "similar") -> RagMe:
    """The tiny generator with what RagMe adds, as it ships: "similar", RagCA as in the paper, trained with clips that
    look alike; or "motion", with frame positions, trained with clips of the same motion.

    Raises:
        FileNotFoundError, ValueError: of `vtrlib.shipped.verify`; another name.
    """
    import json

    from safetensors.torch import load_file

    from vtrlib import check
    from vtrlib.ragme import Config, RagMe
    from vtrlib.ragme.tiny import GENERATOR
    from vtrlib.shipped import verify

    check.one_of("name", name, ADAPTED)
    place = GENERATOR / "adapters" / name
    verify(place)
    model = RagMe(_base(), Config(**json.loads((place / "config.json").read_text("utf-8"))))
    model.load_added({key: weight.float() for key, weight in load_file(place / "model.safetensors").items()})
    return model.eval().requires_grad_(False)


def ship_adapters(folder: Path, prompts: int = PROMPTS) -> None:
    """Train what ships and write it in half precision, with sizes, recipe, hash and scores.

    Scores are the per cent of clips for captions of the validation split that move as they should, the generator not
    told, by what RagCA is shown.
    """
    import hashlib
    import json

    import torch
    from safetensors.torch import save_file

    known = bank()
    wanted, noise = asked(known, 0, prompts, "val")
    for name, how in ADAPTED.items():
        model, _ = adapt(known, _base(), **how)
        added = {key: weight.to(torch.float16).contiguous() for key, weight in model.added().items()}
        model.load_added({key: weight.float() for key, weight in added.items()})
        scores: dict[str, float] = {}
        for shown in ("nothing", "frames", "captions", "motion"):
            found = None if shown == "nothing" else neighbours(known, wanted.prompts(), wanted.motion, 5, shown)
            made = generate(known, model, wanted.prompts(motion=False), noise, found, rag_ca=found is not None)
            scores[shown] = round(judged(known, made, wanted)["motion"], 2)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        save_file(added, place / "model.safetensors")
        digest = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
        sizes = {**SIZES, "positions": how["positions"]}
        for file, facts in (("config", sizes), ("recipe", {**how, "sha256": digest, "scores": scores})):
            (place / f"{file}.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def _base() -> Any:
    """The shipped generator."""
    from vtrlib.ragme.tiny import load_generator

    return load_generator()


def asked(known: Bank, seed: int, prompts: int, split: str = "test") -> tuple[DarkStage, Tensor]:
    """What is asked for, clips of a split, and the noise that every way starts from."""
    import torch

    from vtrlib.world import DarkStage

    wanted = DarkStage(split, size=prompts)
    generator = torch.Generator().manual_seed(seed)
    return wanted, torch.randn((prompts, *known.latents.shape[1:]), generator=generator)


def _first_losses(seed: int, *, steps: int, rate: float, **settings: Any) -> list[float]:
    """Canary: of the adapters' training, in a small bank."""
    return adapt(bank(_SMALL), _base(), "similar", seed=seed, until=3, steps=steps, rate=rate)[1]


def _first_numbers(seed: int, **settings: Any) -> list[float]:
    """Canary: sums over the first frames of a clip that starts from its neighbours in a small bank, after 4 steps."""
    from vtrlib.ragme import Config, RagMe

    known = bank(_SMALL)
    wanted, noise = asked(known, seed, 1)
    found = neighbours(known, wanted.prompts(), wanted.motion, 5)
    model = RagMe(_base(), Config(**SIZES))
    latents = generate(known, model, wanted.prompts(motion=False), noise, found, rag_init=True, steps=4)
    return [float(frame.abs().sum()) for frame in latents[0].transpose(0, 1)[:3]]


@experiment("ragme-generator", seeds=(0, 1, 2), canary=_first_numbers, prompts=PROMPTS, guidances=[1.0, 2.0, 4.0])
def generator(seed: int, prompts: int, guidances: list[float]) -> dict[str, float]:
    """The tiny generator against real clips: told the motion or not, by guidance; and the floor, real clips judged."""
    from vtrlib.ragme import Config, RagMe

    known = bank()
    model = RagMe(_base(), Config(**SIZES))
    wanted, noise = asked(known, seed, prompts)
    found = _named("real", judged(known, known.codec.encode(wanted.frames), wanted))
    for told, name in ((True, "told"), (False, "not told")):
        for guidance in guidances:
            latents = generate(known, model, wanted.prompts(motion=told), noise, guidance=guidance)
            found |= _named(f"{name}, guidance {guidance:g}", judged(known, latents, wanted))
    return found


def _named(name: str, numbers: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}/{key}": value for key, value in numbers.items()}


WAYS = {"RagInit": (False, True), "RagCA": (True, False), "both": (True, True)}


@experiment(
    "ragme", seeds=(0, 1, 2, 3, 4), canary=_first_losses, prompts=PROMPTS, steps=400, rate=3e-3, tuned_rate=1e-3, k=5,
)  # fmt: skip
def main_table(seed: int, prompts: int, steps: int, rate: float, tuned_rate: float, k: int) -> dict[str, float]:
    """Base, finetuned without retrieval, RagInit, RagCA and both, by what is retrieved; RagCA as the paper has it.

    Beside them the real clips that were asked for: how far as many of them are from the bank is the distances' floor.
    """
    known, base = bank(), _base()
    wanted, noise = asked(known, seed, prompts)
    hidden, whole = wanted.prompts(motion=False), wanted.prompts()
    adapted, _ = adapt(known, base, "similar", seed=seed, steps=steps, rate=rate, k=k)
    tuned, _ = adapt(known, base, "nothing", seed=seed, steps=steps, rate=tuned_rate)
    found = _named("real", judged(known, known.codec.encode(wanted.frames), wanted))
    found |= _named("base", judged(known, generate(known, adapted, hidden, noise), wanted))
    found |= _named("told", judged(known, generate(known, adapted, whole, noise), wanted))
    found |= _named("finetuned", judged(known, generate(known, tuned, hidden, noise), wanted))
    for how in RETRIEVERS:
        near = neighbours(known, whole, wanted.motion, k, how, seed=seed)
        found[f"{how}/precision"] = 100 * precision(known, near, wanted.motion)
        for name, (rag_ca, rag_init) in WAYS.items():
            latents = generate(known, adapted, hidden, noise, near, rag_ca=rag_ca, rag_init=rag_init)
            found |= _named(f"{name}, {how}", judged(known, latents, wanted, near))
    return found


@experiment(
    "ragme-positions", seeds=(0, 1, 2), canary=_first_losses, prompts=PROMPTS, steps=400, rate=3e-3, k=5, guidance=1.0,
)  # fmt: skip
def positions(seed: int, prompts: int, steps: int, rate: float, k: int, guidance: float) -> dict[str, float]:
    """RagCA with and without frame positions, trained on similar clips or on clips of the same motion.

    Each is shown clips of the right motion, of its reverse, and what captions find.
    """
    import torch

    from vtrlib.world import card

    known, base = bank(), _base()
    wanted, noise = asked(known, seed, prompts)
    hidden = wanted.prompts(motion=False)
    shows = {
        "right": neighbours(known, hidden, wanted.motion, k, "motion", seed=seed),
        "reverse": neighbours(known, hidden, torch.tensor(card.OPPOSITE)[wanted.motion], k, "motion", seed=seed),
        "captions": neighbours(known, wanted.prompts(), wanted.motion, k, "captions"),
    }
    found: dict[str, float] = {}
    for shown in ("similar", "motion"):
        for count in (0, known.latents.shape[2]):
            model, _ = adapt(known, base, shown, seed=seed, steps=steps, rate=rate, positions=count, k=k)
            name = f"{shown}, {'positions' if count else 'no positions'}"
            for which, clips in shows.items():
                latents = generate(known, model, hidden, noise, clips, rag_ca=True, guidance=guidance)
                found |= _named(f"{name}, {which}", judged(known, latents, wanted, clips))
    return found


@experiment(
    "ragme-sweeps", seeds=(0, 1, 2), canary=_first_losses, prompts=48, steps=400, rate=3e-3, ks=[1, 5, 20, 50],
    twins=[5, 20], minima=[20, 50], samplings=[5, 10], guidance=1.0,
)  # fmt: skip
def sweeps(
    seed: int, prompts: int, steps: int, rate: float, ks: list[int], twins: list[int], minima: list[int],
    samplings: list[int], guidance: float,
) -> dict[str, float]:  # fmt: skip
    """K for RagCA as the paper has it, for some K without deduplication (`twins`) or with a minimum (`minima`); K,
    sampling steps and Eq. 7's t for RagInit."""
    import copy

    from vtrlib.ragme import Config, RagMe, Reading

    known, base = bank(), _base()
    wanted, noise = asked(known, seed, prompts)
    hidden, whole = wanted.prompts(motion=False), wanted.prompts()
    model, _ = adapt(known, base, "similar", seed=seed, steps=steps, rate=rate)
    found: dict[str, float] = {}
    first = RagMe(copy.deepcopy(base), Config(**SIZES, reading=Reading(start="first")))

    def note(name: str, near: Retrieved, **how: Any) -> None:
        latents = generate(known, model, hidden, noise, near, guidance=guidance, **how)
        found.update(_named(name, judged(known, latents, wanted, near)))
        found[f"{name}/shown"] = float(near.mask.double().sum(1).mean())

    for k in ks:
        for dedup, minimum, wished in ((True, False, ks), (False, False, twins), (True, True, minima)):
            if k not in wished:
                continue
            near = neighbours(known, whole, wanted.motion, k, dedup=dedup, minimum=minimum)
            rules = f"K={k}{'' if dedup else ', twins kept'}{', minimum' if minimum else ''}"
            note(f"RagCA, {rules}", near, rag_ca=True)
        near = neighbours(known, whole, wanted.motion, k, "motion", seed=seed)
        note(f"RagInit, motion, K={k}", near, rag_init=True)
    near = neighbours(known, whole, wanted.motion, 5, "motion", seed=seed)
    for count in samplings:
        latents = generate(known, model, hidden, noise, guidance=guidance, steps=count)
        found |= _named(f"base, {count} steps", judged(known, latents, wanted))
        note(f"RagInit, motion, {count} steps", near, rag_init=True, steps=count)
        latents = generate(known, first, hidden, noise, near, rag_init=True, guidance=guidance, steps=count)
        found |= _named(f"RagInit, motion, {count} steps, first", judged(known, latents, wanted, near))
    return found


@experiment("ragme-latency", seeds=(0, 1, 2), canary=_first_numbers, repeats=7, steps=20, k=5)
def latency(seed: int, repeats: int, steps: int, k: int) -> dict[str, float]:
    """One clip on one thread, the least of several times: milliseconds of each part, and ratios to the base."""
    import time

    import torch

    from vtrlib.ragme import Config, RagMe, retrieve

    known = bank()
    pipe = pipeline(known, RagMe(_base(), Config(**SIZES)))
    wanted, noise = asked(known, seed, 1)
    text, threads = wanted.prompts(), torch.get_num_threads()
    near = neighbours(known, text, wanted.motion, k)

    calls: dict[str, Any] = {
        "embed": lambda: known.said(text),
        "retrieve": lambda: retrieve(known.said(text), pipe.collection.index, k, known.dedup),
        "enhance": lambda: pipe.condition(near),
        "encode": lambda: pipe.start(noise, near, steps),
    }
    for name, (rag_ca, rag_init) in {"base": (False, False), **WAYS}.items():
        how = {"rag_ca": rag_ca, "rag_init": rag_init, "steps": steps}
        calls[name] = lambda how=how: generate(known, pipe.model, text, noise, near, **how)
    found = dict.fromkeys((f"{name} ms" for name in calls), float("inf"))
    torch.set_num_threads(1)
    try:
        for _ in range(repeats):  # in turn, so that a busy moment meets all
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                found[f"{name} ms"] = min(found[f"{name} ms"], 1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return found | {f"{name} ratio": found[f"{name} ms"] / found["base ms"] for name in WAYS}


@experiment(
    "ragme-readings", seeds=(0, 1, 2), canary=_first_losses, prompts=48, steps=200, rate=3e-3, k=5,
    switches=["tokens", "queries", "block", "mid"], guidance=1.0,
)  # fmt: skip
def readings(
    seed: int, prompts: int, steps: int, rate: float, k: int, switches: list[str], guidance: float
) -> dict[str, float]:
    """RagCA in the paper's reading, with single switches as released, and with all; with positions, so that there is
    something to lose, and trained and asked with clips of the same motion."""
    from vtrlib.ragme import Reading

    known, base = bank(), _base()
    wanted, noise = asked(known, seed, prompts)
    hidden = wanted.prompts(motion=False)
    near = neighbours(known, hidden, wanted.motion, k, "motion", seed=seed)
    ways = {"paper": Reading.paper(), **{name: Reading.paper().flipped(name) for name in switches}}
    ways["all four"] = Reading.paper().flipped(*switches)
    found: dict[str, float] = {}
    for name, reading in ways.items():
        model, _ = adapt(
            known, base, "motion", seed=seed, steps=steps, rate=rate, positions=known.latents.shape[2], k=k,
            reading=reading,
        )  # fmt: skip
        latents = generate(known, model, hidden, noise, near, rag_ca=True, guidance=guidance)
        found |= _named(name, judged(known, latents, wanted, near))
    return found
