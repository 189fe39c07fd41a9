"""A text-to-video diffusion model small enough to run, and to be trained, on a CPU.

It paints digits that move on a dark stage (`vtrlib.world.DarkStage`), and stands here
where ZeroScope stands in the paper: a U-Net of diffusers with its temporal layers, its
schedule, latents and a text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet3DConditionModel
from torch import Generator, Tensor, nn
from torch.nn import functional

from vtrlib import check
from vtrlib.clip import Towers, load
from vtrlib.ragme.pipeline import clip_sizes
from vtrlib.shipped import verify

__all__ = [
    "GENERATOR", "FrameIndexUNet", "PixelCodec", "TinyStates", "dark_scheduler",
    "load_generator", "tiny_unet",
]  # fmt: skip

GENERATOR = Path(__file__).resolve().parents[1] / "assets" / "tiny_generator"


class FrameIndexUNet(UNet3DConditionModel):
    r"""A U-Net that is told which frame it paints, and that predicts v by way of what
    is clean.

    The temporal attention of diffusers has no positions: order would come from small
    convolutions in time alone. So there is one more plane in the input, -1 in the first
    frame and 1 in the last. `in_channels` counts it, `added_channels` says so.

    What its layers give is read as $\hat x_0$, and what is returned is
    $v = (\sqrt{\bar\alpha_t}\, x_t - \hat x_0) / \sqrt{1 - \bar\alpha_t}$ of the
    schedule of `dark_scheduler`. To give v or $\epsilon$ directly the layers would have
    to carry the noise of all 48 channels through 32.
    """

    added_channels = 1

    def forward(
        self, sample: Tensor, timestep: Tensor | float, *args: Any, **kwargs: Any
    ) -> Any:
        """As of the base class; sample (B, C, F, H, W) without the plane."""
        batch, _, frames, *rest = sample.shape
        wide = torch.promote_types(sample.dtype, torch.float32)
        index = torch.linspace(-1, 1, frames, dtype=wide, device=sample.device)
        plane = index.to(sample)[None, None, :, None, None]
        plane = plane.expand(batch, 1, frames, *rest)
        found = super().forward(
            torch.cat([sample, plane], 1), timestep, *args, **kwargs
        )
        clean = found[0] if isinstance(found, tuple) else found.sample
        step = torch.as_tensor(timestep, device="cpu").long()
        level = dark_scheduler().alphas_cumprod[step].to(sample.device, wide)
        level = level.view(-1, 1, 1, 1, 1)
        v = (level.sqrt() * sample.to(wide) - clean) / (1 - level).sqrt()
        v = v.to(clean.dtype)
        if isinstance(found, tuple):
            return (v, *found[1:])
        return type(found)(sample=v)


def tiny_unet(seed: int = 0) -> FrameIndexUNet:
    """The tiny generator's U-Net before any training, 1.36 M parameters; torch's global
    generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = FrameIndexUNet(
            sample_size=4, in_channels=PixelCodec.channels + 1,
            out_channels=PixelCodec.channels, layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            block_out_channels=(32, 64), attention_head_dim=8, cross_attention_dim=64,
        )  # fmt: skip
    return _without_dropout(made).eval()


def _without_dropout(unet: FrameIndexUNet) -> FrameIndexUNet:
    """Temporal convolutions of diffusers drop a tenth, which costs a model as small as
    this one its motions."""
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return unet


