"""The pseudo-query generator: visual tokens of a video to a text feature (Sec. 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from vtrlib.clip.inputs import end_token, start_token
from vtrlib.clip.lora import LoRAAttention, wrap_attention

__all__ = ["CausalGenerator", "MLPGenerator", "QFormerGenerator", "drawn"]


class CausalGenerator(nn.Module):
    r"""CLIP's text transformer over visual tokens, read at [eos].

    $$ t_p = W\, \mathrm{LN}(\mathrm{Transformer}(
       [\text{bos}], A x_v, A x_f, A x_{ip}, [\text{eos}]))_{\text{eos}} $$

    Its layers, positions, last norm and projection W are copies of a text tower's, not
    shared with it; [bos] and [eos] start as its token embeddings, and do not pass A.

    Args:
        config: of the text tower.
        dimension: D of the tokens and of t_p.
        bos: whether the sequence starts with [bos]; without it the vector stands unused
            and is not trained.
    """

    def __init__(self, config: CLIPTextConfig, dimension: int, bos: bool) -> None:
        super().__init__()
        text: Any = CLIPTextModel(config)
        width, self._bos = config.hidden_size, bos
        self.mapper = nn.Linear(dimension, width)
        self.bos, self.eos = (nn.Parameter(0.02 * torch.randn(width)) for _ in range(2))
        self.positions = nn.Parameter(text.embeddings.position_embedding.weight.detach())
        self.layers: nn.ModuleList = text.encoder.layers
        self.norm: nn.LayerNorm = text.final_layer_norm
        self.projection = nn.Linear(width, dimension, bias=False)
        wrap_attention(self.layers, lambda _, one: LoRAAttention(one))

    @torch.no_grad()
    def start(self, clip: CLIPModel, generator: Generator | None = None) -> None:
        """Copy a CLIP model's text tower, and draw the mapper A anew."""
        text, config = clip.text_model, clip.config
        self.layers.load_state_dict(text.encoder.layers.state_dict())
        self.norm.load_state_dict(text.final_layer_norm.state_dict())
        self.positions.copy_(text.embeddings.position_embedding.weight)
        self.projection.weight.copy_(clip.text_projection.weight)
        table = text.embeddings.token_embedding.weight
        self.bos.copy_(table[start_token(config)])
        self.eos.copy_(table[end_token(config)])
        drawn(self.mapper, generator)

    def train_parts(self) -> None:
        """Let gradients reach all of it but a [bos] that is not used."""
        self.requires_grad_(True)
        self.bos.requires_grad_(self._bos)

    def forward(self, tokens: Tensor, every: bool = False) -> Tensor:
        """Tokens (B, S, D) to t_p (B, D), not normalised.

        Args:
            tokens: visual tokens, coarse to fine.
            every: project all positions before one is read, as released.
        """
        x = self.mapper(tokens)
        ends = [one.expand(len(x), 1, -1).to(x.dtype) for one in (self.bos, self.eos)]
        x = torch.cat([*ends[: self._bos], x, ends[1]], 1)
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, None, is_causal=True)
        x = self.norm(x if every else x[:, -1:])
        features: Tensor = self.projection(x)[:, -1]
        return features


class MLPGenerator(nn.Module):
    r"""Setup 5 of Tab. 2: $t_p$ is the mean over tokens of $W_2\, \mathrm{GELU}(W_1 x)$.

    The paper gives no more than the name, the released code nothing; the hidden width
    is that of the text tower's MLPs.

    Args:
        config: of the text tower.
        dimension: D.
    """

    def __init__(self, config: CLIPTextConfig, dimension: int) -> None:
        super().__init__()
        self.up = nn.Linear(dimension, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, dimension)

    def start(self, _: CLIPModel, generator: Generator | None = None) -> None:
        """Draw the weights anew."""
        for linear in (self.up, self.down):
            drawn(linear, generator)

    def train_parts(self) -> None:
        """Let gradients reach all of it."""
        self.requires_grad_(True)

    def forward(self, tokens: Tensor, every: bool = False) -> Tensor:
        """Tokens (B, S, D) to t_p (B, D), not normalised."""
        features: Tensor = self.down(F.gelu(self.up(tokens))).mean(1)
        return features


class QFormerGenerator(nn.Module):
    r"""Setup 6 of Tab. 2: learned queries look at the tokens, BERT's layers with
    cross-attention in each (BLIP-2; DETR); $t_p$ is a linear map of their mean.

    As many layers and heads as the text tower, of its width; no dropout, as in CLIP.
    Nothing in it is pretrained, where the released code names a BERT.

    Args:
        config: of the text tower.
        dimension: D.
        queries: how many; the released code has one.
    """

    def __init__(self, config: CLIPTextConfig, dimension: int, queries: int = 1) -> None:
        super().__init__()
        width = config.hidden_size
        self.queries = nn.Parameter(0.02 * torch.randn(queries, width))
        self.mapper = nn.Linear(dimension, width)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, config.num_attention_heads, config.intermediate_size, 0.0, "gelu",
                batch_first=True,
            )
            for _ in range(config.num_hidden_layers)
        )  # fmt: skip
        self.projection = nn.Linear(width, dimension)

    @torch.no_grad()
    def start(self, _: CLIPModel, generator: Generator | None = None) -> None:
        """Draw the weights anew, as BERT's: N(0, 0.02), biases 0, norms 1."""
        for weight in self.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.02, generator=generator)
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                weight.fill_(float(".norm" in name and name.endswith("weight")))

    def train_parts(self) -> None:
        """Let gradients reach all of it."""
        self.requires_grad_(True)

    def forward(self, tokens: Tensor, every: bool = False) -> Tensor:
        """Tokens (B, S, D) to t_p (B, D), not normalised."""
        tokens = self.mapper(tokens)
        x = self.queries.expand(len(tokens), -1, -1).to(tokens.dtype)
        for layer in self.layers:
            x = layer(x, tokens)
        features: Tensor = self.projection(x.mean(1))
        return features


@torch.no_grad()
def drawn(linear: nn.Linear, generator: Generator | None = None) -> nn.Linear:
    """A linear layer with weights and biases drawn as torch draws them, from
    $U(\\pm 1/\\sqrt{\\text{inputs}})$."""
    bound = linear.in_features**-0.5
    for weight in linear.parameters():
        weight.uniform_(-bound, bound, generator=generator)
    return linear
