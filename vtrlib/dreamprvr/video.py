"""The dual-branch video encoder: imagine registers, encode with them (Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vtrlib import diffusion
from vtrlib.dreamprvr.attention import DreamPRVRBlock
from vtrlib.dreamprvr.config import Config
from vtrlib.dreamprvr.draws import Draws
from vtrlib.dreamprvr.layers import (
    AttentionBlock,
    InputProjection,
    PositionCode,
    key_bias,
)
from vtrlib.dreamprvr.registers import (
    ConditionGenerator,
    DiffusionRegisterEstimator,
    Guidance,
    generate_registers,
)
from vtrlib.dreamprvr.sampler import Gaussian, variational_sampler

__all__ = ["DualBranchEncoder", "FeatureEncoder", "Imagined", "Videos"]


class Videos(NamedTuple):
    """Encoded videos, which scores need, and the registers that helped.

    Attributes:
        clips: (V, M_c, d).
        frames: (V, M_f, d), zeros in padding.
        mask: (V, M_f), bool, true where there is a frame.
        registers: r_0, (V, N_r, d).
    """

    clips: Tensor
    frames: Tensor
    mask: Tensor
    registers: Tensor

    @staticmethod
    def join(parts: Sequence[Videos]) -> Videos:
        """One gallery from parts that were encoded one after the other."""
        return Videos(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class Imagined(NamedTuple):
    """A video's registers and where they come from.

    Attributes:
        features: V_v, (B, M_c, d).
        start: p(r_T | V_v).
        guidance: of the estimator.
        registers: r_0 (B, N_r, d), or r_T, …, r_0 (T + 1, B, N_r, d).
    """

    features: Tensor
    start: Gaussian
    guidance: Guidance
    registers: Tensor


class FeatureEncoder(nn.Module):
    """Clips to V_v by a Transformer block, with an input layer of its own or none."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.own = config.reading.feature_encoder == "own"
        if self.own:
            drop = config.input_dropout
            self.project = InputProjection(config.video_width, config.width, drop)
            self.position = PositionCode(config.clips, config.width, drop)
        self.block = AttentionBlock(config.width, config.heads, config.dropout)

    def forward(self, clips: Tensor, embedded: Tensor) -> Tensor:
        """Clips (B, M_c, Dv), also as their branch embeds them (B, M_c, d), to V_v."""
        x = self.position(self.project(clips)) if self.own else embedded
        features: Tensor = self.block(x)
        return features


class DualBranchEncoder(nn.Module):
    """Everything on the video's side."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.schedule = diffusion.cosine(
            config.steps, config.schedule_offset, config.schedule_clip
        )
        width, drop = config.width, config.input_dropout
        self.clip_project = InputProjection(config.video_width, width, drop)
        self.clip_position = PositionCode(config.clip_positions, width, drop)
        self.frame_project = InputProjection(config.video_width, width, drop)
        self.frame_position = PositionCode(config.frames, width, drop)
        self.features = FeatureEncoder(config)
        self.sampler = variational_sampler(config)
        self.condition = ConditionGenerator(config)
        self.estimator = DiffusionRegisterEstimator(config)
        self.clip_block = DreamPRVRBlock(config, config.clips)
        self.frame_block = DreamPRVRBlock(config, config.frames)

    def imagine(
        self, clips: Tensor, embedded: Tensor, draws: Draws,
        generator: Generator | None = None, trajectory: bool = False,
    ) -> Imagined:  # fmt: skip
        """Imagination: clips (B, M_c, Dv), also embedded (B, M_c, d), to registers."""
        features = self.features(clips, embedded)
        start = self.sampler(features)
        guidance = self.estimator.guide(self.condition(features))
        source, number = self.config.registers_from, self.config.registers
        if source in ("diffusion", "noise"):
            registers = generate_registers(
                self.estimator, start, guidance, self.schedule, self.config.reading,
                draws, generator, trajectory, informed=source == "diffusion",
            )  # fmt: skip
            return Imagined(features, start, guidance, registers)
        registers = features[:, :0]
        if source == "pooling":
            registers = F.adaptive_avg_pool1d(features.mT, number).mT
        registers = registers[None] if trajectory else registers
        return Imagined(features, start, guidance, registers)

    def embed_clips(self, clips: Tensor) -> Tensor:
        """(B, M_c, Dv) to (B, M_c, d)."""
        embedded: Tensor = self.clip_position(self.clip_project(clips))
        return embedded

    def concentrate(
        self, embedded: Tensor, frames: Tensor, mask: Tensor, registers: Tensor
    ) -> Videos:
        """Concentration: both branches with their registers.

        Args:
            embedded: clips, (B, M_c, d).
            frames: (B, F, Dv), F ≤ M_f, zeros in padding; padded to M_f here.
            mask: (B, F), bool.
            registers: r_0, (B, N_r, d).
        """
        missing = self.config.frames - frames.shape[1]
        frames, mask = F.pad(frames, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        x = self.frame_position(self.frame_project(frames))
        bias = key_bias(mask, x.dtype, extra=registers.shape[1])
        out = self.frame_block(x, registers, bias, mask)
        out = out.masked_fill(~mask[..., None], 0)
        return Videos(self.clip_block(embedded, registers), out, mask, registers)

    def forward(
        self,
        clips: Tensor,
        frames: Tensor,
        mask: Tensor,
        draws: Draws,
        generator: Generator | None = None,
    ) -> tuple[Videos, Imagined]:
        """Features to encoded videos, and how their registers came about."""
        embedded = self.embed_clips(clips)
        imagined = self.imagine(clips, embedded, draws, generator)
        return self.concentrate(embedded, frames, mask, imagined.registers), imagined
