"""What a DiscoVLA model is made of: CLIP's sizes, its own settings, what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import CLIPConfig

from vtrlib import check
from vtrlib.clip.inputs import given_settings
from vtrlib.discovla.reading import Reading

__all__ = ["VARIANTS", "Config"]


@dataclass(frozen=True)
class Config:
    r"""Sizes and settings of a model; defaults are the released ones for MSR-VTT.

    Attributes:
        clip: sizes of the CLIP model, as `transformers.CLIPConfig` takes them (also one
            of those); {} is ViT-B/32, {"vision_config": {"patch_size": 16}} ViT-B/16.
        attention: of the top layers (Fig. 3, Tab. 6). "image": each frame by itself;
            "video": all tokens of all frames; "fusion": IVFusion, Eq. 5-7; "average":
            IVFusion without adapter, $\hat c = (c^{(1)} + c^{(2)}) / 2$.
        vision_fusion: $H_V$, layers of the vision tower with that attention, from the
            top; those below are image-level.
        text_fusion: $H_L$, the same of the text tower, for pseudo captions; a video's
            caption is always image-level.
        rank: r of the LoRA in all layers; 0 for none.
        adapter_rank: r of Eq. 7.
        lora_scale: factor of the LoRA's update.
        similarity: in PImgAlign (Tab. 7). "fine": Eq. 8-10; "paired": each frame with
            its own caption; "video": means of frames with means of captions.
        alpha: $\alpha$ of Eq. 14; the loss on the image-level similarity.
        beta: $\beta$ of Eq. 14; distillation. With both 0 no pseudo caption is read.
        trained: "added": LoRA and adapters alone; "clip": all of CLIP but the first
            layers' inputs (token, class and position embeddings, patch layer, first
            norm), as CLIP4Clip; "all"; or "nothing".
        reading: a `Reading`, or "paper" or "released".

    Raises:
        TypeError, ValueError: a setting out of its range.
    """

    clip: dict[str, Any] = field(default_factory=dict)
    attention: str = "fusion"
    vision_fusion: int = 4
    text_fusion: int = 2
    rank: int = 8
    adapter_rank: int = 8
    lora_scale: float = 1.0
    similarity: str = "fine"
    alpha: float = 0.3
    beta: float = 1.0
    trained: str = "added"
    reading: Reading = field(default_factory=Reading.released)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reading", Reading.given(self.reading))
        object.__setattr__(self, "clip", given_settings(self.clip))
        for name, options in _OPTIONS.items():
            check.one_of(name, getattr(self, name), options)
        for name in ("alpha", "beta"):
            check.number(name, getattr(self, name), low=0)
        check.number("lora_scale", self.lora_scale)
        check.integer("rank", self.rank, low=0)
        check.integer("adapter_rank", self.adapter_rank, low=1)
        sizes = self.sizes
        towers = {"vision": sizes.vision_config, "text": sizes.text_config}
        for name, tower in towers.items():
            most = tower.num_hidden_layers
            check.integer(f"{name}_fusion", getattr(self, f"{name}_fusion"), 0, most)

    @property
    def sizes(self) -> CLIPConfig:
        """The CLIP model's configuration."""
        return CLIPConfig(**self.clip)

    @classmethod
    def variant(
        cls, name: str, reading: str | Reading = "released", **settings: Any
    ) -> Config:
        """A row of Tab. 5 by its name in `VARIANTS`, or the full fine-tuning of Tab. 1.

        Args:
            name: "zero_shot", "lora", "b1", "b2", "b3", "discovla" or "full".
            reading: as of a `Config`.
            settings: of a `Config`, on top.
        """
        found = {**VARIANTS[check.one_of("name", name, VARIANTS)], **settings}
        return cls(**found, reading=reading)  # type: ignore[arg-type]


_OPTIONS = {
    "attention": ("image", "video", "average", "fusion"),
    "similarity": ("fine", "paired", "video"),
    "trained": ("added", "clip", "all", "nothing"),
}

_PLAIN: dict[str, Any] = {
    "attention": "image", "vision_fusion": 0, "text_fusion": 0,
    "alpha": 0.0, "beta": 0.0,
}  # fmt: skip

# The paper gives B3 0.54 M parameters although its teacher reads pseudo captions: so
# their layers have no adapter.
VARIANTS: dict[str, dict[str, Any]] = {
    "zero_shot": {**_PLAIN, "rank": 0, "trained": "nothing"},
    "lora": _PLAIN,
    "b1": {"text_fusion": 0, "alpha": 0.0, "beta": 0.0},
    "b2": {"beta": 0.0},
    "b3": {"text_fusion": 0, "alpha": 0.0},
    "discovla": {},
    "full": {**_PLAIN, "rank": 0, "trained": "clip"},
}
