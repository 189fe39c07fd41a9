"""Small PIG models and batches for the tests: sizes that all differ, the fixture, an oracle in loops."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtrlib.pig import PIG, Batch, Config
from vtrlib.released import from_state_dict

GOLDEN = Path(__file__).parent / "golden"
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
BOS, END = 27, 28
# Frames of 2 × 2 patches; text width, vision width and joint width all differ, and so do the heads.
SIZES: dict[str, Any] = {
    "vision_config": {
        "image_size": 8, "patch_size": 4, "hidden_size": 18, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 3,
    },
    "text_config": {
        "vocab_size": 31, "max_position_embeddings": 17, "hidden_size": 10, "intermediate_size": 14,
        "num_hidden_layers": 3, "num_attention_heads": 2, "bos_token_id": BOS, "eos_token_id": END, "pad_token_id": 0,
    },
    "projection_dim": 8,
}  # fmt: skip


def small(reading: Any = "released", seed: int = 0, dtype: torch.dtype = torch.float64, **settings: Any) -> PIG:
    """A model in evaluation mode, all of its weights moved, so that everything shows in the output.

    A weight depends on its name alone: models of different settings share those that they share.
    """
    sizes = {"clip": SIZES, "frames": 5, "top": 3, "fusioner_heads": 2, "proxies": 3, "reading": reading}
    model = PIG(Config(**{**sizes, **settings})).to(dtype)
    move(model, seed)
    return model.eval()


def move(model: torch.nn.Module, seed: int = 0) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype)
            if name.endswith("logit_scale"):
                weight.fill_(2.0)
            elif weight.ndim == 1 and name.endswith("weight"):  # of a norm
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(0.4 * noise)


def features(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def texts(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Token ids and masks (B, L): texts of 3 … L tokens, the first full, padded with the end token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 27, (rows, length), generator=generator)
    lengths = torch.randint(3, length + 1, (rows,), generator=generator)
    lengths[0] = length
    mask = torch.arange(length) < lengths[:, None]
    ids[:, 0] = BOS
    ids[torch.arange(rows), lengths - 1] = END
    return ids.masked_fill(~mask, END), mask


def batch(videos: int = 3, frames: int = 5, dtype: torch.dtype = torch.float64, seed: int = 1) -> Batch:
    """Videos with captions of up to 7 tokens, and others in the place of pseudo-queries of up to 9."""
    size = SIZES["vision_config"]["image_size"]
    ids, mask = texts(videos, 7, seed)
    caption_ids, caption_mask = texts(videos, 9, seed + 7)
    return Batch(
        video=features(videos, frames, 3, size, size, seed=seed + 2, dtype=dtype), text_input_ids=ids,
        text_input_mask=mask.long(), caption_input_ids=caption_ids, caption_input_mask=caption_mask.long(),
    )  # fmt: skip


def golden() -> dict[str, Any]:
    found: dict[str, Any] = torch.load(GOLDEN / "pig.pt", weights_only=True)
    return found


def golden_model(found: dict[str, Any]) -> PIG:
    model = from_state_dict("pig", found["state_dict"], found["config"])
    assert isinstance(model, PIG)
    return model


# --- the oracle: loops over videos, frames, patches, heads and tokens, as the equations stand ---


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(s - max(scores)) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


class Naive:
    """A model's features and losses once more, one vector at a time; knows the model by its weights alone."""

    def __init__(self, model: PIG) -> None:
        self.w = {name.removeprefix("clip."): tensor.detach() for name, tensor in model.named_parameters()}
        self.config, self.reading = model.config, model.config.reading

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = self.w[f"{name}.weight"] @ x
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, name: str, heads: int, token: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One token that looks at some, given as keys and values."""
        q, parts, width = self.linear(f"{name}.q_proj", token), [], len(token) // heads
        ks, vs = (torch.stack(one) for one in zip(*seen, strict=True))
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            weights = softmax([s / math.sqrt(width) for s in (ks[:, own] @ q[own]).tolist()])
            parts.append(torch.tensor(weights, dtype=q.dtype) @ vs[:, own])
        return self.linear(f"{name}.out_proj", torch.cat(parts))

    def keys(self, name: str, x: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(self.linear(f"{name}.k_proj", token), self.linear(f"{name}.v_proj", token)) for token in x]

    def layer(self, name: str, heads: int, x: list[Tensor], sees: list[list[int]]) -> list[Tensor]:
        normed = [self.norm(f"{name}.layer_norm1", token) for token in x]
        shown, out = self.keys(f"{name}.self_attn", normed), []
        for place, token in enumerate(x):
            seen = [shown[other] for other in sees[place]]
            token = token + self.attention(f"{name}.self_attn", heads, normed[place], seen)
            inner = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.layer_norm2", token))
            out.append(token + self.linear(f"{name}.mlp.fc2", inner / (1 + (-1.702 * inner).exp())))
        return out

    # --- the vision tower ---

    def temporal(self, frames: int) -> list[Tensor]:
        """Embedding of each frame's time, interpolated as pictures are: centres of equal cells, ends held."""
        table = self.w["vision_model.embeddings.temporal_embedding"][0]
        found = []
        for frame in range(frames):
            place = min(max((frame + 0.5) * len(table) / frames - 0.5, 0.0), len(table) - 1.0)
            low = int(place)
            high, share = min(low + 1, len(table) - 1), place - low
            found.append((1 - share) * table[low] + share * table[high])
        return found

    def tokens(self, video: Tensor) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Embedded tokens, and each one's frame and place in it: (−1, ·) for proxies, (·, −1) for a frame's [cls]."""
        patch, base = self.config.sizes.vision_config.patch_size, "vision_model.embeddings."
        filters, positions = self.w[f"{base}patch_embedding.weight"], self.w[f"{base}position_embedding.weight"]
        first = self.w[f"{base}class_embedding"]
        x, at = [], []
        times = [torch.zeros_like(first)] * len(video)
        own = first
        if self.config.backbone == "clip_vip":
            x += [token + positions[0] for token in [first, *self.w[f"{base}added_cls"]]]
            at += [(-1, number) for number in range(len(x))]
            times = self.temporal(len(video))
            own = self.w[f"{base}cls_in_frames"] if self.config.frame_cls else first
        for number, (frame, time) in enumerate(zip(video, times, strict=True)):
            if self.config.frame_cls:
                x.append(own + time + positions[0])
                at.append((number, -1))
            place = 0
            for top in range(0, frame.shape[1], patch):
                for left in range(0, frame.shape[2], patch):
                    content = (filters * frame[:, top : top + patch, left : left + patch]).sum((1, 2, 3))
                    x.append(content + time + positions[1 + place])
                    at.append((number, place))
                    place += 1
        return [self.norm("vision_model.pre_layrnorm", token) for token in x], at

    def sees(self, at: list[tuple[int, int]]) -> list[list[int]]:
        """Proxies see everything; a frame's tokens see the proxies and their own frame."""
        return [[k for k, (g, _) in enumerate(at) if f == -1 or g in (-1, f)] for f, _ in at]

    def scores(self, x: list[Tensor], at: list[tuple[int, int]], projected: list[Tensor]) -> list[list[float]]:
        """S (F, N) of Eq. 6, x being what goes into the last layer."""
        vision = self.config.sizes.vision_config
        name, heads = f"vision_model.encoder.layers.{vision.num_hidden_layers - 1}", vision.num_attention_heads
        h = [self.norm(f"{name}.layer_norm1", token) for token in x]
        if self.reading.scored == "projected":
            h = projected
        width, joint = vision.hidden_size // heads, self.config.sizes.projection_dim
        shown = [self.linear(f"{name}.self_attn.k_proj", token) for token in h]
        frames, patches = max(f for f, _ in at) + 1, max(p for _, p in at) + 1
        divisor = math.sqrt(width) if self.reading.scale == "head" else math.sqrt(joint / patches)
        found = [[[0.0] * patches for _ in range(frames)] for _ in range(heads)]
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)

            def attend(query: int, keys: list[int], own: slice = own, head: int = head) -> None:
                q = self.linear(f"{name}.self_attn.q_proj", h[query])[own]
                logits = [float(q @ shown[k][own]) / divisor for k in keys]
                for k, weight in zip(keys, softmax(logits), strict=True):
                    frame, patch = at[k]
                    if frame >= 0 and patch >= 0:
                        found[head][frame][patch] = weight

            def meant(k: int) -> bool:
                return self.reading.softmax == "keys" or (at[k][0] >= 0 and at[k][1] >= 0)

            if at[0][0] == -1:
                attend(0, [k for k in range(len(at)) if meant(k)])
            else:
                for query, (frame, patch) in enumerate(at):
                    if patch == -1:
                        attend(query, [k for k in range(len(at)) if at[k][0] == frame and meant(k)])
        pool = max if self.config.score_heads == "max" else lambda xs: sum(xs) / heads
        return [[pool([found[h][f][p] for h in range(heads)]) for p in range(patches)] for f in range(frames)]

    def video(self, video: Tensor) -> dict[str, Any]:
        vision = self.config.sizes.vision_config
        x, at = self.tokens(video)
        sees, before = self.sees(at), x
        for number in range(vision.num_hidden_layers):
            before = x
            x = self.layer(f"vision_model.encoder.layers.{number}", vision.num_attention_heads, x, sees)
        last = [self.norm("vision_model.post_layernorm", token) for token in x]
        projected = [self.w["visual_projection.weight"] @ token for token in last]
        found: dict[str, Any] = {"last": x, "projected": projected}
        found["x_v"] = [projected[k] for k, (f, _) in enumerate(at) if f == -1]
        found["x_f"] = [projected[k] for k, (f, p) in enumerate(at) if f >= 0 and p == -1]
        if self.config.backbone == "clip4clip":
            found["x_v"] = [sum(found["x_f"]) / len(found["x_f"])]
        found["x_p"] = {at[k]: projected[k] for k in range(len(at)) if min(at[k]) >= 0}
        found["S"] = scores = self.scores(before, at, projected)
        patches = len(scores[0])
        order = sorted(((-s, f * patches + p) for f, row in enumerate(scores) for p, s in enumerate(row)))
        uses = "x_ip" in self.config.inputs.split("+") and self.config.pseudo_query in ("causal", "mlp", "qformer")
        found["selected"] = [flat for _, flat in order[: self.config.top if uses else 0]]
        found["x_ip"] = [found["x_p"][divmod(flat, patches)] for flat in found["selected"]]
        return found

    # --- text, generator, fusioner ---

    def text(self, ids: Tensor) -> Tensor:
        text = self.config.sizes.text_config
        table = self.w["text_model.embeddings.token_embedding.weight"]
        positions = self.w["text_model.embeddings.position_embedding.weight"]
        x = [table[token] + positions[place] for place, token in enumerate(ids.tolist())]
        sees = [list(range(place + 1)) for place in range(len(x))]
        for number in range(text.num_hidden_layers):
            x = self.layer(f"text_model.encoder.layers.{number}", text.num_attention_heads, x, sees)
        pooled = self.norm("text_model.final_layer_norm", x[ids.tolist().index(END)])
        return self.w["text_projection.weight"] @ pooled

    def generate(self, found: dict[str, Any]) -> Tensor:
        text = self.config.sizes.text_config
        tokens = [token for name in self.config.inputs.split("+") for token in found[name]]
        if self.config.pseudo_query == "mlp":
            hidden = [self.linear("generator.up", token) for token in tokens]
            hidden = [0.5 * token * (1 + torch.erf(token / math.sqrt(2))) for token in hidden]
            return sum(self.linear("generator.down", token) for token in hidden) / len(hidden)  # type: ignore[return-value]
        x = [self.linear("generator.mapper", token) for token in tokens]
        x = [self.w["generator.bos"]] * (self.reading.bos == "on") + x + [self.w["generator.eos"]]
        x = [token + self.w["generator.positions"][place] for place, token in enumerate(x)]
        sees = [list(range(place + 1)) for place in range(len(x))]
        for number in range(text.num_hidden_layers):
            x = self.layer(f"generator.layers.{number}", text.num_attention_heads, x, sees)
        return self.w["generator.projection.weight"] @ self.norm("generator.norm", x[-1])

    def pool(self, query: Tensor, tokens: list[Tensor]) -> Tensor:
        """Eq. 7."""
        if self.reading.pre_norm == "shared":
            query, tokens = (self.norm("fusioner.norm_in", query), [self.norm("fusioner.norm_in", x) for x in tokens])
        heads = self.config.fusioner_heads
        inner = self.norm("fusioner.norm_attention", self.attention("fusioner", heads, query, self.keys("fusioner", tokens)))
        return self.norm("fusioner.norm_out", inner + self.linear("fusioner.fc", inner))

    def loss(self, videos: list[dict[str, Any]], single: list[Tensor]) -> dict[str, float]:
        """From what `video` and `text` gave."""
        queries = [self.generate(found) for found in videos]
        vs = [self.pool(q, found["x_v"] + found["x_f"]) for q, found in zip(queries, videos, strict=True)]
        s = math.exp(float(self.w["logit_scale"]))
        sim = [[s * cos(t, v) for v in vs] for t in single]
        columns = [list(column) for column in zip(*sim, strict=True)]
        each = [
            sum(-math.log(softmax(row)[i]) for i, row in enumerate(rows)) / len(rows) for rows in (sim, columns)
        ]
        contrastive = sum(each) / (2 if self.reading.contrastive == "mean" else 1)
        far = sum(1 - cos(q, t) for q, t in zip(queries, single, strict=True)) / len(single)
        far *= 2 if self.reading.reconstruction == "double" else 1
        alpha = self.config.alpha
        if alpha is None:
            alpha = 1.0 if self.reading.reconstruction == "double" else 2.0
        return {"total": contrastive + alpha * far, "contrastive": contrastive, "reconstruction": far}
