"""What chapter 10 says about pseudo captions and B3, on the tiny CLIP and on published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vtrlib.discovla import Config, DiscoVLA, image_similarity
from vtrlib.metrics import evaluate
from vtrlib.studies import discovla as study


@pytest.mark.parametrize("options", [{}, {"aggregation": "softmax", "scale": 30.0}])
def test_fine_grained_similarity_does_not_know_the_order_of_frames(options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    captions, frames = (torch.randn(n, 5, 7, generator=generator, dtype=torch.float64) for n in (3, 4))
    kinds = {"fine": options, "video": {}, "paired": {}}
    for kind, given in kinds.items():
        one, other = (image_similarity(captions, f, kind=kind, **given).total for f in (frames, frames.flip(1)))
        assert torch.allclose(one, other, atol=1e-12) == (kind != "paired")


@pytest.mark.parametrize("split", ["val", "train"])
def test_pretrained_clip_aligns_frames_better_than_videos(split: str) -> None:
    data = study.clips(split, 120, "guided")
    model = study.build(study.settings("zero-shot"))
    texts, videos = study.encode(model, data)
    video = evaluate(model.score(texts, videos.video), range(len(data))).recall(1)
    image = study.teacher_on(model, data)["teacher t2v R@1"]
    assert image > 1.5 * video > 0
    shuffled = study.clips(split, 120, "shuffled")
    assert study.teacher_on(model, shuffled)["teacher t2v R@1"] < 0.2 * video


def test_b3_trains_as_many_as_b2_if_its_teacher_has_adapters() -> None:
    def trained(**changes: Any) -> int:
        with torch.device("meta"):
            model = DiscoVLA(Config(**changes))
        return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)

    b2, with_adapters, without = trained(beta=0.0), trained(alpha=0.0), trained(alpha=0.0, text_fusion=0)
    assert (b2, with_adapters, without) == (561_200, 561_200, 543_776)
    assert [round(n / 1e6, 2) for n in (b2, without)] == [0.56, 0.54]
