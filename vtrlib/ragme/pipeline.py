"""Text to video: retrieve, condition, sample, decode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from safetensors.torch import load_file
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from vtrlib import check
from vtrlib.diffusion import draw_normal
from vtrlib.ragme.config import Config, Rules
from vtrlib.ragme.model import Condition, RagMe
from vtrlib.ragme.noise import rag_init
from vtrlib.ragme.retrieval import Index, Retrieved, retrieve, video_embedding
from vtrlib.similarity import unit

__all__ = [
    "Codec", "Collection", "Generated", "Pipeline", "TextStates", "VAECodec", "sample",
]  # fmt: skip

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True, eq=False)
class Collection:
    """Videos to retrieve from.

    Attributes:
        frames: (V, F', D), embeddings of their frames, by the encoder that embeds
            queries.
        mask: (V, F'), true where there is a frame; None: everywhere.
        clips: (V, F, 3, H, W), bytes, of the length and size that is generated, for
            RagInit; or what gives them, (n, F, 3, H, W), for a list of places; None
            without RagInit.
        index: of one unit vector a video.

    Raises:
        TypeError, ValueError: an empty collection, a video without any frame that is
            not zero, NaN or infinity, or shapes that do not fit.
    """

    frames: Tensor
    mask: Tensor | None = None
    clips: Tensor | Callable[[list[int]], Tensor] | None = None
    index: Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if getattr(self.frames, "ndim", 0) == 3 and not len(self.frames):
            raise ValueError(
                "frames: found an empty collection, expected at least one video "
                "(V, F, D). Embed the videos to retrieve from first."
            )
        known = check.sizes("frames", self.frames, "V F D")
        if not isinstance(self.frames, Tensor):
            raise TypeError(
                f"frames: found {type(self.frames).__name__}, expected a tensor (V, F, D). "
                "Use torch.as_tensor."
            )
        if self.mask is not None:
            check.sizes("mask", self.mask, "V F", known)
        if not (self.clips is None or callable(self.clips) or isinstance(self.clips, Tensor)):
            raise TypeError(
                f"clips: found {type(self.clips).__name__}, expected a tensor (V, F, 3, H, "
                "W), or a function of a list of places. Use torch.as_tensor."
            )
        if isinstance(self.clips, Tensor) and len(self.clips) != known["V"]:
            raise ValueError(
                f"clips: found {len(self.clips)}, expected {known['V']}, one for each "
                "video."
            )
        index = Index(video_embedding(self.frames, self.mask))
        object.__setattr__(self, "index", index)

    def clips_at(self, places: list[int]) -> Tensor:
        """(n, F, 3, H, W), bytes.

        Raises:
            ValueError: the collection has none.
        """
        if self.clips is None:
            raise ValueError(
                "clips: found none in the collection, expected clips (V, F, 3, H, W), "
                "which RagInit averages. Give them, or set rag_init=False."
            )
        taken = self.clips
        return taken[places] if isinstance(taken, Tensor) else taken(places)


class Codec(Protocol):
    """Clips to what a generator works on, and back.

    Attributes:
        channels: C of latents.
        factor: by which latents are smaller than frames, along height and width.
    """

    channels: int
    factor: int

    def encode(self, clips: Tensor, generator: Generator | None = None) -> Tensor:
        """(n, C, F, h, w) from bytes (n, F, 3, H, W)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Bytes (n, F, 3, H, W) from latents (n, C, F, h, w)."""
        ...


def clip_sizes(clips: Tensor) -> dict[str, int]:
    """n, F, H and W of bytes (n, F, 3, H, W).

    Raises:
        TypeError: no tensor. ValueError: no bytes, or another shape.
    """
    known = check.sizes("clips", clips, "n F c H W", {"c": 3})
    if clips.dtype != torch.uint8:
        raise ValueError(
            f"clips: found {clips.dtype}, expected bytes (uint8) from 0 to 255."
        )
    return known


class VAECodec:
    """The autoencoder of a latent diffusion model, frame by frame.

    Args:
        vae: of diffusers.
        draw: E(Z) is a draw from the posterior, as released; False: its mean.
    """

    def __init__(self, vae: AutoencoderKL, draw: bool = True) -> None:
        self.vae, self.draw = vae.eval().requires_grad_(False), draw
        self.channels: int = vae.config.latent_channels
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, clips: Tensor, generator: Generator | None = None) -> Tensor:
        """(n, C, F, h, w) from bytes (n, F, 3, H, W), scaled to variance about 1.

        Raises:
            ValueError: they are no bytes, or have another shape.
        """
        clip_sizes(clips)
        frames = clips.flatten(0, 1).to(self.vae.device, self.vae.dtype) / 127.5 - 1
        posterior = self.vae.encode(frames).latent_dist
        latents = posterior.sample(generator) if self.draw else posterior.mode()
        latents = latents * self.vae.config.scaling_factor
        return latents.unflatten(0, clips.shape[:2]).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Bytes (n, F, 3, H, W) from latents (n, C, F, h, w)."""
        count, _, frames = latents.shape[:3]
        flat = latents.transpose(1, 2).flatten(0, 1).to(self.vae.dtype)
        decoded = self.vae.decode(flat / self.vae.config.scaling_factor).sample
        pixels = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round()
        return pixels.to(torch.uint8).unflatten(0, (count, frames))


class TextStates:
    """A generator's own text encoder: states of a prompt's tokens, padded as it was
    trained."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """(B, L, d); a longer prompt is cut."""
        ids = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt",
            max_length=self.tokenizer.model_max_length,
        ).input_ids  # fmt: skip
        states: Tensor = self.encoder(ids.to(self.encoder.device))[0]
        return states


class Generated(NamedTuple):
    """What a pipeline made of B prompts.

    Attributes:
        video: (B, F, 3, H, W), bytes; None without a codec.
        latents: (B, C, F, h, w), what was decoded.
        retrieved: the neighbours shown, (B, K); None where none were asked for.
    """

    video: Tensor | None
    latents: Tensor
    retrieved: Retrieved | None


@torch.no_grad()
def sample(
    model: RagMe, scheduler: Any, latents: Tensor, text_states: Tensor,
    z: Condition | None = None, *, unconditional: Tensor | None = None,
    steps: int = 50, guidance: float = 10.0, eta: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    r"""Noise to latents, by a scheduler's steps and guidance towards the text.

    $$ \tilde\epsilon = \epsilon_\theta(x_t, \varnothing, z) + w\,(\epsilon_\theta(x_t,
       y, z) - \epsilon_\theta(x_t, \varnothing, z)) $$

    Neighbours are shown in both terms, as released: guidance strengthens the text
    alone.

    Args:
        model: in evaluation mode.
        scheduler: of diffusers, such as DDIMScheduler; a copy of it is used.
        latents: (B, C, F, h, w), where sampling starts: standard normal, or of
            `rag_init`.
        text_states: y (B, L, d).
        z: of `RagMe.condition`; None: the base alone samples.
        unconditional: $\varnothing$ (B, L, d) or (1, L, d), states of the empty prompt;
            needed if guidance is not 1.
        steps: of the sampler.
        guidance: w; 1: none, and one pass a step.
        eta: of DDIM; 0 draws nothing.
        generator: draws for eta above 0.

    Returns:
        (B, C, F, h, w).

    Raises:
        TypeError, ValueError: as `RagMe.forward`; no unconditional states where they
            are needed, or a number out of its range.
    """
    check.integer("steps", steps, low=1)
    check.number("guidance", guidance)
    check.number("eta", eta, low=0, high=1)
    guided = guidance != 1
    if guided:
        if unconditional is None:
            raise ValueError(
                f"unconditional=None: expected states of the empty prompt, since "
                f"guidance={guidance}. Give them, or set guidance=1."
            )
        text_states = torch.cat([unconditional.expand_as(text_states), text_states])
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=latents.device)
    drawn = {"eta": eta, "generator": generator} if eta else {}
    x = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
        found = model(given, t, text_states, z)
        if guided:
            without, with_text = found.chunk(2)
            found = without + guidance * (with_text - without)
        x = scheduler.step(found, t, x, **drawn).prev_sample
    return x


class Pipeline:
    """Text → retrieve → condition → sample → decode.

    Args:
        model: the wrapped generator.
        scheduler: of diffusers.
        collection: what is retrieved from; another one moves the same prompts in
            another way.
        embed_text: prompts to queries (B, D), the text side of the encoder that
            embedded the collection's frames.
        text_states: prompts to states (B, L, d) of the generator's own text encoder; ""
            is the empty prompt.
        codec: latents to frames and back; None: latents are all that is made, and there
            is no RagInit.
    """

    def __init__(
        self, model: RagMe, scheduler: Any, collection: Collection,
        embed_text: Callable[[Sequence[str]], Tensor],
        text_states: Callable[[Sequence[str]], Tensor], codec: Codec | None = None,
    ) -> None:  # fmt: skip
        self.model, self.scheduler = model.eval(), scheduler
        self.collection = collection
        self.embed_text, self.text_states, self.codec = embed_text, text_states, codec

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, collection: Collection,
        embed_text: Callable[[Sequence[str]], Tensor],
        config: Config | dict[str, Any] | None = None, *,
        adapters: str | Path | Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
    ) -> Self:  # fmt: skip
        """On a ZeroScope folder, as diffusers stores text-to-video pipelines.

        Args:
            folder: with unet, vae, text_encoder, tokenizer and scheduler in it.
            collection, embed_text: as of a pipeline. ZeroScope's text encoder is no
                part of CLIP B/32, so it cannot embed queries.
            config: of the adapters.
            adapters: their weights, as of `RagMe.added`, or a safetensors file of
                these; None: new ones, which change nothing.
            dtype, device: of all models.

        Raises:
            FileNotFoundError: a part of the folder is missing.
            ValueError: weights that do not fit the configuration.
        """
        place = Path(folder)
        missing = [part for part in _PARTS if not (place / part).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"{place}: found no {check.listed(missing)}, expected a text-to-video "
                f"pipeline of diffusers with {', '.join(_PARTS)}. Download it whole."
            )
        unet, vae, encoder = (
            kind.from_pretrained(place / part, torch_dtype=dtype).to(device)
            for kind, part in (
                (UNet3DConditionModel, "unet"), (AutoencoderKL, "vae"),
                (CLIPTextModel, "text_encoder"),
            )
        )  # fmt: skip
        tokenizer = CLIPTokenizer.from_pretrained(place / "tokenizer")
        scheduler = DDIMScheduler.from_pretrained(place / "scheduler")
        model = RagMe(unet, config)
        if adapters is not None:
            model.load_added(
                adapters if isinstance(adapters, Mapping) else load_file(adapters)
            )
        states = TextStates(tokenizer, encoder)
        return cls(model, scheduler, collection, embed_text, states, VAECodec(vae))

    def retrieve(
        self, prompts: Sequence[str], k: int = 5, rules: Rules | None = None
    ) -> Retrieved:
        """K neighbours of each prompt, (B, K).

        Args:
            prompts: B of them.
            k: K.
            rules: by default those of the model's reading for texts, which have no
                minimum of similarity; see `Config.rules`.

        Raises:
            TypeError, ValueError: no prompt, or see `vtrlib.ragme.retrieve`.
        """
        rules = rules or self.model.config.rules("text")
        queries = self.embed_text(_several(prompts))
        return retrieve(queries, self.collection.index, k, **rules._asdict())

    @torch.no_grad()
    def condition(self, found: Retrieved) -> Condition | None:
        """What the generator is shown of neighbours, their frames as unit vectors; None
        if there is not one."""
        if not bool(found.mask.any()):
            return None
        places = found.ids.clamp_min(0).to(self.collection.frames.device)
        mask = self.collection.mask
        device = next(self.model.parameters()).device
        return self.model.condition(
            unit(self.collection.frames[places]).to(device), found.mask.to(device),
            None if mask is None else mask[places].to(device),
        )  # fmt: skip

    @torch.no_grad()
    def start(
        self, noise: Tensor, found: Retrieved, steps: int,
        generator: Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Eq. 7, (B, C, F, h, w): the noise, with what neighbours have in common.

        Args:
            noise: (B, C, F, h, w), standard normal.
            found: neighbours; an item without any keeps its noise.
            steps: of the sampler.
            generator: draws from the codec's posterior.

        Raises:
            ValueError: no codec, no clips, or clips of another length or size.
        """
        places = sorted(set(found.ids[found.mask].tolist()))
        if not places:
            return noise
        if self.codec is None:
            raise ValueError("codec=None: expected one, since RagInit encodes clips.")
        clips = self.collection.clips_at(places)
        frames, height, width = noise.shape[2:]
        wanted = (frames, 3, height * self.codec.factor, width * self.codec.factor)
        if tuple(clips.shape[1:]) != wanted:
            raise ValueError(
                f"clips: found {tuple(clips.shape[1:])}, expected (F, 3, H, W) = "
                f"{wanted}, as generated. Resample the collection's clips, or generate "
                "clips like them."
            )
        latents = self.codec.encode(clips, generator)
        rows = {place: row for row, place in enumerate(places)}
        asked = torch.tensor(
            [[rows.get(one, 0) for one in row] for row in found.ids.tolist()]
        )
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(steps)
        return rag_init(
            scheduler, latents[asked].to(noise.device), noise,
            found.mask.to(noise.device), start=self.model.config.reading.start,
        )  # fmt: skip

    def __call__(
        self, prompts: str | Sequence[str], *, frames: int = 12,
        size: tuple[int, int] = (256, 448), k: int | None = 5,
        rules: Rules | None = None, found: Retrieved | None = None,
        rag_ca: bool = True, rag_init: bool = False, steps: int = 50,
        guidance: float = 10.0, eta: float = 0.0, generator: Generator | None = None,
        latents: Tensor | None = None,
    ) -> Generated:  # fmt: skip
        """Clips of prompts.

        A prompt without neighbours is sampled by the base as it is, exactly.

        Args:
            prompts: one, or B of them.
            frames: F.
            size: height and width, pixels; without a codec, of latents.
            k: neighbours of each prompt; None: none are retrieved.
            rules: as for `retrieve`.
            found: these neighbours instead, (B, K), such as random ones as a control.
            rag_ca: show the neighbours to the generator (Eq. 6).
            rag_init: start from them (Eq. 7).
            steps, guidance, eta: as for `sample`.
            generator: draws the noise, on its device.
            latents: noise (B, C, F, h, w) instead.

        Raises:
            TypeError, ValueError: no prompt; a size or noise that the models do not
                take; see also `retrieve`, `start` and `sample`.
        """
        texts = _several(prompts)
        weight = next(self.model.parameters())
        shape = self._shape(len(texts), frames, size)
        if latents is None:
            latents = draw_normal(shape, weight, generator)
        elif tuple(latents.shape) != shape:
            raise ValueError(
                f"latents: found shape {tuple(latents.shape)}, expected {shape} for "
                f"{len(texts)} prompts, frames={frames} and size={size}."
            )
        x = latents.to(weight)
        z = None
        if found is None and k is not None:
            found = self.retrieve(texts, k, rules)
        if found is not None:
            self._checked(found, len(texts))
            z = self.condition(found) if rag_ca else None
            x = self.start(x, found, steps, generator) if rag_init else x
        empty = self.text_states([""]).to(weight) if guidance != 1 else None
        x = sample(
            self.model, self.scheduler, x, self.text_states(texts).to(weight), z,
            unconditional=empty, steps=steps, guidance=guidance, eta=eta,
            generator=generator,
        )  # fmt: skip
        video = None if self.codec is None else self.codec.decode(x)
        return Generated(video, x, found)

    def _checked(self, found: Retrieved, prompts: int) -> None:
        known = check.sizes("found.ids", found.ids, "B K", {"B": prompts})
        check.sizes("found.mask", found.mask, "B K", known)
        places = found.ids[found.mask.bool()]
        most = len(self.collection.index)
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < most:
            raise ValueError(
                f"found.ids: found places from {int(places.min())} to {int(places.max())}, "
                f"expected 0 to {most - 1}, those of the collection. Retrieve from it anew."
            )

    def _shape(
        self, batch: int, frames: int, size: tuple[int, int]
    ) -> tuple[int, ...]:
        check.integer("frames", frames, low=1)
        factor = 1 if self.codec is None else self.codec.factor
        if not isinstance(size, Sequence) or len(size) != 2:
            raise TypeError(f"size={size!r}: expected height and width, such as (256, 448).")
        for name, length in zip(("height", "width"), size, strict=True):
            check.integer(f"size ({name})", length, low=1)
            if length % factor:
                raise ValueError(
                    f"size={size}: expected a {name} that {factor} divides, since "
                    "latents are smaller by this factor."
                )
        return batch, self.model.channels, frames, size[0] // factor, size[1] // factor


def _several(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"prompts: found {texts!r}, expected at least one text, and nothing else."
        )
    return texts