@cache
def dark_scheduler() -> DDIMScheduler:
    r"""ZeroScope's schedule, 1,000 steps of scaled linear β from 0.00085 to 0.012, with
    v as what is predicted. It ends at $\sqrt{\bar\alpha_T} = 0.068$, not at 0: that is
    what RagInit lives on."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip


class PixelCodec:
    """What stands for an autoencoder: frames at half their size, in blocks of 4 × 4.

    Halving loses fine strokes, as an autoencoder does; the rest is exact. A latent is a
    block's pixels on the scale -1 … 1, the stage's ground subtracted, so that the mean
    of several clips' latents is the latent of their mean. They are not brought to a
    variance of 1, as latents usually are: where almost all is ground, a clip would then
    stand out of the schedule's last noise by five standard deviations. A generator
    would learn to see there what moves and how, and sampling starts from noise in which
    there is nothing to see.
    """

    channels = 48  # 3 · 4 · 4
    factor = 8
    _LEVEL = -0.73  # of the ground

    def encode(self, clips: Tensor, generator: Generator | None = None) -> Tensor:
        """(n, 48, F, H/8, W/8) from bytes (n, F, 3, H, W); nothing is drawn.

        Raises:
            TypeError: no tensor. ValueError: no bytes, or another shape.
        """
        known = clip_sizes(clips)
        if known["H"] % self.factor or known["W"] % self.factor:
            raise ValueError(
                f"clips: found frames of {known['H']} × {known['W']}, expected sides "
                f"that {self.factor} divides. Crop or resize them."
            )
        halved = functional.avg_pool2d(clips.flatten(0, 1).float(), 2) / 127.5 - 1
        blocks = functional.pixel_unshuffle(halved - self._LEVEL, 4)
        return blocks.unflatten(0, clips.shape[:2]).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Bytes (n, F, 3, H, W) from latents (n, 48, F, h, w)."""
        flat = latents.transpose(1, 2).flatten(0, 1).float()
        halved = functional.pixel_shuffle(flat, 4) + self._LEVEL
        whole = functional.interpolate(halved, scale_factor=2, mode="bilinear")
        pixels = ((whole + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.unflatten(0, (len(latents), latents.shape[2]))


class TinyStates:
    """A prompt's words as the generator reads them: the tiny text tower's embeddings of
    tokens and places, brought to one size by its last norm.

    Not what its last layer makes of them. Trained on single frames, that layer has
    nearly forgotten what tells "up" from "down": their states are 1.7 apart there and
    6.8 here, "seven" and "three" 9.9 in both.

    Args:
        towers: the tiny CLIP's, which are frozen.
        length: L; shorter prompts are followed by zeros.
    """

    def __init__(self, towers: Towers | None = None, length: int = 12) -> None:
        self.towers = (towers or load("tiny")).frozen()
        self.length = length

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """(B, L, d).

        Raises:
            TypeError: a single text. ValueError: none, one of more tokens, or with a
                word that the tower doesn't know.
        """
        tokenizer = self.towers.tokenizer
        if not isinstance(prompts, str):
            self._fit({text: tokenizer(text)["input_ids"] for text in prompts})
        ids, mask = self.towers.tokenize(prompts)
        tower = self.towers.model.text_model
        states = tower.final_layer_norm(tower.embeddings(input_ids=ids))
        states = states.masked_fill(~mask.bool()[..., None], 0)
        return functional.pad(states, (0, 0, 0, self.length - states.shape[1]))

    def _fit(self, tokens: dict[str, list[int]]) -> None:
        """Raise before the tower warns of a word, and reads it as unknown."""
        unknown = self.towers.tokenizer.unk_token_id
        strange = [text for text, ids in tokens.items() if unknown in ids]
        if strange:
            raise ValueError(
                f"prompts: found words outside the tiny vocabulary in "
                f"{check.listed(map(repr, strange))}, expected words of the world's "
                "captions, such as 'a red seven moves left'."
            )
        longest = max(map(len, tokens.values()), default=0)
        if longest > self.length:
            raise ValueError(
                f"prompts: found one of {longest} tokens, expected at most "
                f"{self.length}, [bos] and [eos] included. Say it in fewer words."
            )


def load_generator(
    folder: str | Path = GENERATOR, device: str | torch.device = "cpu"
) -> FrameIndexUNet:
    """The tiny generator, trained; how is in `recipe.json` beside it.

    Raises:
        FileNotFoundError: a folder without a part of it.
        ValueError: weights that differ from their recorded hash.
    """
    place = Path(folder)
    verify(place, "diffusion_pytorch_model.safetensors")
    unet = FrameIndexUNet.from_pretrained(place, torch_dtype=torch.float32)
    made: FrameIndexUNet = unet.to(device).eval()
    return _without_dropout(made)
