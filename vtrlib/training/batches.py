"""Which samples each step sees, in which parts, and how they are loaded."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from vtrlib.training.config import Config
from vtrlib.training.generators import draws_of

__all__ = ["Order", "Part", "Sampler", "loader"]

Sampler = Callable[[torch.Generator], Iterable[int]]
Collate = Callable[[Any], Any]


@dataclass(frozen=True)
class Part:
    """What a process loads at once: a batch, or its share of one.

    Attributes:
        step: the update that it belongs to, from 1.
        place: pass through the data, from 0, and batch of that pass, from 1.
        number: of this part within its batch, over all processes.
        share: of the batch's samples, 0 < share ≤ 1.
        last: the update follows.
        indices: into the dataset.
    """

    step: int
    place: tuple[int, int]
    number: int
    share: float
    last: bool
    indices: list[int]


class Order:
    """Batches of indices without end, pass after pass, drawn from one seeded generator.

    The generator runs ahead of training where workers load ahead. So its state is kept as it was when a pass began,
    and `resume` draws that pass again and skips what has been seen.

    Args:
        samples: size of the dataset.
        config: batch size, seed and what becomes of an incomplete batch.
        sampler: gives the indices of a pass, or endlessly many; by default a permutation.
    """

    def __init__(self, samples: int, config: Config, sampler: Sampler | None) -> None:
        self.config = config
        self.sampler = sampler or (lambda generator: torch.randperm(samples, generator=generator).tolist())
        self.generator = torch.Generator().manual_seed(config.seed)
        self.begun: dict[int, torch.Tensor] = {}  # pass: state of the generator at its start
        self._from = (0, 0)

    def resume(self, place: tuple[int, int], begun: torch.Tensor) -> None:
        """Go on behind `place`, in a pass that began with the generator in this state."""
        self._from = place
        self.generator.set_state(begun)

    def state(self, place: tuple[int, int]) -> torch.Tensor:
        """The generator's state when the pass of `place` began."""
        self.begun = {number: begun for number, begun in self.begun.items() if number >= place[0]}
        return self.begun[place[0]]

    def batches(self) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Place and indices of one batch after the other.

        Raises:
            ValueError: a pass holds no whole batch.
        """
        number, seen = self._from
        while True:
            self.begun[number] = self.generator.get_state()
            indices = (int(index) for index in self.sampler(self.generator))
            count = 0
            while batch := list(islice(indices, self.config.batch_size)):
                if len(batch) < self.config.batch_size and self.config.drop_last:
                    break
                count += 1
                if count > seen:
                    yield (number, count), batch
            if count == 0:
                raise ValueError(
                    f"data: found {len(batch)} samples in a pass, expected at least batch_size="
                    f"{self.config.batch_size}. Lower batch_size, or set drop_last=False."
                )
            number, seen = number + 1, 0

    def parts(self, start: int, end: int, rank: int = 0, processes: int = 1) -> Iterator[Part]:
        """What process `rank` loads for the steps start + 1, …, end.

        Samples are dealt out so that all processes together see exactly what a single one would.
        """
        size = self.config.batch_size // (self.config.accumulation * processes)
        for step, (place, batch) in zip(range(start + 1, end + 1), self.batches(), strict=False):
            cut = [batch[at : at + size] for at in range(0, len(batch), size)]
            for number in range(rank, len(cut), processes):
                share = len(cut[number]) / len(batch)
                yield Part(step, place, number, share, number + processes >= len(cut), cut[number])


class _Loaded(Dataset[tuple[Part, Any]]):
    """A dataset indexed by parts, which are loaded with draws of their own."""

    def __init__(self, data: Dataset[Any], collate: Collate | None, seed: int) -> None:
        self.data, self.collate, self.seed = data, collate, seed

    def __getitem__(self, part: Part) -> tuple[Part, Any]:
        if isinstance(self.data, TensorDataset) and self.collate is None:
            return part, list(self.data[part.indices])  # one gather each, not one per sample
        with draws_of(self.seed, part.step, part.number):
            together: Callable[[Sequence[int]], Any] | None = getattr(self.data, "__getitems__", None)
            samples = together(part.indices) if together else [self.data[index] for index in part.indices]
            return part, (self.collate or default_collate)(samples)


def loader(
    data: Dataset[Any], parts: Iterator[Part], config: Config, collate: Collate | None, pin: bool
) -> Iterable[tuple[Part, Any]]:
    """Load `parts` one after the other, in worker processes where the configuration wants them."""
    return DataLoader(
        _Loaded(data, collate, config.seed),
        batch_size=None,
        sampler=parts,  # any iterable serves
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # without a batch size it gets one item
        num_workers=config.workers,
        worker_init_fn=_leave_interrupts_to_the_main_process,
        pin_memory=pin,
        generator=torch.Generator(),  # else it would draw from the global one, and so move dropout's draws
    )


def _as_it_is(loaded: tuple[Part, Any]) -> tuple[Part, Any]:
    return loaded


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
