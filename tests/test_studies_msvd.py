"""The study of real clips, on clips that are written here."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vtrlib.clip import load
from vtrlib.studies import msvd


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips of 20 frames of 96×64 pixels, where the data folder would be."""
    place = tmp_path / "msvd-clips"
    place.mkdir()
    for n in range(3):
        with av.open(str(place / f"film{n}.avi"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for t in range(20):
                picture = np.full((64, 96, 3), 10 * t + n, dtype=np.uint8)
                picture[:, 4 * t : 4 * t + 20, n] = 255
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    monkeypatch.setenv("VTRLIB_DATA", str(tmp_path))
    return place


def test_clips_go_through_the_tiny_towers(folder: Path) -> None:
    found = msvd.clips(0, 5, models=("tiny",))
    assert found["clips"] == 3 and found["different frames of a clip"] == 5
    assert found["tiny/feature, moved by reversal"] < 1e-6 and 0 < found["tiny/feature length"] <= 1
    assert found["tiny/least cosine of two clips"] < 0.9999
    assert msvd._first_numbers(0, 5) == [msvd.clips(7, 5, videos=1, models=("tiny",))["tiny/feature length"]]
    with pytest.raises(KeyError, match="least cosine"):
        _ = msvd.clips(0, 5, videos=1, models=("tiny",))["tiny/least cosine of two clips"]


def test_features_are_those_of_the_model_on_prepared_frames() -> None:
    frames = torch.randint(256, (2, 3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    towers, model = load("tiny"), msvd.tiny()
    found, seconds = msvd._encode(model, frames, towers.mean, towers.std)
    resized = torch.nn.functional.interpolate(
        frames.flatten(0, 1).float(), (32, 32), mode="bicubic", antialias=True
    ).round().clamp(0, 255)  # fmt: skip
    with torch.no_grad():
        expected = model.encode_video((resized / 255 - 0.5).div(0.5).unflatten(0, (2, 3))).video
    assert found.shape == expected.shape and seconds > 0
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)  # another way of rounding


def test_big_weights_follow_their_seed_and_no_adapter_is_zero() -> None:
    state = torch.random.get_rng_state()
    model = msvd.big(3)
    assert torch.equal(state, torch.random.get_rng_state())
    added = [weight for name, weight in model.named_parameters() if "adapter" in name or "lora" in name]
    assert added and all(weight.abs().max() > 0 for weight in added)
    assert model.clip.config.vision_config.hidden_size == 768
    assert torch.equal(added[0], next(w for n, w in msvd.big(3).named_parameters() if "adapter" in n or "lora" in n))
