"""What a PIG model is made of: CLIP's sizes, its parts, how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import CLIPConfig

from vtrlib import check
from vtrlib.clip.inputs import given_settings
from vtrlib.pig.reading import Reading

__all__ = ["VARIANTS", "Config"]

_INPUTS = (
    "x_v", "x_f", "x_ip", "x_v+x_f", "x_v+x_ip", "x_f+x_ip", "x_v+x_f+x_ip",
)  # fmt: skip
_OPTIONS = {
    "backbone": ("clip_vip", "clip4clip"),
    "pseudo_query": ("causal", "mlp", "qformer", "captions", "query", "none"),
    "inputs": _INPUTS,
    "score_heads": ("max", "mean"),
    "fusioner": ("xpool", "cross", "co", "none"),
}


@dataclass(frozen=True)
class Config:
    r"""Sizes and settings of a model; the defaults are PIG on CLIP ViT-B/32, 12 frames.

    Attributes:
        clip: sizes of the CLIP model, as `transformers.CLIPConfig` takes them (also one
            of those); {} is ViT-B/32, {"vision_config": {"patch_size": 16}} ViT-B/16.
        backbone: "clip_vip", or "clip4clip": CLIP frame by frame. There $x_v$ is the
            mean of the frames' features, and each frame's [cls] tells which of its
            patches are informative; `proxies` and `frames` are not read.
        frames: F of the temporal embedding; others are interpolated.
        proxies: P, video-level tokens.
        frame_cls: whether frames have a [cls]; CLIP-ViP itself has none.
        pseudo_query: where $t_p$ comes from. A generator, "causal" (Sec. 3.4), "mlp" or
            "qformer" (Tab. 2); "captions": the text tower's features of captions that
            come with the video; "query": there is none, the fusioner meets each query
            itself, as in a single tower, and v is the backbone's own feature; or
            "none".
        inputs: what the generator reads, in this order: $x_v$, $x_f$ and the
            informative patches $x_{ip}$, joined by "+".
        top: k of ITS.
        score_heads: what ITS takes over heads, "max" (Eq. 6) or "mean".
        fusioner: "xpool" (Eq. 7), "cross" or "co" (Tab. 2); "none": v is the backbone's
            own feature of a video, the first proxy's, or the mean of the frames' unit
            vectors.
        residual: of "cross" and "co", see there.
        fusioner_heads, fusioner_layers: "xpool" has one layer.
        fusioner_dropout: in training.
        temperature: of the logits in "xpool".
        alpha: $\alpha$ of Eq. 9, in the terms of `reading`; None for that of the
            reading, 2 with Eq. 8 as printed, 1 where it is doubled.
        logit_scale: that training starts from, as released; None for CLIP's own.
        stage: of training. 1: the generator alone, on Eq. 8; 2: everything, on Eq. 9.
        reading: a `Reading`, or "paper" or "released".

    Raises:
        TypeError, ValueError: a setting out of its range, or two that do not fit.
    """

    clip: dict[str, Any] = field(default_factory=dict)
    backbone: str = "clip_vip"
    frames: int = 12
    proxies: int = 4
    frame_cls: bool = True
    pseudo_query: str = "causal"
    inputs: str = "x_v+x_f+x_ip"
    top: int = 16
    score_heads: str = "max"
    fusioner: str = "xpool"
    residual: bool = True
    fusioner_heads: int = 1
    fusioner_layers: int = 1
    fusioner_dropout: float = 0.1
    temperature: float = 1.0
    alpha: float | None = None
    logit_scale: float | None = 4.6
    stage: int = 2
    reading: Reading = field(default_factory=Reading.released)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reading", Reading.given(self.reading))
        object.__setattr__(self, "clip", given_settings(self.clip))
        for name, options in _OPTIONS.items():
            check.one_of(name, getattr(self, name), options)
        for name in ("frames", "proxies", "top", "fusioner_heads", "fusioner_layers"):
            check.integer(name, getattr(self, name), low=1)
        check.number("fusioner_dropout", self.fusioner_dropout, low=0, high=1)
        if check.number("temperature", self.temperature, low=0) == 0:
            raise ValueError("temperature=0: expected a number above 0.")
        for name, low in (("alpha", 0), ("logit_scale", None)):
            if getattr(self, name) is not None:
                check.number(name, getattr(self, name), low=low)
        check.integer("stage", self.stage, 1, 2)
        self._together()

    def _together(self) -> None:
        """Raise unless the settings fit each other."""
        clip, text = self.sizes, self.sizes.text_config
        if self.stage == 1 and not self.generates:
            raise ValueError(
                f"stage=1, pseudo_query={self.pseudo_query!r}: there is none to train. Expected "
                "'causal', 'mlp' or 'qformer', or stage=2."
            )
        if self.fusioner == "none" and self.pseudo_query == "query":
            raise ValueError(
                "pseudo_query='query', fusioner='none': expected a fusioner, in which queries "
                "and videos meet."
            )
        if self.fusioner != "none" and self.pseudo_query == "none":
            raise ValueError(
                f"pseudo_query='none', fusioner={self.fusioner!r}: a fusioner asks with a "
                "pseudo-query. Set fusioner='none' too, or choose a generator."
            )
        if self.fusioner in ("xpool", "co") and clip.projection_dim % self.fusioner_heads:
            raise ValueError(
                f"fusioner_heads={self.fusioner_heads}: expected a divisor of D="
                f"{clip.projection_dim}."
            )
        if not self.frame_cls and ("x_f" in self.reads or self.backbone == "clip4clip"):
            raise ValueError(
                "frame_cls=False: expected inputs without x_f, backbone='clip_vip' and, "
                "if there is a generator, that it reads no frame."
            )
        width = clip.vision_config.hidden_size
        if self.reading.scored == "projected" and width != clip.projection_dim:
            raise ValueError(
                f"reading.scored='projected': found features of D={clip.projection_dim} "
                f"and a vision tower of width {width}, expected the same: Eq. 6 puts the "
                "ones through matrices of the other. Choose 'hidden'."
            )
        if self.backbone == "clip_vip":
            self.fits(self.frames, clip)
        if self.generates and text.bos_token_id >= text.vocab_size:
            raise ValueError(
                f"clip: text_config.bos_token_id={text.bos_token_id}: expected an id of "
                f"the vocabulary, below {text.vocab_size}; [bos] of the generator starts "
                "as its embedding."
            )

    def fits(self, frames: int, sizes: CLIPConfig) -> None:
        """Raise ValueError unless videos of so many frames fit ITS and the generator, in
        a CLIP of these `sizes`."""
        vision, text = sizes.vision_config, sizes.text_config
        patches = (vision.image_size // vision.patch_size) ** 2
        if "x_ip" in self.reads and self.top > frames * patches:
            raise ValueError(
                f"top={self.top}: found {frames} frames of {patches} patches, expected at "
                f"least {self.top} patches in a video. Lower top, or give more frames."
            )
        if self.pseudo_query != "causal":
            return
        video = self.proxies if self.backbone == "clip_vip" else 1
        parts = {"x_v": video, "x_f": frames, "x_ip": self.top}
        ends = 2 if self.reading.bos == "on" else 1
        number = sum(parts[name] for name in self.reads) + ends
        most = text.max_position_embeddings
        if number > most:
            raise ValueError(
                f"frames={frames}, top={self.top}: found {number} tokens for the generator, "
                f"expected at most {most}, its positions. Give fewer frames, or lower top."
            )

    @property
    def sizes(self) -> CLIPConfig:
        """The CLIP model's configuration."""
        return CLIPConfig(**self.clip)

    @property
    def generates(self) -> bool:
        """Whether pseudo-queries are made from the video's tokens."""
        return self.pseudo_query in ("causal", "mlp", "qformer")

    @property
    def reads(self) -> tuple[str, ...]:
        """What the generator reads, in order."""
        return tuple(self.inputs.split("+")) if self.generates else ()

    def weight(self, reading: Reading | None = None) -> float:
        r"""$\alpha$ in the terms of a reading, by default its own: what is set counts in
        its own terms, and in another's $\alpha \mathcal L_{recon}$ stays the same."""
        default = (reading or self.reading).alpha
        return default if self.alpha is None else self.alpha * default / self.reading.alpha

    @classmethod
    def variant(
        cls, name: str, reading: str | Reading = "released", **settings: Any
    ) -> Config:
        """A row of Tab. 2 or Tab. 4 by its name in `VARIANTS`.

        Args:
            name: "pig" is Setup 0 of Tab. 2.
            reading: as of a `Config`.
            settings: of a `Config`, on top.
        """
        found = {**VARIANTS[check.one_of("name", name, VARIANTS)], **settings}
        return cls(**found, reading=reading)  # type: ignore[arg-type]


