"""The pseudo-interaction fusioner: a query and the tokens of a video to its feature
(Sec. 3.5). Each is asked with a video's own pseudo-query, or with every query."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vtrlib import check
from vtrlib.clip.lora import attend
from vtrlib.similarity import unit

__all__ = ["CoAttention", "CrossAttention", "Fusioner", "XPool"]


class Fusioner(nn.Module):
    """What the fusioners share: one query a video, or all pairs."""

    def pool(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Queries (V, Q, D), each by itself, and tokens (V, S, D), to (V, Q, D)."""
        raise NotImplementedError

    def start(self, generator: Generator | None = None) -> None:
        """Give the weights the values that training starts from."""
        raise NotImplementedError

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """A query (V, D) for each video, and tokens (V, S, D), to v (V, D): what the
        released code takes off the diagonal of all pairs."""
        return self.pool(query[:, None], tokens)[:, 0]

    def all_pairs(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Every query (Q, D) with every video (V, S, D), to (V, Q, D): the single tower,
        whose cost grows with both."""
        check.sizes("tokens", tokens, "V S D", check.sizes("queries", queries, "Q D"))
        return self.pool(queries.expand(len(tokens), -1, -1), tokens)

    def score(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """The cosine of every query (Q, D) and every video (V, S, D) as it sees it:
        (Q, V)."""
        seen = self.all_pairs(queries, tokens)
        return torch.einsum("qd,vqd->qv", unit(queries), unit(seen))


class XPool(Fusioner):
    r"""X-Pool's attention (Eq. 7): one look of the query at the tokens, which never
    enters the result itself.

    $$ v' = \mathrm{LN}(\mathrm{Attention}(t_p, [x_v, x_f])), \quad
       v = \mathrm{LN}(\mathrm{FC}(v') + v') $$

    Weights start as identity matrices without biases, as X-Pool's and PIG's.

    Args:
        dimension: D.
        heads: h, divides D.
        dropout: of FC's output, in training.
        pre_norm: one norm for queries and tokens before the projections, as X-Pool's
            code has it.
        temperature: divides the attention's logits.
    """

    def __init__(
        self, dimension: int, heads: int = 1, dropout: float = 0.1, pre_norm: bool = True,
        temperature: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.dropout, self.temperature = heads, dropout, temperature
        self.norm_in = nn.LayerNorm(dimension) if pre_norm else nn.Identity()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj, self.fc = (
            nn.Linear(dimension, dimension) for _ in range(5)
        )
        self.norm_attention, self.norm_out = (nn.LayerNorm(dimension) for _ in range(2))
        self.start()

    def start(self, generator: Generator | None = None) -> None:
        """Identity matrices; nothing is drawn."""
        _eyes(self)

    def pool(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Queries (V, Q, D) and tokens (V, S, D) to (V, Q, D)."""
        query, tokens = self._read(query, tokens)
        mixed = attend(query, self.k_proj(tokens), self.v_proj(tokens), self.heads)
        inner = self.norm_attention(self.out_proj(mixed))
        added = F.dropout(self.fc(inner), self.dropout, self.training)
        found: Tensor = self.norm_out(inner + added)
        return found

    def weights(self, query: Tensor, tokens: Tensor) -> Tensor:
        """How much each query (V, Q, D) looks at each token (V, S, D): (V, Q, S), in
        the mean over heads; their sum is 1."""
        query, tokens = self._read(query, tokens)
        q, k = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
            for x in (query, self.k_proj(tokens))
        )
        shares: Tensor = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return shares.mean(1)

    def _read(self, query: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Queries as they ask, and tokens as they are mapped."""
        query, tokens = self.norm_in(query), self.norm_in(tokens)
        return self.q_proj(query) / self.temperature, tokens


class CrossAttention(Fusioner):
    r"""Setup 7 of Tab. 2: cross-attention as in a transformer's decoder, pre-norm.

    Each layer: $x \leftarrow x + \mathrm{Attention}(\mathrm{LN}\, x, \mathrm{LN}\,
    X)$, $x \leftarrow x + \mathrm{MLP}(\mathrm{LN}\, x)$, x being the query at first;
    then $v = W\, \mathrm{LN}(x + q)$. Heads have width D each. As released, matrices
    start as identities, cut or filled with zeros.

    Args:
        dimension: D.
        heads: h.
        dropout: of attention weights, in training.
        layers: how many.
        residual: whether the query enters its layers' and the last sum; the MLP's own
            stays.
    """

    def __init__(
        self, dimension: int, heads: int = 1, dropout: float = 0.1, layers: int = 1,
        residual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            _CrossLayer(dimension, heads, dropout, residual) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dimension)
        self.fc = nn.Linear(dimension, dimension)
        self.start()

    def start(self, generator: Generator | None = None) -> None:
        """Identity matrices; nothing is drawn."""
        _eyes(self)

    def pool(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Queries (V, Q, D) and tokens (V, S, D) to (V, Q, D)."""
        x = query
        for layer in self.layers:
            x = layer(x, tokens)
        found: Tensor = self.fc(self.norm(x + query if self.residual else x))
        return found


class _CrossLayer(nn.Module):
    def __init__(self, dimension: int, heads: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.residual = heads, dropout, residual
        self.norm_query, self.norm_tokens = (nn.LayerNorm(dimension) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(dimension, heads * dimension) for _ in range(3)
        )
        self.out_proj = nn.Linear(heads * dimension, dimension)
        self.norm_mlp = nn.LayerNorm(dimension)
        self.up = nn.Linear(dimension, 4 * dimension)
        self.down = nn.Linear(4 * dimension, dimension)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        q, tokens = self.q_proj(self.norm_query(query)), self.norm_tokens(tokens)
        k, v = self.k_proj(tokens), self.v_proj(tokens)
        x = self.out_proj(
            attend(q, k, v, self.heads, dropout=self.dropout * self.training)
        )
        x = query + x if self.residual else x
        found: Tensor = x + self.down(F.gelu(self.up(self.norm_mlp(x))))
        return found


class CoAttention(Fusioner):
    r"""Setup 8 of Tab. 2: two streams that look at each other (ViLBERT), post-norm.

    Each layer, for the tokens and for the query at once: $x \leftarrow \mathrm{LN}(x +
    \mathrm{Attention}(x, y))$, $x \leftarrow \mathrm{LN}(x + W_2\, \mathrm{GELU}(W_1
    x))$, y being the other stream and all widths D. v is the mean of the tokens'
    stream, as the released configuration asks for; its code ends before that.

    Without residual the first sum is gone from both streams. The tokens' stream would
    then be a function of the query alone, since each token looks at one key, so v is
    the query's stream there.

    Args:
        dimension: D.
        heads: h, divides D.
        dropout: of attention weights, in training.
        layers: how many.
        residual: see above.
    """

    def __init__(
        self, dimension: int, heads: int = 1, dropout: float = 0.1, layers: int = 1,
        residual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.residual = residual
        self.tokens, self.query = (
            nn.ModuleList(
                _CoLayer(dimension, heads, dropout, residual) for _ in range(layers)
            )
            for _ in range(2)
        )
        self.start()

    @torch.no_grad()
    def start(self, generator: Generator | None = None) -> None:
        """Matrices as BERT's, from N(0, 0.02); biases 0, norms 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=0.02, generator=generator)
                module.bias.zero_()

    def pool(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Queries (V, Q, D) and tokens (V, S, D) to (V, Q, D)."""
        number = query.shape[:2]
        x = tokens.repeat_interleave(number[1], 0)  # each query meets tokens of its own
        y = query.flatten(0, 1)[:, None]
        for of_tokens, of_query in zip(self.tokens, self.query, strict=True):
            x, y = of_tokens(x, y), of_query(y, x)
        found: Tensor = (x if self.residual else y).mean(1).unflatten(0, number)  # type: ignore[no-untyped-call]
        return found


class _CoLayer(nn.Module):
    def __init__(self, dimension: int, heads: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.residual = heads, dropout, residual
        self.q_proj, self.k_proj, self.v_proj, self.out_proj, self.up, self.down = (
            nn.Linear(dimension, dimension) for _ in range(6)
        )
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(dimension) for _ in range(2))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        dropout = self.dropout * self.training
        q, k, v = self.q_proj(x), self.k_proj(other), self.v_proj(other)
        mixed = self.out_proj(attend(q, k, v, self.heads, dropout=dropout))
        x = self.norm_attention(x + mixed if self.residual else mixed)
        found: Tensor = self.norm_mlp(x + self.down(F.gelu(self.up(x))))
        return found


@torch.no_grad()
def _eyes(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.eye_(part.weight)
            nn.init.zeros_(part.bias)
