"""Negatives from 2 processes: loss and gradients are those of one, or, as released, gradients half of those."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import small_pig
from small_discovla import batch, features, small
from torch import Tensor
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vtrlib.discovla import DiscoVLA
from vtrlib.gathering import gather
from vtrlib.losses import info_nce
from vtrlib.pig import PIG

SETTINGS: list[dict[str, Any]] = [{"reading": "released"}, {"reading": "paper"}]


def part(data: Any, rank: int, size: int) -> dict[str, Tensor]:
    """A process's share of a batch."""
    return {name: tensor[rank * size : (rank + 1) * size] for name, tensor in data.items()}


def of_model(model: DiscoVLA | PIG, whole: Any, rank: int | None, gradient: str = "whole") -> tuple[float, list[Any]]:
    """Loss, and gradients averaged over processes as DistributedDataParallel averages them."""
    module: Any = model if rank is None else DistributedDataParallel(model)
    data = whole if rank is None else part(whole, rank, 2)
    losses = module(data, gradient)
    losses["total"].backward()
    grads = [w.grad.flatten().tolist() for w in model.parameters() if w.grad is not None]
    return losses["total"].item(), grads


def of_rows(rank: int | None) -> list[float]:
    """Gradients of rows by themselves; each process weighs what it computes otherwise."""
    t, v = features(4, 3, seed=1), features(4, 3, seed=2).requires_grad_()
    if rank is None:
        (info_nce(t @ v.T) * 4).backward()
        return v.grad.flatten().tolist()  # type: ignore[union-attr]
    own = v.detach()[2 * rank : 2 * rank + 2].requires_grad_()
    loss = info_nce(gather(t[2 * rank : 2 * rank + 2]) @ gather(own).T)
    (loss * (1 + 2 * rank)).backward()
    return own.grad.flatten().tolist()  # type: ignore[union-attr]


def work(rank: int | None) -> dict[str, Any]:
    """What this process finds; None is the single one."""
    found: dict[str, Any] = {"rows": of_rows(rank)}
    mask = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    found["mask"] = gather(mask if rank is None else mask[2 * rank : 2 * rank + 2]).tolist()
    for number, settings in enumerate(SETTINGS):
        for gradient in ("whole", "local"):
            found[f"{number} {gradient}"] = of_model(small(**settings).train(), batch(4, 3), rank, gradient)
    tower = small_pig.small("paper", pseudo_query="query", fusioner_dropout=0.0).train()
    found["single tower"] = of_model(tower, small_pig.batch(4, 3), rank)  # captions of one meet videos of the other
    return found


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import json, os, torch; from torch import distributed as dist\n"
        "from test_gathering import work\n"
        "dist.init_process_group('gloo')\n"
        "print(json.dumps(work(dist.get_rank())))\n"
        "dist.destroy_process_group()"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env={**shared, "RANK": rank}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    one = work(None)
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    two = [json.loads(out) for out, _ in told]
    assert two[0]["mask"] == two[1]["mask"] == one["mask"]
    rows = two[0]["rows"] + two[1]["rows"]  # weights 1 and 3 of the two, 4 in all
    assert rows == pytest.approx(one["rows"], abs=1e-12)
    ways = (("whole", 1.0), ("local", 0.5))
    runs = [(str(n), f"{n} {kind}", share) for n in range(len(SETTINGS)) for kind, share in ways]
    for number, run, share in [*runs, ("", "single tower", 1.0)]:
        loss, grads = one[f"{number} whole" if number else run]
        for found in two:
            assert found[run][0] == pytest.approx(loss, rel=1e-9)
            pairs = list(zip(found[run][1], grads, strict=True))
            assert len(pairs) > 10
            for ours, theirs in pairs:
                expected = share * torch.tensor(theirs, dtype=torch.float64)
                apart = (torch.tensor(ours, dtype=torch.float64) - expected).abs().max()
                assert apart <= 1e-6 * expected.abs().max() + 1e-12


def test_on_one_process_nothing_happens() -> None:
    assert not dist.is_initialized()
    x = features(3, 2, seed=1)
    assert gather(x) is x and gather(x, "local") is x
    with pytest.raises(ValueError, match="gradient='sum': expected one of 'whole', 'local'"):
        gather(x, "sum")
    with pytest.raises(ValueError, match=r"x: found shape \(\), expected rows"):
        gather(torch.tensor(1.0))
