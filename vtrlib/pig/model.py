"""PIG whole: videos to one vector each, captions to one, and the loss that trains it."""

import math
from dataclasses import replace
from typing import Any, NamedTuple, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Generator, Tensor, nn
from transformers import CLIPModel

from vtrlib import check
from vtrlib.clip import inputs
from vtrlib.clip.lora import LoRAAttention, layers, wrap_attention
from vtrlib.clip.towers import Towers
from vtrlib.gathering import gather
from vtrlib.pig.config import Config
from vtrlib.pig.fusioner import CoAttention, CrossAttention, Fusioner, XPool
from vtrlib.pig.generator import CausalGenerator, MLPGenerator, QFormerGenerator
from vtrlib.pig.objective import Batch, Losses, contrastive, reconstruction
from vtrlib.pig.reading import Reading
from vtrlib.pig.tokens import Tokens, visual_tokens
from vtrlib.pig.vip import ViPEmbeddings, wrap
from vtrlib.similarity import cosine, unit

__all__ = ["PIG", "Videos"]

_MOST = math.log(200)  # of the logit scale, as released; the least is 0


class Videos(NamedTuple):
    """B videos, as they are stored (v) and what led there. Features are not normalised.

    Attributes:
        v: (B, D), what queries meet.
        pseudo_query: $t_p$ (B, D); None without a generator.
        x_v: (B, P, D), video-level tokens; (B, 1, D) of CLIP4Clip.
        x_f: (B, F, D), frame-level tokens; (B, 0, D) without a [cls] for frames.
        x_p: (B, F, N, D), all patches; None where only what is used was computed.
        x_ip: (B, k, D), the selected patches; (B, 0, D) where the generator reads none.
        informativeness: S (B, F, N) of Eq. 6, in float32 at least, without gradient.
        selected: (B, k), frame · N + patch, the most informative first.
    """

    v: Tensor
    pseudo_query: Tensor | None
    x_v: Tensor
    x_f: Tensor
    x_p: Tensor | None
    x_ip: Tensor
    informativeness: Tensor
    selected: Tensor


