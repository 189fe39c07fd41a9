"""DreamPRVR whole: queries and videos in, scores out, and the loss that trains it."""

from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Generator, Tensor, nn

from vtrlib.dreamprvr import inputs
from vtrlib.dreamprvr.config import Config
from vtrlib.dreamprvr.draws import Draws
from vtrlib.dreamprvr.inputs import Batch
from vtrlib.dreamprvr.objective import (
    Losses,
    Scores,
    generation_losses,
    retrieval_losses,
    similarity,
    textual_losses,
    total,
)
from vtrlib.dreamprvr.text_space import QueryEncoder
from vtrlib.dreamprvr.video import DualBranchEncoder, Imagined, Videos
from vtrlib.dreamprvr.weights import draw_weights, parameter_groups

__all__ = ["DreamPRVR"]


class DreamPRVR(nn.Module, PyTorchModelHubMixin):
    """Diffusion-guided registers for partially relevant video retrieval.

    Args:
        config: sizes, settings, and how the paper is read; also a dict of its fields,
            as JSON holds it.

    Attributes:
        query: the query branch.
        video: the video's side.
    """

    def __init__(self, config: Config | dict[str, Any]) -> None:
        super().__init__()
        self.config = config if isinstance(config, Config) else Config(**config)
        self.query = QueryEncoder(self.config)
        self.video = DualBranchEncoder(self.config)
        draw_weights(self, frozen=self.config.reading.time_code == "random")

    def parameter_groups(self, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """What is decayed, as released; see `vtrlib.dreamprvr.parameter_groups`."""
        return parameter_groups(self, weight_decay)

    def encode_query(self, words: Tensor, mask: Tensor) -> Tensor:
        """Queries to embeddings.

        Args:
            words: (N, L, Dq), features of the words, L ≤ `config.words`.
            mask: (N, L), true or 1 where there is a word; each query has one.

        Returns:
            (N, d), not normalised.

        Raises:
            ValueError: shapes that do not fit; on a CPU or outside training also a
                query without words, and NaN or infinity.
        """
        checked = inputs.checked_words(self.config, words, mask, self._reads(words))
        queries: Tensor = self.query(*checked)
        return queries

    def encode_video(
        self, clips: Tensor, frames: Tensor, mask: Tensor, *,
        draws: Draws | None = None, generator: Generator | None = None,
    ) -> Videos:  # fmt: skip
        """Videos to clips, frames and registers.

        Args:
            clips: (V, M_c, Dv).
            frames: (V, F, Dv), F ≤ `config.frames`; what stands in padding never
                matters.
            mask: (V, F), true or 1 where there is a frame; each video has one.
            draws: noise that is given.
            generator: decides the rest, where the reading draws at all: "released" does
                not, "paper" does.

        Raises:
            ValueError: shapes that do not fit; on a CPU or outside training also a
                video without frames, and NaN or infinity.
        """
        checked = inputs.checked_videos(
            self.config, clips, frames, mask, self._reads(clips)
        )
        videos: Videos = self.video(*checked, draws or Draws(), generator)[0]
        return videos

    def imagine(
        self, clips: Tensor, *, draws: Draws | None = None,
        generator: Generator | None = None, trajectory: bool = False,
    ) -> Imagined:  # fmt: skip
        """Registers alone, from clips (V, M_c, Dv); with `trajectory` all their states.

        Raises:
            ValueError: as for `encode_video`.
        """
        clips = inputs.checked_clips(self.config, clips, self._reads(clips))
        embedded, draws = self.video.embed_clips(clips), draws or Draws()
        return self.video.imagine(clips, embedded, draws, generator, trajectory)

    def score(self, queries: Tensor, videos: Videos) -> Scores:
        """S(q, V) of queries (N, d) and V videos: fused, and of each branch, (N, V)."""
        return similarity(queries, videos, self.config)

    def forward(
        self, batch: Batch, *, hard: bool = False, draws: Draws | None = None,
        generator: Generator | None = None,
    ) -> Losses:  # fmt: skip
        """The loss of a batch; see `loss`."""
        return self.loss(batch, hard=hard, draws=draws, generator=generator)

    def loss(
        self, batch: Batch, *, hard: bool = False, draws: Draws | None = None,
        generator: Generator | None = None,
    ) -> Losses:  # fmt: skip
        r"""$\mathcal L_{total}$ and its terms (Eq. 15).

        Where gradients are averaged over processes, call the model instead.

        Args:
            batch: B videos with all their queries.
            hard: the triplet loss takes hard negatives, as released from epoch 20 on.
            draws: noise and negatives that are given.
            generator: decides the rest.

        Raises:
            ValueError: bad input, as for `encode_query` and `encode_video`; as many
                labels as queries are wanted, and on a CPU or outside training each the
                place of a video, and a query for each video.
        """
        config, reads, draws = self.config, self._reads(batch.words), draws or Draws()
        words = inputs.checked_words(config, batch.words, batch.word_mask, reads)
        seen = inputs.checked_videos(
            config, batch.clips, batch.frames, batch.frame_mask, reads
        )
        inputs.check_labels(batch.labels, len(batch.words), len(batch.clips), reads)
        queries = again = self.query(*words)
        if self.training and config.reading.query_passes == "two":
            again = self.query(*words)  # with other dropout
        videos, imagined = self.video(*seen, draws, generator)
        terms = retrieval_losses(
            again, videos, batch.labels, config,
            hard=hard, draws=draws, generator=generator,
        )  # fmt: skip
        terms |= textual_losses(queries, batch.labels, config)
        terms |= generation_losses(
            self.video.estimator, imagined, queries, batch.labels, self.video.schedule,
            config, draws=draws, generator=generator,
        )  # fmt: skip
        return total(terms, config.weights)

    def _reads(self, x: Tensor) -> bool:
        """May values be looked at? It would stop an accelerator in a training step, and
        break a compiled graph."""
        free = x.device.type == "cpu" or not self.training
        return free and not torch.compiler.is_compiling()
