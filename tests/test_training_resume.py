"""Checkpoints of `vtrlib.training`: a run that is stopped, killed or out of disk goes on bit for bit."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from vtrlib.training import Config, History, checkpoint, fit

# Dropout, drawn data, a schedule, parts, validation that draws, a tied weight: all that a resumption must bring back.
# One process imports torch, and forks a child for each run: a child is killed as any process is.
PROGRAM = r"""
import json, os, signal, sys
from pathlib import Path

import torch
import torch._dynamo  # optimisers import it
from torch import nn
from torch.nn import functional

from vtrlib.training import Config, Interrupted, checkpoint, fit

torch.set_num_threads(1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(5, 7), nn.Dropout(0.3), nn.Linear(7, 3)
        self.tied = self.first.bias

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.first(x))))


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 41

    def __getitem__(self, index):
        return torch.arange(5.0) * (index % 7) / 20 + torch.randn(5), index % 3


def run(folder, when):
    event, _, number = when.partition(":")
    calls = 0

    def die(at):
        nonlocal calls
        if at == event:
            calls += 1
            if calls == int(number):
                os.kill(os.getpid(), signal.SIGINT if event.startswith("interrupt") else signal.SIGKILL)

    def before(module, name, at):
        old = getattr(module, name)
        setattr(module, name, lambda *arguments, **options: (die(at), old(*arguments, **options))[1])

    def loss(model, batch):
        die("part"), die("interrupt")
        return functional.cross_entropy(model(batch[0]), batch[1])

    before(checkpoint, "save_file", "file")
    before(os, "rename", "rename")
    before(os, "rename", "interrupt a save")
    before(checkpoint.shutil, "rmtree", "delete")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may have it ignored
    torch.manual_seed(0)
    model = Model()
    config = Config(steps=16, batch_size=6, learning_rate=0.1, schedule="cosine", warmup=0.2, eval_every=3,
                    accumulation=2, clip=0.5, checkpoint_every=2, seed=5)
    score = lambda model: (die("interrupt a validation"), model.last.weight.sum() + torch.rand(()))[1]
    history = fit(model, Noisy(), loss, config, validate=score, folder=folder)
    weights = [weight.flatten().tolist() for weight in model.parameters()]
    (folder / "result").write_text(json.dumps([history.losses, history.scores, weights]))


for argument in sys.argv[1:]:
    name, _, when = argument.partition("=")
    folder = Path(name)
    child = os.fork()
    if child == 0:
        try:
            run(folder, when)
        except Interrupted as stopped:
            (folder / "message").write_text(str(stopped))
            os._exit(130)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, sorted(path.name for path in folder.glob("step-*"))]), flush=True)
"""


def program(folder: Path, *runs: str) -> list[tuple[int, list[int]]]:
    """Do the runs "name=event:number" one after the other; what each ended with, and the checkpoints there then."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *runs], check=False, cwd=folder, capture_output=True, text=True, timeout=120
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(runs), done.stderr
    return [(code, [int(name.partition("-")[2]) for name in names]) for code, names in told]


def test_killed_at_any_moment_it_ends_the_same(tmp_path: Path) -> None:
    kills = {
        "part:1": [],  # before there is anything
        "file:3": [],  # while the first checkpoint is being written: two of its five files are there
        "part:7": [2],  # in the first half of step 4
        "rename:1": [2],  # the checkpoint of step 4 is written whole, and not yet in its place
        "delete:3": [2, 4],  # it is in its place, and so is the older one, just before that one is deleted
        "file:7": [6],  # in the middle of the second checkpoint since
    }
    runs = [f"killed={when}" for when in kills]
    found = program(tmp_path, *runs, "killed=never", "whole=never")
    assert dict(zip(kills, found[:-2], strict=True)) == {when: (-signal.SIGKILL, kept) for when, kept in kills.items()}
    assert found[-2:] == [(0, [16])] * 2
    assert (tmp_path / "killed" / "result").read_bytes() == (tmp_path / "whole" / "result").read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["result", "step-00000016"]


