"""Small DiscoVLA models and batches for the tests: sizes that all differ, the fixture, an oracle in loops."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtrlib.discovla import Batch, Config, DiscoVLA
from vtrlib.released import from_state_dict

GOLDEN = Path(__file__).parent / "golden"
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
END, PAD = 28, 0
SIZES: dict[str, Any] = {
    "vision_config": {
        "image_size": 12, "patch_size": 4, "hidden_size": 18, "intermediate_size": 20, "num_hidden_layers": 3,
        "num_attention_heads": 3,
    },
    "text_config": {
        "vocab_size": 31, "max_position_embeddings": 9, "hidden_size": 10, "intermediate_size": 14,
        "num_hidden_layers": 4, "num_attention_heads": 2, "bos_token_id": 27, "eos_token_id": END, "pad_token_id": PAD,
    },
    "projection_dim": 7,
}  # fmt: skip


def small(reading: Any = "released", seed: int = 0, dtype: torch.dtype = torch.float64, **settings: Any) -> DiscoVLA:
    """A model in evaluation mode, all of its weights moved, so that everything shows in the output.

    A weight depends on its name alone: models of different settings share those that they share.
    """
    sizes = {"clip": SIZES, "vision_fusion": 2, "text_fusion": 1, "rank": 2, "adapter_rank": 3}
    model = DiscoVLA(Config(**{**sizes, **settings}, reading=reading)).to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(dtype)
            if name.endswith("logit_scale"):
                weight.fill_(2.0)
            elif weight.ndim == 1 and name.endswith("weight"):  # of a norm
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(0.3 * noise)
    return model.eval()


def features(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def texts(*rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Token ids and masks (..., L): texts of 3 … L tokens, the first full."""
    generator = torch.Generator().manual_seed(seed)
    number = math.prod(rows)
    ids = torch.randint(1, 27, (number, length), generator=generator)
    lengths = torch.randint(3, length + 1, (number,), generator=generator)
    lengths[0] = length
    mask = torch.arange(length) < lengths[:, None]
    ids[:, 0] = 27
    ids[torch.arange(number), lengths - 1] = END
    ids = ids.masked_fill(~mask, PAD)
    return ids.reshape(*rows, length), mask.reshape(*rows, length)


def batch(videos: int = 3, frames: int = 5, dtype: torch.dtype = torch.float64, seed: int = 1) -> Batch:
    """Videos of different lengths, with captions of up to 6 tokens and pseudo captions of up to 8."""
    size = SIZES["vision_config"]["image_size"]
    ids, mask = texts(videos, length=6, seed=seed)
    f_ids, f_mask = texts(videos, frames, length=8, seed=seed + 1)
    shown = torch.arange(frames) < torch.tensor([max(1, frames - 2 * v) for v in range(videos)])[:, None]
    return Batch(
        text_ids=ids, text_mask=mask, f_text_ids=f_ids, f_text_mask=f_mask,
        video=features(videos, frames, 3, size, size, seed=seed + 2, dtype=dtype), video_mask=shown.long(),
    )  # fmt: skip


def golden() -> dict[str, Any]:
    found: dict[str, Any] = torch.load(GOLDEN / "discovla.pt", weights_only=True)
    return found


def golden_model(found: dict[str, Any], dtype: torch.dtype = torch.float32, **config: Any) -> DiscoVLA:
    """The fixture's weights; where `config` leaves layers without adapters, those are left out."""
    settings = {**found["config"], **config}
    state = {name: tensor.to(dtype) for name, tensor in found["state_dict"].items()}
    for tower, prefix, key in (("vision", "clip.visual.", "H_V"), ("text", "clip.", "H_L")):
        for number in range(settings[f"{tower}_layers"] - settings[key]):
            layer = f"{prefix}transformer.resblocks.{number}.attn."
            state = {k: v for k, v in state.items() if not k.startswith((f"{layer}TVPt_down", f"{layer}TVPt_up"))}
    if not settings["r"]:
        state = {k: v for k, v in state.items() if "TVPt" not in k}
    model = from_state_dict("discovla", state, settings)
    assert isinstance(model, DiscoVLA)
    return model


# --- the oracle: loops over texts, frames, tokens and heads, as the equations stand ---


