"""DiscoVLA whole: captions and videos in, features and the loss that trains it out."""

import math
from typing import Any, NamedTuple, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Generator, Tensor, nn
from transformers import CLIPModel

from vtrlib import check
from vtrlib.clip import inputs
from vtrlib.clip.lora import SharedLoRA
from vtrlib.clip.towers import Towers
from vtrlib.discovla.alignment import (
    Losses,
    image_similarity,
    objective,
    pool_frames,
)
from vtrlib.discovla.config import Config
from vtrlib.discovla.inputs import Batch
from vtrlib.discovla.ivfusion import Adapter, Frames
from vtrlib.discovla.towers import (
    first_parts,
    frame_features,
    places,
    text_features,
    wrap_towers,
)
from vtrlib.gathering import gather
from vtrlib.similarity import cosine

__all__ = ["DiscoVLA", "Videos"]

_MOST = math.log(100)  # CLIP's limit of its logit scale


class Videos(NamedTuple):
    """B videos as a query meets them.

    Attributes:
        video: (B, D), mean of the frames' unit vectors, not normalised again.
        frames: (B, F, D), features of the frames, not normalised.
    """

    video: Tensor
    frames: Tensor


class DiscoVLA(nn.Module, PyTorchModelHubMixin):
    """Parameter-efficient video-text retrieval on CLIP; and, by its configuration, its
    baselines: CLIP4Clip's mean pooling without training, with LoRA, or fine-tuned.

    Args:
        config: sizes, settings, and how the paper is read; also a dict of its fields,
            as JSON holds it.

    Attributes:
        clip: the `transformers.CLIPModel`, random; its layers' attention is wrapped.
            See `of` for a pretrained one.
    """

    def __init__(self, config: Config | dict[str, Any]) -> None:
        super().__init__()
        self.config = config if isinstance(config, Config) else Config(**config)
        self.clip = CLIPModel(self.config.sizes)
        wrap_towers(self.clip, self.config)
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
        model.clip.load_state_dict(source.state_dict(), strict=False)
        for module in model.modules():
            if isinstance(module, SharedLoRA | Adapter):
                module.draw(generator)
        return model.to(source.device, source.dtype).eval()

    def freeze(self) -> None:
        """Let gradients reach what `config.trained` names, and nothing else."""
        trained = self.config.trained
        self.requires_grad_(trained in ("clip", "all"))
        if trained == "clip":
            for part in first_parts(self.clip):
                part.requires_grad_(False)
        if trained == "added":
            for module in self.modules():
                if isinstance(module, SharedLoRA | Adapter):
                    module.requires_grad_(True)

    def parameter_groups(self, weight_decay: float = 0.2) -> list[dict[str, Any]]:
        """CLIP4Clip's groups for `vtrlib.training.bert_adam`: only biases are not
        decayed. DiscoVLA itself decays everything that is trained."""
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                groups[name.endswith("bias")].append(weight)
        return [
            {"params": found, "weight_decay": 0.0 if bias else weight_decay}
            for bias, found in groups.items()
            if found
        ]

    @property
    def scale(self) -> Tensor:
        """s = exp(logit scale), at most 100, CLIP's limit; (). Also 1/τ of Eq. 2-3."""
        return self.clip.logit_scale.clamp(max=_MOST).exp()

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Captions of videos to features; every layer is image-level.

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
        ids, mask, ends = inputs.checked_texts(
            self.clip.config, "ids", ids, mask, "B L", self._reads(ids)
        )
        return text_features(self.clip, ids, mask, ends, None)

    def encode_pseudo_captions(
        self, ids: Tensor, mask: Tensor, frame_mask: Tensor | None = None
    ) -> Tensor:
        """Captions of a video's frames to features; the top layers look across them.

        There an end token sees all tokens of all captions of its video, without a
        causal limit; a caption's other tokens see what they see in CLIP (but in "video"
        attention, where all see all).

        Args:
            ids: (B, F, L), token ids, as for `encode_text`.
            mask: (B, F, L), true or 1 where there is a token.
            frame_mask: (B, F), true or 1 where the video has a frame; read where
                padding is hidden.

        Returns:
            (B, F, D), not normalised.

        Raises:
            ValueError: as for `encode_text`.
        """
        ids, mask, ends = inputs.checked_texts(
            self.clip.config, "ids", ids, mask, "B F L", self._reads(ids)
        )
        shown = mask
        if frame_mask is not None and self._hides:
            frame_mask = inputs.checked_mask(
                "frame_mask", frame_mask, "the captions", tuple(ids.shape[:2])
            )
            shown = mask & frame_mask[..., None]
        number, ends = ids.shape[1], ends.flatten(0, 1)
        frames = Frames(number, places(ends), shown.flatten(1))
        ids, mask = ids.flatten(0, 1), mask.flatten(0, 1)
        features = text_features(self.clip, ids, mask, ends, frames)
        return features.reshape(-1, number, features.shape[-1])

    def encode_video(self, video: Tensor, mask: Tensor | None = None) -> Videos:
        """Videos to features; the top layers look across frames.

        Nothing in it knows the order of the frames.

        Args:
            video: (B, F, 3, size, size), floating, as `vtrlib.clip.preprocess` gives.
            mask: (B, F), true or 1 where there is a frame; all by default.

        Raises:
            ValueError: shapes or dtypes that do not fit; on a CPU or outside training
                also a video without frames, NaN or infinity, and a frame of zeros.
        """
        return self._videos(*self._checked(video, mask))

    def score(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Sim^vid, the cosine (Eq. 1), of captions (Q, D) and videos (V, D): (Q, V)."""
        return cosine(texts, videos)

    def forward(self, batch: Batch, gradient: str = "whole") -> Losses:
        """The loss of a batch; see `loss`."""
        return self.loss(batch, gradient)

    def loss(self, batch: Batch, gradient: str = "whole") -> Losses:
        r"""$\mathcal L$ and its terms (Eq. 14).

        On several processes features of all of them are gathered, and each computes the
        loss of the whole batch. Where gradients are averaged over processes, call the
        model instead.

        Args:
            batch: B videos; the same number on each process.
            gradient: "whole", or "local", as released; see `vtrlib.gathering.gather`.

        Raises:
            ValueError: bad input, as for the `encode_…` methods; parts of the batch are
                missing, or differ in B or F.
        """
        paired = bool(self.config.alpha or self.config.beta)
        self._whole(batch, paired)
        if self.training and self.clip.logit_scale.requires_grad:
            with torch.no_grad():  # a clamp in the graph would hold it there for good
                self.clip.logit_scale.clamp_(max=_MOST)
        pixels, mask = self._checked(batch["video"], batch["video_mask"])
        texts = self.encode_text(batch["text_ids"], batch["text_mask"])
        videos = self._videos(pixels, mask)
        captions = None
        if paired:
            captions = self.encode_pseudo_captions(
                batch["f_text_ids"], batch["f_text_mask"], mask
            )
        # In bfloat16 a cosine has steps of 1/256 to 1/512, and s = 100 times that.
        with torch.autocast(pixels.device.type, enabled=False):
            scale = self.scale
            similarity = cosine(
                _wide(gather(texts, gradient)), _wide(gather(videos.video, gradient))
            )
            if captions is None:
                return objective(similarity, None, scale, self.config)
            shown = gather(mask) if self._hides else None
            image = image_similarity(
                _wide(gather(captions, gradient)),
                _wide(gather(videos.frames, gradient)),
                kind=self.config.similarity,
                aggregation=self.config.reading.aggregation,
                scale=scale, caption_mask=shown, frame_mask=shown,
            )  # fmt: skip
            return objective(similarity, image.total, scale, self.config)

    @property
    def _hides(self) -> bool:
        """Whether padded frames take part nowhere."""
        return self.config.reading.padding == "hidden"

    def _checked(self, video: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        reads = self._reads(video)
        return inputs.checked_frames(
            self.clip.config, video, mask, self._hides, reads
        )

    def _videos(self, pixels: Tensor, mask: Tensor) -> Videos:
        shown = mask if self._hides else None
        features = frame_features(self.clip, pixels, shown)
        return Videos(pool_frames(features, mask), features)

    def _whole(self, batch: Batch, paired: bool) -> None:
        names = ["text_ids", "text_mask", "video", "video_mask"]
        names += ["f_text_ids", "f_text_mask"] if paired else []
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(
                f"batch: found no {check.listed(missing)}, expected "
                f"{', '.join(names)}. Without pseudo captions set alpha and beta to 0."
            )
        known = check.sizes("video", batch["video"], "B F C H W")
        check.sizes("text_ids", batch["text_ids"], "B L", {"B": known["B"]})
        if paired:
            found = {"B": known["B"], "F": known["F"]}
            check.sizes("f_text_ids", batch["f_text_ids"], "B F L", found)

    def _reads(self, x: Tensor) -> bool:
        return inputs.readable(x, self.training)


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