_BARE: dict[str, Any] = {"pseudo_query": "none", "fusioner": "none", "alpha": 0.0}

# Tab. 2, Setup 0 to 10 (9 and 10 differ in who wrote the captions); fusioners without
# the residual that the paper blames; Tab. 4: baselines, and the other backbone; and
# X-Pool's single tower on the same backbone, whose accuracy PIG is to reach.
VARIANTS: dict[str, dict[str, Any]] = {
    "pig": {},
    "no_recon": {"alpha": 0.0},
    "x_v": {"inputs": "x_v"},
    "x_v_x_f": {"inputs": "x_v+x_f"},
    "x_f_x_ip": {"inputs": "x_f+x_ip"},
    "mlp": {"pseudo_query": "mlp"},
    "qformer": {"pseudo_query": "qformer"},
    "cross": {"fusioner": "cross"},
    "co": {"fusioner": "co"},
    "captions": {"pseudo_query": "captions", "alpha": 0.0},
    "cross_no_residual": {"fusioner": "cross", "residual": False},
    "co_no_residual": {"fusioner": "co", "residual": False},
    "clip_vip": {**_BARE, "frame_cls": False},
    "clip4clip": {**_BARE, "backbone": "clip4clip"},
    "pig_clip4clip": {"backbone": "clip4clip"},
    "single_tower": {"pseudo_query": "query", "alpha": 0.0},
}
