"""How the tiny generator that ships with the book was trained, from nothing, on the dark stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vtrlib.training import Config

__all__ = ["Painted", "Recipe", "pretrain", "scores", "ship"]


@dataclass(frozen=True)
class Recipe:
    """Settings of the training.

    Attributes:
        seed: of weights, order and draws.
        worlds: seeds of the worlds whose training clips it sees. World 0, the book's own, is none of them: its
            training clips are what is retrieved.
        steps, batch, rate: of AdamW, with a warm-up over a twentieth of the steps and a cosine to 0.
        clip: largest norm of the gradient.
        empty: share of clips without a prompt, for guidance; hidden: share whose prompt has no motion.
        average: of the weights, exponential, by step; what ships is the average.
    """

    seed: int = 0
    worlds: tuple[int, ...] = (1, 2, 3, 4)
    steps: int = 8000
    batch: int = 16
    rate: float = 1e-3
    clip: float = 1.0
    empty: float = 0.1
    hidden: float = 0.35
    average: float = 0.998


class Painted:
    """Latents of the dark stage's training clips, with prompts that are drawn: none, without motion, or whole.

    Indexed by several clips at once it gives (latents, states of prompts); draws are torch's global ones.

    Args:
        worlds: seeds.
        empty, hidden: see `Recipe`.
    """

    def __init__(self, worlds: Sequence[int], empty: float, hidden: float) -> None:
        import torch

        from vtrlib.ragme.tiny import PixelCodec, TinyStates
        from vtrlib.world import DarkStage

        stages = [DarkStage("train", seed=world) for world in worlds]
        self.latents = torch.cat([PixelCodec().encode(stage.frames) for stage in stages])
        said = [text for stage in stages for text in self._wordings(stage)]
        texts = sorted(set(said))
        rows = {text: row for row, text in enumerate(texts)}
        self.states = TinyStates()(texts)
        self.said = torch.tensor([rows[text] for text in said]).unflatten(0, (-1, 5))
        self.empty, self.hidden = empty, hidden

    @staticmethod
    def _wordings(stage: Any) -> list[str]:
        """Of each clip: nothing, without motion, and three with it."""
        columns = [stage.prompts(motion=False), *(stage.prompts(wording=wording) for wording in range(3))]
        return [text for row in zip(*columns, strict=True) for text in ("", *row)]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        import torch

        rows, lot = torch.as_tensor(indices), torch.rand(len(indices))
        whole = 2 + torch.randint(3, lot.shape)
        which = torch.where(lot < self.empty, 0, torch.where(lot < self.empty + self.hidden, 1, whole))
        return self.latents[rows], self.states[self.said[rows, which]]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        latents, states = self.__getitems__([index])
        return latents[0], states[0]


def pretrain(
    unet: nn.Module, recipe: Recipe, *, until: int | None = None, folder: Path | None = None
) -> tuple[nn.Module, list[float]]:
    """Train in place; gives the averaged U-Net, and the loss of every step.

    Args:
        unet: as of `tiny_unet`.
        recipe: settings.
        until: stop after so many steps.
        folder: for checkpoints; see `vtrlib.training.fit`.
    """
    import torch
    from torch import nn
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from vtrlib.ragme import diffusion_loss
    from vtrlib.ragme.tiny import dark_scheduler
    from vtrlib.training import Config, fit

    scheduler = dark_scheduler()
    averaged = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(recipe.average)).requires_grad_(False)
    both = nn.ModuleDict({"unet": unet, "averaged": averaged})  # so that a checkpoint holds both

    def adamw(_: nn.Module, config: Config) -> Optimizer:
        made = torch.optim.AdamW(unet.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        made.register_step_post_hook(lambda *_: averaged.update_parameters(unet))
        return made

    def loss(_: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return diffusion_loss(unet, scheduler, *batch, of="clean")

    config = Config(
        steps=recipe.steps, batch_size=recipe.batch, learning_rate=recipe.rate, weight_decay=0.01, schedule="cosine",
        warmup=0.05, clip=recipe.clip, seed=recipe.seed, checkpoint_every=500,
    )  # fmt: skip
    data: Any = Painted(recipe.worlds, recipe.empty, recipe.hidden)
    history = fit(both, data, loss, config, optimiser=adamw, collate=lambda items: items, folder=folder, until=until)
    return averaged.module.requires_grad_(True), history.losses


def ship(folder: Path, recipe: Recipe, kept: Path | None = None) -> dict[str, Any]:
    """Train by the recipe, with checkpoints in `kept`, and write what comes of it, with scores."""
    from vtrlib.ragme.tiny import load_generator, tiny_unet

    facts = write(folder, recipe, *pretrain(tiny_unet(recipe.seed), recipe, folder=kept))
    facts["scores"] = scores(load_generator(folder))
    (folder / "recipe.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return facts


def scores(unet: Any, prompts: int = 96) -> dict[str, dict[str, float]]:
    """Per cent of clips for captions of the validation split that show the motion, digit and colour.

    "real": of the clips that the captions are of; "told" and "not told" the motion: of generated ones.
    """
    from vtrlib.ragme import Config, RagMe
    from vtrlib.studies.ragme import SIZES, asked, bank, generate, judged

    known, model = bank(), RagMe(unet, Config(**SIZES)).eval()
    wanted, noise = asked(known, 0, prompts, "val")
    made = {"real": known.codec.encode(wanted.frames)} | {
        name: generate(known, model, wanted.prompts(motion=told), noise)
        for name, told in (("told", True), ("not told", False))
    }
    numbers = {name: judged(known, latents, wanted) for name, latents in made.items()}
    return {name: {key: round(one[key], 2) for key in ("motion", "digit", "colour")} for name, one in numbers.items()}


def write(folder: Path, recipe: Recipe, made: Any, losses: Sequence[float], every: int = 50) -> dict[str, Any]:
    """Write a U-Net in half precision, with recipe, hash and loss curve."""
    import torch

    made.to(torch.float16).save_pretrained(folder)
    means = [sum(losses[k : k + every]) / len(losses[k : k + every]) for k in range(0, len(losses), every)]
    weights = folder / "diffusion_pytorch_model.safetensors"
    facts = {
        "recipe": asdict(recipe),
        "sha256": sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(weight.numel() for weight in made.parameters()),
        "curve": [round(loss, 5) for loss in means],
    }
    (folder / "recipe.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return facts