class PIG(nn.Module, PyTorchModelHubMixin):
    """The hybrid tower: fine-grained interaction with a query that the video itself
    generates, so that one vector a video is stored; and, by its configuration, its
    ablations (Tab. 2) and baselines (Tab. 4).

    Args:
        config: sizes, settings, and how the paper is read; also a dict of its fields,
            as JSON holds it.

    Attributes:
        clip: the `transformers.CLIPModel`, random; see `of` for a pretrained one.
        generator: $\\phi_g$, or None.
        fusioner: $\\phi_f$, or None.
    """

    def __init__(self, config: Config | dict[str, Any]) -> None:
        super().__init__()
        self.config = config if isinstance(config, Config) else Config(**config)
        made, sizes = self.config, self.config.sizes
        self.clip = CLIPModel(sizes)
        proxies = made.proxies if made.backbone == "clip_vip" else 0
        wrap(self.clip, made.frames, proxies, made.frame_cls)
        wrap_attention(layers(self.clip)[1], lambda _, one: LoRAAttention(one))
        if made.logit_scale is not None:
            nn.init.constant_(self.clip.logit_scale, made.logit_scale)
        self.generator, self.fusioner = _generator(made), _fusioner(made)
        self.freeze()

    @classmethod
    def of(
        cls, clip: CLIPModel | Towers, config: Config | None = None, *,
        generator: Generator | None = None, **settings: Any,
    ) -> Self:  # fmt: skip
        """A model on a copy of a pretrained CLIP, its dtype and device.

        Args:
            clip: what `vtrlib.clip.load` gives, or a `transformers.CLIPModel`.
            config: its settings but for `clip`; or give them by name.
            generator: draws the weights that are new, on the CPU.

        Raises:
            TypeError: both a config and settings.
        """
        source, known = inputs.given_clip(clip, config, settings)
        model = cls(Config(**known))
        scale = model.clip.logit_scale.item()
        model.clip.load_state_dict(source.state_dict(), strict=False)
        if model.config.logit_scale is not None:
            nn.init.constant_(model.clip.logit_scale, scale)
        cast(ViPEmbeddings, model.clip.vision_model.embeddings).start(generator)
        if model.generator is not None:
            model.generator.start(model.clip, generator)
        if model.fusioner is not None:
            model.fusioner.start(generator)
        return model.to(source.device, source.dtype).eval()

    def enter_stage(self, stage: int) -> Self:
        """Go on in stage 1 or 2 of training (Sec. 3.6), with the weights as they are.

        Raises:
            ValueError: another stage, or 1 where there is no generator.
        """
        self.config = replace(self.config, stage=stage)
        self.freeze()
        return self

    def freeze(self) -> None:
        """Let gradients reach what the stage trains: 1, the generator; 2, everything."""
        self.requires_grad_(self.config.stage == 2)
        if self.generator is not None:
            self.generator.train_parts()

    def parameter_groups(self, weight_decay: float = 0.2) -> list[dict[str, Any]]:
        """What is trained, in two groups: all is decayed but biases and the logit scale.

        As released, where weights of norms, embeddings and proxies are decayed too: the
        code looks for other names than CLIP's norms have.
        """
        decayed: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                spared = "bias" in name or name.endswith("logit_scale")
                (rest if spared else decayed).append(weight)
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]

    @property
    def scale(self) -> Tensor:
        """exp(logit scale), 1 … 200, as released; (). 1/τ of Eq. 2-3."""
        return self.clip.logit_scale.clamp(0, _MOST).exp()

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Captions to features t.

        Args:
            ids: (B, L), token ids, [bos] … [eos], padded on the right with any token.
            mask: (B, L), true or 1 where there is a token.

        Returns:
            (B, D), not normalised.

        Raises:
            ValueError: shapes or dtypes that do not fit, too long a text; on a CPU or
                outside training also a text without tokens or without end token, and an
                unknown id.
        """
        return self._text("ids", ids, mask)

    def encode_video(
        self, video: Tensor, captions: tuple[Tensor, Tensor] | None = None, *,
        whole: bool = True,
    ) -> Videos:  # fmt: skip
        """Videos to what is stored of them, and what led there.

        Args:
            video: (B, F, 3, size, size), floating, as `vtrlib.clip.preprocess` gives.
                F may differ from `config.frames`.
            captions: ids and mask, as for `encode_text`, where `config.pseudo_query` is
                "captions".
            whole: compute the last layer and the projection for all tokens, as
                released; False for those alone that are used, with the same result but
                for `x_p`, which is None then.

        Raises:
            ValueError: shapes or dtypes that do not fit, too few patches for ITS or too
                many frames for the generator's positions, or no captions where they are
                needed; on a CPU or outside training also NaN, infinity, and a frame of
                zeros.
        """
        reads = inputs.readable(video, self.training)
        video, _ = inputs.checked_frames(self.clip.config, video, None, False, reads)
        self.config.fits(video.shape[1], self.clip.config)
        pseudo = self._captions(captions, len(video))
        found = visual_tokens(self.clip, video, self.config, whole)
        if self.generator is not None:
            parts = {"x_v": found.x_v, "x_f": found.x_f, "x_ip": found.x_ip}
            read = torch.cat([parts[name] for name in self.config.reads], 1)
            pseudo = self.generator(read, whole)
        return Videos(self._fuse(found, pseudo), pseudo, *found)

    @torch.no_grad()
    def index(
        self, video: Tensor, captions: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """What a gallery stores: one unit vector a video, (B, D), whose products with
        unit vectors of queries are the scores. Arguments as of `encode_video`."""
        return unit(self.encode_video(video, captions, whole=False).v)

    def score(self, texts: Tensor, v: Tensor) -> Tensor:
        """The cosine of captions (Q, D) and videos (V, D): (Q, V)."""
        return cosine(texts, v)

    def score_pairs(self, texts: Tensor, videos: Videos) -> Tensor:
        """A true single tower: the fusioner asks every video with every caption.

        What `config.pseudo_query="query"` trains; any model with a fusioner can be asked.

        Args:
            texts: t (Q, D), in the place of pseudo-queries.
            videos: V of them.

        Returns:
            (Q, V), cosines of each caption and the video as it sees it.

        Raises:
            ValueError: the model has no fusioner, or shapes do not fit.
        """
        if self.fusioner is None:
            raise ValueError("config.fusioner='none': expected one that pairs can meet in.")
        return self.fusioner.score(texts, torch.cat([videos.x_v, videos.x_f], 1))

    def forward(self, batch: Batch, gradient: str = "whole") -> Losses:
        """The loss of a batch; see `loss`."""
        return self.loss(batch, gradient)

    def loss(
        self, batch: Batch, gradient: str = "whole", reading: Reading | str | None = None
    ) -> Losses:
        r"""$\mathcal L$ and its terms (Eq. 9).

        On several processes features of all of them are gathered, and each computes the
        contrast of the whole batch; reconstruction is a mean over its own pairs. Where
        gradients are averaged over processes, call the model instead.

        Args:
            batch: B videos; the same number on each process.
            gradient: "whole", or "local"; see `vtrlib.gathering.gather`.
            reading: of the losses alone, not of the model; the model's by default. Also
                "paper" or "released".

        Raises:
            ValueError: bad input, as for the `encode_…` methods; parts of the batch are
                missing, or differ in B.
        """
        read = self.config.reading if reading is None else Reading.given(reading)
        # Stage 1 has this one term. There it is the released 2 - 2 cos in every reading,
        # whatever α: its size shows in how gradients are clipped.
        weight = self.config.weight(read) if self.config.stage == 2 else read.alpha
        self._whole(batch)
        if self.training and self.clip.logit_scale.requires_grad:
            with torch.no_grad():  # a clamp in the graph would hold it there for good
                self.clip.logit_scale.clamp_(0, _MOST)
        found = self._captions_of(batch)
        videos = self.encode_video(batch["video"], found, whole=False)
        texts = self._text(
            "text_input_ids", batch["text_input_ids"], batch["text_input_mask"]
        )
        first = second = self.scale.detach().new_zeros(())
        if self.config.stage == 2:
            similarity = self._similarity(texts, videos, gradient)
            first = contrastive(similarity, self.scale, read)
        if self.config.generates and videos.pseudo_query is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                second = reconstruction(videos.pseudo_query, texts, read)
        total = first + weight * second
        return Losses(total=total, contrastive=first, reconstruction=second)

    def _similarity(self, texts: Tensor, videos: Videos, gradient: str) -> Tensor:
        """Of all processes' captions with all their videos, (B, B)."""
        texts = gather(texts, gradient)
        if self.config.pseudo_query != "query":
            return cosine(texts, gather(videos.v, gradient))
        x_v, x_f = (gather(x, gradient) for x in (videos.x_v, videos.x_f))
        return self.score_pairs(texts, videos._replace(x_v=x_v, x_f=x_f))

    def _text(self, name: str, ids: Tensor, mask: Tensor) -> Tensor:
        reads = inputs.readable(ids, self.training)
        ids, mask, ends = inputs.checked_texts(
            self.clip.config, name, ids, mask, "B L", reads
        )
        text = self.clip.text_model
        x = text.embeddings(ids)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        seen = mask[:, None, None] & causal.tril()
        for layer in layers(self.clip)[1]:
            x = layer(x, seen)
        last = x.take_along_dim(ends.int().argmax(1)[:, None, None], 1).squeeze(1)
        features: Tensor = self.clip.text_projection(text.final_layer_norm(last))
        return features

    def _captions(
        self, captions: tuple[Tensor, Tensor] | None, videos: int
    ) -> Tensor | None:
        if self.config.pseudo_query != "captions":
            return None
        if captions is None:
            raise ValueError(
                "captions=None: expected ids and mask of a caption for each video, since "
                "config.pseudo_query='captions'."
            )
        check.sizes("captions", captions[0], "B L", {"B": videos})
        return self._text("captions", *captions)

    def _captions_of(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        if self.config.pseudo_query != "captions":
            return None
        return batch["caption_input_ids"], batch["caption_input_mask"]

    def _fuse(self, found: Tokens, pseudo: Tensor | None) -> Tensor:
        if self.fusioner is not None and pseudo is not None:
            v: Tensor = self.fusioner(pseudo, torch.cat([found.x_v, found.x_f], 1))
            return v
        if self.config.backbone == "clip4clip":
            return unit(found.x_f).mean(1)
        return found.x_v[:, 0]

    def _whole(self, batch: Batch) -> None:
        names = ["video", "text_input_ids", "text_input_mask"]
        if self.config.pseudo_query == "captions":
            names += ["caption_input_ids", "caption_input_mask"]
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(
                f"batch: found no {check.listed(missing)}, expected {', '.join(names)}."
            )
        known = check.sizes("video", batch["video"], "B F C H W")
        check.sizes("text_input_ids", batch["text_input_ids"], "B L", {"B": known["B"]})


def _generator(
    made: Config,
) -> CausalGenerator | MLPGenerator | QFormerGenerator | None:
    text, dimension = made.sizes.text_config, made.sizes.projection_dim
    if made.pseudo_query == "causal":
        return CausalGenerator(text, dimension, made.reading.bos == "on")
    if made.pseudo_query == "mlp":
        return MLPGenerator(text, dimension)
    return QFormerGenerator(text, dimension) if made.pseudo_query == "qformer" else None


def _fusioner(made: Config) -> Fusioner | None:
    dimension, heads, dropout = (
        made.sizes.projection_dim, made.fusioner_heads, made.fusioner_dropout,
    )  # fmt: skip
    if made.fusioner == "none":
        return None
    if made.fusioner == "xpool":
        pre_norm = made.reading.pre_norm == "shared"
        return XPool(dimension, heads, dropout, pre_norm, made.temperature)
    kind = CrossAttention if made.fusioner == "cross" else CoAttention
    return kind(dimension, heads, dropout, made.fusioner_layers, made.residual)