def test_ctrl_c_ends_the_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    found = program(tmp_path, "run=interrupt:9", "run=never", "last=interrupt:32")  # amid steps 5 and 16
    assert found == [(130, [5]), (0, [16]), (130, [16])]
    assert (tmp_path / "run" / "message").read_text() == (
        "Stopped after step 5 of 16. The checkpoint in run holds it: run the same command again to go on from there."
    )


def test_ctrl_c_is_never_lost(tmp_path: Path) -> None:
    """Amid the first and the last validation, and amid the last checkpoint: whoever called fit must not go on."""
    found = program(
        tmp_path,
        "one=interrupt a validation:1",
        "two=interrupt a validation:6",
        "three=interrupt a save:8",
        "one=never",
    )
    assert found == [(130, [3]), (130, [16]), (130, [16]), (0, [16])]
    assert (tmp_path / "two" / "message").read_text().startswith("Stopped after step 16 of 16. The checkpoint in two")


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("step-*"))


CONFIG = Config(steps=11, batch_size=6, learning_rate=0.05, schedule="cosine", eval_every=2)


def classifier(width: int = 7) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Dropout(0.4), nn.Linear(width, 3))


def samples(size: int = 20) -> TensorDataset:
    generator = torch.Generator().manual_seed(size)
    return TensorDataset(torch.randn(size, 5, generator=generator), torch.arange(size) % 3)


