"""What a clip on the dark stage shows, read off its pixels: judges of clips that a generator made.

No network is borrowed. Motion is a rule over the digit's path, size, presence and turn, colour is the nearest of six,
and the digit's name is told by a support vector machine on real handwriting. What each of them is worth on real clips
is measured (`Judge.scored`) before it judges anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional

from vtrlib.check import sizes
from vtrlib.world import card
from vtrlib.world.dark_stage import GROUND, DarkStage

__all__ = ["FEATURES", "Judge", "Traces", "motion_features", "motions", "trace"]

# The numbers of a clip that stand for its motion.
FEATURES = ("across", "down", "growth", "presence", "turning", "path", "jerk")

_FAINT = 0.12  # of full ink: what is fainter counts as ground
_EMPTY = 6.0  # ink, in pixels, below which a frame shows nothing
_TRAVEL = 5.0  # pixels of 14 that a digit has to go, first frame to last
_GROWN = math.log(1.5)  # of its size; a digit that grows does so by a factor of 2.6
_ON = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0], dtype=torch.bool)
_TURNS = 8  # eighths of a full turn
_CROP = 20  # pixels, around the digit's centre


@dataclass(frozen=True)
class Traces:
    """Where the ink of V clips is, frame by frame.

    Attributes:
        mass: (V, F), ink in pixels at full strength.
        x, y: (V, F), its centre, pixels; of a frame without ink that of the frame before, or after.
        size: (V, F), root mean square distance of the ink from its centre, pixels.
        seen: (V, F) bool, whether there is any.
        crops: (V, F, side, side), ink around its centre.
        ink: (V, F, H, W), how far pixels stand out from the ground, 0 … 1.
    """

    mass: Tensor
    x: Tensor
    y: Tensor
    size: Tensor
    seen: Tensor
    crops: Tensor
    ink: Tensor

    @cached_property
    def turn(self) -> Tensor:
        """(V, F − 1), eighths of a turn, −3 … 4, by which a frame has to be turned to look like the next."""
        return _turns(self.crops, self.seen)


def _ink(frames: Tensor) -> Tensor:
    """How far pixels stand out from the ground, 0 … 1: (V, F, H, W) from bytes (V, F, 3, H, W)."""
    ground = torch.tensor(GROUND, dtype=torch.float32)[:, None, None]
    apart = (frames.float() - ground).abs().amax(2) / 200  # the darkest of the six colours is about so far away
    return ((apart - _FAINT) / (1 - _FAINT)).clamp(0, 1)


def trace(frames: Tensor) -> Traces:
    """Follow the digit of each clip.

    Args:
        frames: (V, F, 3, H, W) uint8.

    Raises:
        TypeError: no tensor. ValueError: no bytes, or another shape.
    """
    known = sizes("frames", frames, "V F c H W", {"c": 3})
    if frames.dtype != torch.uint8:
        raise ValueError(f"frames: found {frames.dtype}, expected bytes (uint8) from 0 to 255.")
    ink = _ink(frames)
    mass = ink.sum((2, 3))
    seen = mass > _EMPTY
    rows, columns = torch.arange(known["H"]) + 0.0, torch.arange(known["W"]) + 0.0
    weight = mass.clamp_min(1e-6)
    y, x = (ink.sum(3) * rows).sum(2) / weight, (ink.sum(2) * columns).sum(2) / weight
    spread = (ink * ((rows[:, None] - y[..., None, None]) ** 2 + (columns - x[..., None, None]) ** 2)).sum((2, 3))
    x, y, size = (_carried(one, seen) for one in (x, y, (spread / weight).sqrt()))
    crops = _cropped(ink, x, y)
    return Traces(mass, x, y, size, seen, crops, ink)


def _carried(values: Tensor, seen: Tensor) -> Tensor:
    """Values (V, F), where nothing is seen that of the last frame with something, or of the first."""
    place = torch.where(seen, torch.arange(seen.shape[1]), -1).cummax(1).values
    first = seen.int().argmax(1, keepdim=True)
    return values.gather(1, torch.where(place < 0, first, place))


def _cropped(ink: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(V, F, side, side) around (x, y), bilinearly; nothing lies beyond the frame."""
    videos, frames, height, width = ink.shape
    step = torch.arange(_CROP) - (_CROP - 1) / 2
    across = (x.flatten()[:, None] + step) * 2 / (width - 1) - 1
    down = (y.flatten()[:, None] + step) * 2 / (height - 1) - 1
    grid = torch.stack([across[:, None].expand(-1, _CROP, -1), down[:, :, None].expand(-1, -1, _CROP)], -1)
    taken = functional.grid_sample(ink.reshape(-1, 1, height, width), grid, align_corners=True)
    return taken.reshape(videos, frames, _CROP, _CROP)