class Naive:
    """A model's features and losses once more, one vector at a time; knows the model by its weights alone."""

    def __init__(self, model: DiscoVLA) -> None:
        self.w = {name.removeprefix("clip."): tensor.detach() for name, tensor in model.named_parameters()}
        self.config, self.reading = model.config, model.config.reading

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def project(self, layer: str, one: int, x: Tensor) -> Tensor:
        """Query (0), key (1) or value (2) of a token, with shared-A LoRA."""
        name = f"{layer}.self_attn.{'qkv'[one]}_proj"
        out = self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]
        if self.config.rank:
            up = self.w[f"{layer}.self_attn.lora.up"]
            part = up[one * len(x) : (one + 1) * len(x)]
            out = out + self.config.lora_scale * part @ (self.w[f"{layer}.self_attn.lora.down"] @ x)
        return out

    def attention(self, layer: str, heads: int, token: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One token that looks at some, given as keys and values."""
        q, parts, width = self.project(layer, 0, token), [], len(token) // heads
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = torch.stack([q[own] @ k[own] / math.sqrt(width) for k, _ in seen])
            exponentials = (scores - scores.max()).exp()
            parts.append(sum(e * v[own] for e, (_, v) in zip(exponentials, seen, strict=True)) / exponentials.sum())
        name = f"{layer}.self_attn.out_proj"
        return self.w[f"{name}.weight"] @ torch.cat(parts) + self.w[f"{name}.bias"]

    def adapter(self, layer: str, x: Tensor) -> Tensor:
        def part(one: str, x: Tensor) -> Tensor:
            name = f"{layer}.self_attn.adapter.{one}"
            bias = self.w[f"{name}.bias"] if self.reading.adapter_bias == "both" else 0
            return self.w[f"{name}.weight"] @ x + bias

        hidden = part("down", x)
        if self.reading.activation == "quick_gelu":
            hidden = hidden / (1 + (-1.702 * hidden).exp())
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return part("up", hidden)

    def layer(
        self, layer: str, heads: int, rows: list[list[Tensor]], sees: list[list[list[int]]], kind: str,
        summaries: list[int], keys: list[list[int]],
    ) -> list[list[Tensor]]:  # fmt: skip
        """A layer over the rows (frames or captions) of one video.

        `sees[row][token]` are the tokens of its row that a token sees, `keys[row]` those that other rows may see.
        """
        normed = [[self.norm(f"{layer}.layer_norm1", x) for x in row] for row in rows]
        projected = [[(self.project(layer, 1, x), self.project(layer, 2, x)) for x in row] for row in normed]
        shared = [projected[r][t] for r in range(len(rows)) for t in keys[r]]
        out = []
        for r, row in enumerate(rows):
            new = []
            for t, x in enumerate(row):
                own = [projected[r][s] for s in sees[r][t]]
                if kind == "video":
                    mixed = self.attention(layer, heads, normed[r][t], shared)
                else:
                    mixed = self.attention(layer, heads, normed[r][t], own)
                if kind in ("fusion", "average") and t == summaries[r]:
                    across = self.attention(layer, heads, normed[r][t], shared)
                    mixed = across + self.adapter(layer, mixed) if kind == "fusion" else (mixed + across) / 2
                x = x + mixed
                inner = self.w[f"{layer}.mlp.fc1.weight"] @ self.norm(f"{layer}.layer_norm2", x)
                inner = inner + self.w[f"{layer}.mlp.fc1.bias"]
                inner = inner / (1 + (-1.702 * inner).exp())
                new.append(x + self.w[f"{layer}.mlp.fc2.weight"] @ inner + self.w[f"{layer}.mlp.fc2.bias"])
            out.append(new)
        return out

    def tower(self, name: str, rows: list[list[Tensor]], sees: Any, summaries: list[int], keys: Any, top: bool) -> Any:
        sizes = self.config.sizes.vision_config if name == "vision" else self.config.sizes.text_config
        fused = self.config.vision_fusion if name == "vision" else self.config.text_fusion
        for number in range(sizes.num_hidden_layers):
            kind = self.config.attention if top and number >= sizes.num_hidden_layers - fused else "image"
            layer = f"{name}_model.encoder.layers.{number}"
            rows = self.layer(layer, sizes.num_attention_heads, rows, sees, kind, summaries, keys)
        return [row[t] for row, t in zip(rows, summaries, strict=True)]

    def frames(self, video: Tensor, mask: Tensor) -> Tensor:
        """(F, 3, H, W) to (F, D), un-normalised."""
        patch = self.config.sizes.vision_config.patch_size
        filters = self.w["vision_model.embeddings.patch_embedding.weight"]
        rows = []
        for frame in video:
            tokens = [self.w["vision_model.embeddings.class_embedding"]]
            for y in range(0, frame.shape[1], patch):
                for x in range(0, frame.shape[2], patch):
                    tokens.append((filters * frame[:, y : y + patch, x : x + patch]).sum((1, 2, 3)))
            positions = self.w["vision_model.embeddings.position_embedding.weight"]
            rows.append([self.norm("vision_model.pre_layrnorm", t + positions[i]) for i, t in enumerate(tokens)])
        number = len(rows[0])
        everywhere = [[list(range(number))] * number] * len(rows)
        hidden = self.reading.padding == "hidden"
        keys = [list(range(number)) if m or not hidden else [] for m in mask.tolist()]
        found = self.tower("vision", rows, everywhere, [0] * len(rows), keys, True)
        found = [self.norm("vision_model.post_layernorm", x) for x in found]
        return torch.stack([self.w["visual_projection.weight"] @ x for x in found])

    def captions(self, ids: Tensor, mask: Tensor, shown: list[bool], top: bool) -> Tensor:
        """(F, L) to (F, D): the pseudo captions of a video, or captions that do not see each other."""
        table = self.w["text_model.embeddings.token_embedding.weight"]
        positions = self.w["text_model.embeddings.position_embedding.weight"]
        there = [[t for t, m in enumerate(row) if m] for row in mask.tolist()]
        # Tokens of padding see what they see in CLIP; nobody looks at them.
        rows = [[table[token] + positions[t] for t, token in enumerate(row)] for row in ids.tolist()]
        sees = [[[s for s in there[r] if s <= t] for t in range(len(row))] for r, row in enumerate(rows)]
        ends = [row.index(END) for row in ids.tolist()]
        keys = [here if ok else [] for here, ok in zip(there, shown, strict=True)]
        found = self.tower("text", rows, sees, ends, keys, top)
        found = [self.norm("text_model.final_layer_norm", x) for x in found]
        return torch.stack([self.w["text_projection.weight"] @ x for x in found])

    def loss(self, data: Batch) -> dict[str, float]:
        mask = data["video_mask"] > 0
        s = math.exp(float(self.w["logit_scale"]))
        visual = [self.frames(v, m) for v, m in zip(data["video"], mask, strict=True)]
        hidden = self.reading.padding == "hidden"
        shown = mask if hidden else torch.ones_like(mask)
        pseudo = [
            self.captions(i, m, k.tolist(), True)
            for i, m, k in zip(data["f_text_ids"], data["f_text_mask"], shown, strict=True)
        ]
        single = [
            self.captions(i[None], m[None], [True], False)[0]
            for i, m in zip(data["text_ids"], data["text_mask"], strict=True)
        ]
        means = [
            sum(f / f.norm() for f, there in zip(v, m.tolist(), strict=True) if there)
            for v, m in zip(visual, mask, strict=True)
        ]
        sim = [[float(t @ v / t.norm() / v.norm()) for v in means] for t in single]
        image = [
            [self.image(t, v, shown[i].tolist(), shown[j].tolist(), s) for j, v in enumerate(visual)]
            for i, t in enumerate(pseudo)
        ]
        found = {"video": contrast(sim, s), "image": contrast(image, s), "distill": self.divergence(image, sim, s)}
        total = found["video"] + self.config.alpha * found["image"] + self.config.beta * found["distill"]
        return {"total": total, **found}

    def image(self, t: Tensor, v: Tensor, has: list[bool], shows: list[bool], s: float) -> float:
        t, v = (torch.stack([x / x.norm() for x in one]) for one in (t, v))
        texts, frames = [n for n, k in enumerate(has) if k], [m for m, k in enumerate(shows) if k]
        if self.config.similarity == "paired":
            both = [n for n in texts if n in frames]
            return sum(float(t[n] @ v[n]) for n in both) / len(both)
        if self.config.similarity == "video":
            a, b = sum(t[n] for n in texts), sum(v[m] for m in frames)
            return float(a @ b / a.norm() / b.norm())  # type: ignore[union-attr,operator]
        rows = [max(float(t[n] @ v[m]) for m in frames) for n in texts]
        columns = [max(float(t[n] @ v[m]) for n in texts) for m in frames]
        return (self.aggregate(rows, s) + self.aggregate(columns, s)) / 2

    def aggregate(self, maxima: list[float], s: float) -> float:
        weights = [math.exp(s * m) if self.reading.aggregation == "softmax" else 1.0 for m in maxima]
        return sum(w * m for w, m in zip(weights, maxima, strict=True)) / sum(weights)

    def divergence(self, teacher: list[list[float]], student: list[list[float]], s: float) -> float:
        total, number = 0.0, len(teacher)
        for turn in (list, lambda rows: [list(column) for column in zip(*rows, strict=True)]):
            for p_row, q_row in zip(turn(teacher), turn(student), strict=True):
                p, q = distribution(p_row, s), distribution(q_row, s)
                total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        return total / 2 * (100 / number**2 if self.reading.kl == "numel100" else 1 / number)


def distribution(row: list[float], s: float) -> list[float]:
    exponentials = [math.exp(s * x) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def contrast(scores: list[list[float]], s: float) -> float:
    """Eq. 2-4, with the minus sign."""
    columns = [list(column) for column in zip(*scores, strict=True)]
    terms = [-math.log(distribution(row, s)[i]) for rows in (scores, columns) for i, row in enumerate(rows)]
    return sum(terms) / len(terms)