def loss_of(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def margin(model: nn.Module) -> float:
    weight = next(model.parameters())
    return float(model(weight.new_ones(1, 5))[0, 0])


def train(folder: Path | None, config: Config = CONFIG, **changes: Any) -> tuple[History, Mapping[str, Tensor]]:
    model = changes.pop("model", None) or classifier()
    given: dict[str, Any] = {"data": samples(), "loss": loss_of, "validate": margin, **changes}
    history = fit(model, config=config, folder=folder, **given)
    return history, model.state_dict()


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("endless", [False, True])
def test_stopped_after_any_step_it_ends_the_same(tmp_path: Path, endless: bool) -> None:
    def draw(generator: torch.Generator) -> Iterator[int]:
        while True:
            yield int(torch.randint(20, (), generator=generator))

    changes: dict[str, Any] = {"sampler": draw} if endless else {}
    whole, expected = train(None, **changes)
    for stop in range(1, 11):
        folder = tmp_path / str(stop)
        assert train(folder, until=stop, **changes)[0].ended == "until"
        other = replace(CONFIG, workers=2 * (stop == 5), report_every=3, checkpoint_every=4)  # may change on the way
        history, found = train(folder, other, **changes)
        assert (history.losses, history.scores, history.ended) == (whole.losses, whole.scores, "steps"), stop
        assert same(found, expected), stop


def test_a_finished_run_is_loaded_not_repeated(tmp_path: Path) -> None:
    first, expected = train(tmp_path, replace(CONFIG, patience=1, eval_every=1))
    assert first.ended == "patience"

    def never(model: nn.Module, batch: Any) -> Tensor:
        raise AssertionError("trained again")

    again, found = train(tmp_path, replace(CONFIG, patience=1, eval_every=1), loss=never)
    assert (again, same(found, expected)) == (first, True)


class Momentum(torch.optim.SGD):
    """An optimiser with plain numbers in its state, as some have."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                count = self.state[weight].get("count", 0)
                self.state[weight]["count"] = count + 1
                weight.data.mul_(1 - 0.01 * count)
        return super().step(closure)


def test_numbers_in_an_optimisers_state_come_back(tmp_path: Path) -> None:
    def momentum(model: nn.Module, config: Config) -> Momentum:
        return Momentum(model.parameters(), lr=config.learning_rate, momentum=0.9)

    whole, expected = train(None, optimiser=momentum)
    train(tmp_path, optimiser=momentum, until=5)
    history, found = train(tmp_path, optimiser=momentum)
    assert history.losses == whole.losses and same(found, expected)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"learning_rate": 0.1, "steps": 12}, {}, "config: learning_rate: found 0.05 in the checkpoint, 0.1 now"),
        ({"learning_rate": 0.1, "steps": 12}, {}, "config: steps: found 11 in the checkpoint, 12 now"),
        ({"seed": 1}, {}, "config: seed: found 0 in the checkpoint, 1 now"),
        ({}, {"model": classifier(8)}, r"model: 0.weight: found \[\[7, 5\], 'float32'\] in the checkpoint, \[\[8, 5\]"),
        ({}, {"model": classifier().double()}, r"3.bias: found \[\[3\], 'float32'\] in .*, \[\[3\], 'float64'\]"),
        ({}, {"model": nn.Sequential(nn.Linear(5, 3))}, "model: 3.weight: found .* in the checkpoint, nothing now"),
        ({}, {"data": samples(21)}, "data: samples: found 20 in the checkpoint, 21 now"),
        ({}, {"sampler": lambda _: range(20)}, "data: own sampler: found False in the checkpoint, True now"),
        ({}, {"validate": None}, "data: validated: found True in the checkpoint, False now"),
        ({}, {"optimiser": lambda m, c: torch.optim.AdamW(m.parameters(), eps=1e-6)}, "group 0: eps: found 1e-08 in "),
        ({}, {"optimiser": lambda m, c: torch.optim.NAdam(m.parameters())}, "optimiser: class: found torch.optim.adam"),
    ],
)  # fmt: skip
def test_the_checkpoint_of_another_run_is_refused(
    tmp_path: Path, config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    train(tmp_path, until=3)
    model = changes.get("model") or classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as told:
        train(tmp_path, replace(CONFIG, **config), **{**changes, "model": model})
    assert str(told.value).startswith(f"{tmp_path / 'step-00000003'}: is the checkpoint of another run.\n")
    assert f"give another folder, or delete {tmp_path}." in str(told.value)
    assert same(before, model.state_dict()) and steps_in(tmp_path) == [3]


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_is_never_opened(tmp_path: Path, archive: bool) -> None:
    train(tmp_path / "run", until=3)
    file = tmp_path / "run" / "step-00000003" / "model.safetensors"
    bomb = Bomb(tmp_path / "exploded")
    torch.save(bomb, file) if archive else file.write_bytes(pickle.dumps(bomb))
    with pytest.raises(
        ValueError, match="model.safetensors: found a pickle, which could run code.* Delete .*step-00000003"
    ):
        train(tmp_path / "run")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("optimiser.safetensors", lambda data: data[: len(data) // 2], "optimiser.safetensors: .*expected a whole"),
        ("best.safetensors", None, "best.safetensors: found .*[Nn]o such file"),
        ("state.json", lambda data: data[:-9], "state.json: .*Expected the state of a checkpoint"),
        ("state.json", lambda data: b"{}", "state.json: found no mapping with the keys files, history"),
        ("state.json", None, "state.json: .*No such file"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, damage: Any, message: str) -> None:
    train(tmp_path, until=3)
    file = tmp_path / "step-00000003" / name
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    with pytest.raises(ValueError, match="(?i)" + message):
        train(tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, expected = train(None)
    train(tmp_path, until=4)
    old = {path.name: path.read_bytes() for path in (tmp_path / "step-00000004").iterdir()}
    for name in ("save_file", "_flush"):

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch, pytest.raises(OSError, match="of step 6 .No space left") as told:
            patch.setattr(checkpoint, name, full)
            train(tmp_path, replace(CONFIG, checkpoint_every=6))
        assert f"{tmp_path}: cannot write" in str(told.value) and "The one of step-00000004 stands" in str(told.value)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"], name
        assert {path.name: path.read_bytes() for path in (tmp_path / "step-00000004").iterdir()} == old
    history, found = train(tmp_path)
    assert history.losses == whole.losses and same(found, expected)


def test_a_disk_that_takes_no_more_is_named(tmp_path: Path) -> None:
    """The real thing: the system refuses the bytes of a file, and safetensors has an error of its own for that."""
    train(tmp_path, until=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        with pytest.raises(OSError, match="cannot write the checkpoint of step 6 .*too large.*step-00000004 stands"):
            train(tmp_path, replace(CONFIG, checkpoint_every=6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_folder_that_cannot_be_one_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    called: list[int] = []

    def watched(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        called.append(1)
        return loss_of(model, batch)

    with pytest.raises(OSError, match="file"):
        train(tmp_path / "file", loss=watched)
    assert called == []


def test_a_folder_without_rights_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a finished run can be read from one."""
    finished, stopped = tmp_path / "finished", tmp_path / "stopped"
    expected, _ = train(finished)
    train(stopped, until=3)
    real = os.mkdir

    def refuse(path: Any, *rest: Any, **options: Any) -> None:
        if Path(path).name.endswith(".part"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, *rest, **options)

    def never(model: nn.Module, batch: Any) -> Tensor:
        raise AssertionError("trained")

    monkeypatch.setattr(os, "mkdir", refuse)
    for folder in (tmp_path / "new", stopped):
        with pytest.raises(
            PermissionError, match=f"{folder.name}: cannot hold checkpoints .Permission denied.*another"
        ):
            train(folder, loss=never)
    assert train(finished, loss=never)[0] == expected


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-by-step").mkdir()
    (tmp_path / "step-by-step" / "notes").write_text("mine")
    (tmp_path / "step-00000009.zip").touch()
    train(tmp_path, until=3)
    history, _ = train(tmp_path)
    assert history.losses == train(None)[0].losses
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009.zip", "step-00000011", "step-by-step"]
    assert (tmp_path / "step-by-step" / "notes").read_text() == "mine"


def test_leftovers_of_killed_processes_are_cleared(tmp_path: Path) -> None:
    for name in ("step-00000001", f".step-00000003.{os.getpid()}.part", ".step-00000002.1.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    shutil.rmtree(tmp_path / "step-00000001")
    train(tmp_path, until=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def parallel(folder: Path) -> list[Any]:
    """Train in two goes on however many processes there are; losses, scores and weights."""
    data = TensorDataset(torch.arange(205.0, dtype=torch.float64).reshape(41, 5).sin(), torch.arange(41) % 3)
    config = Config(steps=9, batch_size=12, learning_rate=0.1, accumulation=2, clip=0.5, eval_every=4)
    for until in (5, None):
        model = classifier().double()
        model[2].p = 0.0  # type: ignore[assignment]  # processes drop out independently, as they must
        sign = 1 - 2 * int(os.environ.get("RANK", "0"))  # the second process would choose the worst weights
        history = fit(model, data, loss_of, config, validate=lambda m: sign * margin(m), folder=folder, until=until)  # noqa: B023
    scores = [history.scores[step] for step in (4, 8, 9)]
    return [history.losses, scores, [weight.flatten().tolist() for weight in model.parameters()]]


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Losses, scores and weights of 2 processes with half a batch each are those of one, across a resumption too.

    The environment is what `accelerate launch` and `torchrun` give each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import json, torch; from pathlib import Path; from accelerate import PartialState\n"
        "from test_training_resume import parallel\n"
        "found = parallel(Path('two')); assert PartialState().num_processes == 2\n"
        "print(json.dumps(found))\n"
        "torch.distributed.destroy_process_group()"
    )
    shared = {**os.environ, "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "bf16", "WORLD_SIZE": "2",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(Path(__file__).parent)}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    one = parallel(tmp_path / "one")
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    two, other = (json.loads(out) for out, _ in told)
    assert two == other, "processes agree"
    assert two[0] == pytest.approx(one[0], rel=1e-12)
    assert two[1] == pytest.approx(one[1], rel=1e-9)
    for ours, theirs in zip(two[2], one[2], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-10)