def _turned(crops: Tensor) -> Tensor:
    """Crops (N, side, side) in every turn, (N, 8, side, side)."""
    angles = torch.arange(_TURNS) * math.tau / _TURNS
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros(_TURNS)
    turns = torch.stack([torch.stack([cos, sin, none], -1), torch.stack([-sin, cos, none], -1)], 1)
    grid = functional.affine_grid(turns, [_TURNS, 1, _CROP, _CROP], align_corners=True)
    many = crops[:, None].expand(-1, _TURNS, -1, -1).reshape(-1, 1, _CROP, _CROP)
    found = functional.grid_sample(many, grid.repeat(len(crops), 1, 1, 1), align_corners=True)
    return found.reshape(-1, _TURNS, _CROP, _CROP)


def _turns(crops: Tensor, seen: Tensor) -> Tensor:
    """(V, F − 1): the turn after which a frame is most like the next; 0 where one of them is empty."""
    before, after = crops[:, :-1].flatten(0, 1), crops[:, 1:].flatten(0, 1)
    turned = functional.normalize(_turned(before).flatten(2), dim=-1)
    alike = torch.einsum("ntp,np->nt", turned, functional.normalize(after.flatten(1), dim=-1))
    best = alike.argmax(1).unflatten(0, (-1, crops.shape[1] - 1))
    best = torch.where(best > _TURNS // 2, best - _TURNS, best)
    return torch.where(seen[:, :-1] & seen[:, 1:], best, 0)


def _travel(values: Tensor, seen: Tensor) -> Tensor:
    """How far values (V, F) go from the first frame to the last, by a straight line through what is seen: (V,)."""
    frames = values.shape[1]
    weight = seen.float()
    time = torch.arange(frames) - (weight * torch.arange(frames)).sum(1, keepdim=True) / weight.sum(
        1, keepdim=True
    ).clamp_min(1)
    slope = (weight * time * values).sum(1) / (weight * time**2).sum(1).clamp_min(1e-6)
    return slope * (frames - 1)


def motion_features(found: Traces) -> Tensor:
    """A clip's motion in seven numbers, (V, 7), in the order of `FEATURES`.

    Pixels to the right and down from first frame to last; logarithm of the factor by which it grows; ink of the frames
    in which a blinking digit is away by that of those in which it shows, or the other way round, 0 … 1; mean of the
    turn's sense by transition, −1 … 1, without sign; length of its centre's path, pixels; mean length of the path's
    second difference, pixels.
    """
    across, down = (_travel(one, found.seen) for one in (found.x, found.y))
    growth = _travel(found.size.clamp_min(0.5).log(), found.seen)
    halves = torch.stack([found.mass[:, _ON].mean(1), found.mass[:, ~_ON].mean(1)])
    presence = halves.amin(0) / halves.amax(0).clamp_min(1e-6)
    turning = (found.turn.sign() * (found.turn.abs() == 1)).float().mean(1).abs()
    steps = torch.stack([found.x, found.y], -1).diff(dim=1)
    path, jerk = steps.norm(dim=-1).sum(1), steps.diff(dim=1).norm(dim=-1).mean(1)
    return torch.stack([across, down, growth, presence, turning, path, jerk], 1)


def motions(found: Traces) -> Tensor:
    """Which of the world's eight motions each clip shows, (V,), −1 for none of them.

    Blinking goes first; then the largest of travel across, travel down and growth, if it exceeds what a still digit
    could show; then turning.
    """
    across, down, growth, presence, turning = motion_features(found)[:, :5].unbind(1)
    shares = torch.stack([across.abs() / _TRAVEL, down.abs() / _TRAVEL, growth.abs() / _GROWN], 1)
    largest, axis = shares.max(1)
    forwards = torch.stack([across > 0, down > 0, growth < 0], 1).gather(1, axis[:, None])[:, 0]
    answer = torch.where(largest >= 1, 2 * axis + forwards.long(), -1)
    answer = torch.where((answer < 0) & (turning >= 0.5), card.MOTIONS.index("spins"), answer)
    answer = torch.where(presence < 0.3, card.MOTIONS.index("blinks"), answer)
    return torch.where(found.seen.any(1), answer, -1)


class Judge:
    """Names digit, colour and motion of clips on the dark stage.

    Args:
        stage: real clips to learn the digits' looks from; those of the training split.
        through: what generated clips went through, such as a codec's decode of its encode, done to the real ones too.
    """

    def __init__(self, stage: DarkStage, through: Callable[[Tensor], Tensor] | None = None) -> None:
        frames = through(stage.frames) if through else stage.frames
        found = trace(frames)
        looks = self._looks(found)
        upright = (stage.motion != card.MOTIONS.index("spins"))[:, None] & found.seen
        pick = torch.zeros_like(upright)
        pick[:, [0, 2, 5]] = True  # a digit that blinks is away in one of the first two
        rows = upright & pick
        names = stage.digit[:, None].expand_as(rows)[rows]
        self._machine = SVC(C=10.0, gamma=8.0)
        self._machine.fit(looks[rows].numpy(), names.numpy())

    @staticmethod
    def _looks(found: Traces) -> Tensor:
        """(V, F, 144): crops scaled to one size, 12 × 12."""
        side, count = 12, found.crops.shape[:2].numel()
        scale = (2.2 * found.size.flatten() / ((_CROP - 1) / 2)).clamp(0.2, 1)
        step = torch.linspace(-1, 1, side)
        grid = torch.stack(torch.meshgrid(step, step, indexing="xy"), -1) * scale[:, None, None, None]
        crops = found.crops.reshape(count, 1, _CROP, _CROP)
        looks = functional.grid_sample(crops, grid, align_corners=True).flatten(1)
        return functional.normalize(looks, dim=1).reshape(*found.crops.shape[:2], side * side)

    def digits(self, found: Traces) -> Tensor:
        """(V,): the digit that the frames with ink say together; −1 without ink."""
        looks, seen = self._looks(found), found.seen
        sense = found.turn.sign().sum(1)
        upright = torch.zeros_like(seen)  # a digit that spins stands upright first or last
        upright[sense >= 0, 0] = upright[sense < 0, -1] = True
        spins = motions(found) == card.MOTIONS.index("spins")
        seen = torch.where(spins[:, None] & (seen & upright).any(1, keepdim=True), seen & upright, seen)
        answer = torch.full((len(seen),), -1)
        if not seen.any():
            return answer
        votes = torch.zeros(*seen.shape, 10)
        votes[seen] = torch.from_numpy(self._machine.decision_function(looks[seen].numpy())).float()
        return torch.where(seen.any(1), votes.sum(1).argmax(1), answer)

    @staticmethod
    def colours(frames: Tensor) -> Tensor:
        """(V,): the nearest colour to what the ink adds to the ground, by direction; −1 without ink."""
        ink = _ink(frames)
        ground = torch.tensor(GROUND, dtype=torch.float32)
        above = (frames.float() - ground[:, None, None]) * (ink**2)[:, :, None]
        added = above.sum((1, 3, 4))
        known = torch.tensor(card.COLOUR_RGB, dtype=torch.float32) - ground
        nearest = (functional.normalize(added, dim=1) @ functional.normalize(known, dim=1).mT).argmax(1)
        return torch.where((ink.sum((2, 3)) > _EMPTY).any(1), nearest, -1)

    def scored(
        self, frames: Tensor, digit: Tensor, colour: Tensor, motion: Tensor, found: Traces | None = None
    ) -> dict[str, Tensor]:
        """Whether each clip shows what it should, (V,) bool each: "digit", "colour", "motion"; `found` if it is traced."""
        found = found or trace(frames)
        return {
            "digit": self.digits(found) == digit,
            "colour": self.colours(frames) == colour,
            "motion": motions(found) == motion,
        }
