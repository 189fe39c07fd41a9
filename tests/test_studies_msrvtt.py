"""The baseline on MSR-VTT, on a small made-up one: what chooses, what is only scored, and what shares a source."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import small_msrvtt as small
import torch

from vtrlib import canary, datasets, experiments, metrics, training
from vtrlib.datasets import msrvtt_features
from vtrlib.studies import msrvtt

SETTINGS: dict[str, Any] = {"width": 8, "words": 6, "epochs": 5, "batch_size": 16, "learning_rate": 0.02}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small MSR-VTT, where VTRLIB_DATA says."""
    root = small.small_msrvtt(tmp_path, train=131)
    rows = np.random.default_rng(5).normal(size=(131, 5, 11)).astype(np.float32)
    np.save(root / small.FEATURES / small.FEATURE_FILE, rows)
    monkeypatch.setenv("VTRLIB_DATA", str(root))
    return root


def spoil(root: Path, split: str) -> None:
    """Give the videos of a split other features and other captions."""
    mine = {int(id.removeprefix("video")) for id in msrvtt_features(split=split).ids}
    path = root / small.FEATURES / small.FEATURE_FILE
    rows = np.load(path)
    for row in mine:
        rows[row] = np.random.default_rng(row).normal(size=rows[row].shape) + np.sin(np.arange(11) * row)
    np.save(path, rows)
    archive = root / small.ANNOTATIONS / "train_val_annotation.zip"
    name = "train_val_videodatainfo.json"
    with zipfile.ZipFile(archive) as file:
        annotations = json.loads(file.read(name))
    for entry in annotations["sentences"]:
        i = int(entry["video_id"].removeprefix("video"))
        if i in mine:
            entry["caption"] = small.sentence(3 * i + 1, entry["sen_id"])
    small.zipped(archive, name, annotations)


class Choices:
    """What a run of the baseline chose: weights, validation scores and scales of rescoring."""

    def __init__(self, study: ModuleType = msrvtt, seed: int = 0) -> None:
        self.scales: list[tuple[str, float]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "fit", self._fit)
            for way in ("dual_softmax", "querybank_norm"):
                patch.setattr(metrics, way, self._watched(way, getattr(metrics, way)))
            self.metrics = study.baseline(seed, **SETTINGS)

    def _fit(self, model: torch.nn.Module, *rest: Any, **options: Any) -> training.History:
        self.history = REAL_FIT(model, *rest, **options)
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        return self.history

    def _watched(self, way: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def rescored(*scores: torch.Tensor, scale: float) -> Any:
            self.scales.append((way, scale))
            return real(*scores, scale=scale)

        return rescored

    def same(self, other: Choices) -> bool:
        weights = all(torch.equal(self.weights[name], other.weights[name]) for name in self.weights)
        return weights and (self.history.scores, self.scales) == (other.history.scores, other.scales)


REAL_FIT = training.fit


def test_a_seed_gives_the_same_numbers(data: Path) -> None:
    one, again, other = Choices(), Choices(), Choices(seed=1)
    assert one.metrics == again.metrics and one.same(again)
    assert one.history.losses != other.history.losses
    assert one.metrics.keys() == {
        *(f"{chance}R@{k}" for chance in ("", "chance ") for k in (1, 5, 10)), "MdR", "MnR", "best step",
        *(f"{way}/{name}" for way in ("one", "one DSL", "one QB-Norm") for name in ("R@1", "R@5", "R@10", "SumR")),
    }  # fmt: skip
    assert one.metrics["chance R@5"] == pytest.approx(500 / len(msrvtt_features(split="test")))


def test_validation_chooses(data: Path) -> None:
    """Other validation videos: the same training, another epoch."""
    before = Choices()
    assert before.metrics["best step"] == before.history.best_step
    spoil(data, "val")
    after = Choices()
    assert after.history.losses == before.history.losses
    assert after.history.scores != before.history.scores


def test_the_test_split_chooses_nothing(data: Path) -> None:
    before = Choices()
    spoil(data, "test")
    after = Choices()
    assert after.same(before), "weights, validation scores and scales don't feel it"
    assert after.metrics != before.metrics, "what is scored does"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('report("val").recall(k)', 'report("test").recall(k)'),
        ('scored(way, "val", s)', 'scored(way, "test", s)'),
        ('parts["train"].captions for c', 'parts["test"].captions for c'),
        ('features["train"].mean', 'features["test"].mean'),
    ],
)
def test_a_planted_look_at_the_test_split_is_seen(data: Path, tmp_path: Path, right: str, wrong: str) -> None:
    with planted(tmp_path / "planted.py", right, wrong) as study:
        before = Choices(study)
        spoil(data, "test")
        assert not Choices(study).same(before)


@contextmanager
def planted(path: Path, right: str, wrong: str) -> Iterator[ModuleType]:
    """The study with one thing in it replaced."""
    source = Path(str(msrvtt.__file__)).read_text("utf-8")
    assert source.count(right) == 1, f"the study no longer says {right}: plant the fault elsewhere"
    path.write_text(source.replace(right, wrong), "utf-8")
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec and spec.loader
    study = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "REGISTRY", {})
        patch.setitem(sys.modules, "planted", study)  # where its dataclass looks for it
        spec.loader.exec_module(study)
        yield study


def test_no_source_is_in_two_parts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts are those that the study asks for; neighbours of the small set share a source."""
    parts: dict[str, datasets.VideoFeatures] = {}

    def watched(split: str) -> datasets.VideoFeatures:
        parts[split] = msrvtt_features(split=split)
        return parts[split]

    monkeypatch.setattr(datasets, "msrvtt_features", watched)
    msrvtt.baseline(0, **{**SETTINGS, "epochs": 1})
    assert parts.keys() == {"train", "val", "test"} and min(map(len, parts.values())) > 5
    assert sum(map(len, parts.values())) == 131
    sources = [{video.source for video in part.videos} for part in parts.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) < 131


def test_the_canary_is_the_first_losses(data: Path) -> None:
    known = experiments.Experiment("x", msrvtt.baseline, (0,), SETTINGS, msrvtt._first_losses, real_data=True)
    assert canary.measure(known) == Choices().history.losses[:3]


@pytest.mark.parametrize("id", ["msrvtt-baseline", "msrvtt-sources"])
def test_without_data_it_is_said_what_is_missing(id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = experiments.REGISTRY[id]
    monkeypatch.delenv("VTRLIB_DATA", raising=False)
    assert canary.lacks_data(known) == "needs real data: set VTRLIB_DATA to its folder"
    with pytest.raises(FileNotFoundError, match="VTRLIB_DATA: not set. Expected the folder that holds .*https://git"):
        known.function(0, **known.config)
    monkeypatch.setenv("VTRLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"VTRLIB_DATA='.*nowhere': there is no such folder"):
        known.function(0, **known.config)
