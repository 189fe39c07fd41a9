"""Text to video with RagMe: a tiny pipeline of diffusers on disk, its own samples, and what retrieval changes."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline
from safetensors.torch import save_file
from small_ragme import TEXT, WIDTH, features, move, unet
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from vtrlib.ragme import (
    Collection,
    Pipeline,
    RagMe,
    Retrieved,
    Rules,
    VAECodec,
    rag_init,
    retrieve,
    sample,
    signal_level,
    video_embedding,
)  # fmt: skip

SIZE = (16, 8)  # of frames; latents are half as large
PROMPTS = ["a red seven moves left", "spin"]
CONFIG = {"width": WIDTH, "layers": 1, "heads": 4}
SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def tokenizer() -> CLIPTokenizer:
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=11)


@functools.cache
def parts() -> dict[str, Any]:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=54, hidden_size=TEXT, intermediate_size=14, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=11, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3, sample_size=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return {
        "unet": unet(), "vae": vae.eval(), "text_encoder": CLIPTextModel(text).eval(), "tokenizer": tokenizer(),
        "scheduler": DDIMScheduler(**SCHEDULE),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ZeroScope folder: every part of it tiny and random."""
    place = tmp_path_factory.mktemp("zeroscope")
    TextToVideoSDPipeline(**parts()).save_pretrained(place)
    return place


@functools.cache
def collection() -> Collection:
    frames = features(7, 6, WIDTH, seed=3)
    frames[4] = frames[2] + 1e-3  # a near-duplicate
    mask = torch.ones(7, 6, dtype=torch.bool)
    mask[1, 4:] = False
    clips = torch.randint(0, 256, (7, 5, 3, *SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Collection(frames, mask, clips)


def embed(prompts: Sequence[str]) -> Tensor:
    """Between two videos each; the first prompt is near a duplicate."""
    index = collection().index.vectors
    return torch.stack([(index[2] if "left" in one else index[1]) + 0.5 * index[5] for one in prompts])


def loaded(folder: Path, moved: bool = True, **settings: Any) -> Pipeline:
    made = Pipeline.from_pretrained(folder, collection(), embed, {**CONFIG, **settings})
    if moved:
        move(made.model.infusers, size=0.3)
        move(made.model.enhancer)  # type: ignore[arg-type]
    return made


def run(pipeline: Pipeline, prompts: Any = PROMPTS, **settings: Any) -> Any:
    known: dict[str, Any] = {"frames": 5, "size": SIZE, "k": 3, "steps": 3, "guidance": 4.0, **settings}
    if "latents" not in known:
        known.setdefault("generator", torch.Generator().manual_seed(5))
    return pipeline(prompts, **known)


@functools.cache
def of_diffusers() -> Tensor:
    """What their own pipeline samples from the same noise; latents."""
    noise = torch.randn(2, 3, 5, 8, 4, generator=torch.Generator().manual_seed(5))
    theirs = TextToVideoSDPipeline(**{**parts(), "unet": unet()})
    theirs.set_progress_bar_config(disable=True)
    with torch.no_grad():
        found: Tensor = theirs(
            PROMPTS, height=16, width=8, num_frames=5, num_inference_steps=3, guidance_scale=4.0, latents=noise,
            output_type="latent",
        ).frames
    return found


# --- the base ---


def test_without_retrieval_it_is_the_pipeline_of_diffusers(folder: Path) -> None:
    pipeline = loaded(folder)
    found = run(pipeline, k=None)
    torch.testing.assert_close(found.latents, of_diffusers(), atol=1e-4, rtol=0)  # of latents up to 10
    assert found.retrieved is None and found.video.shape == (2, 5, 3, *SIZE) and found.video.dtype == torch.uint8
    names = {name for name, _ in pipeline.model.unet.named_parameters()}
    assert names == {name for name, _ in parts()["unet"].named_parameters()}
    assert run(loaded(folder, moved=False)).latents.equal(found.latents)  # zero convolutions


def test_below_the_minimum_nothing_is_shown(folder: Path) -> None:
    """All neighbours below: the base, exactly. Of one prompt: that prompt as the base, exactly."""
    pipeline = loaded(folder)
    pipeline.codec = VAECodec(pipeline.codec.vae, draw=False)  # type: ignore[union-attr]
    base, shown = run(pipeline, k=None), run(pipeline, rag_init=True)
    assert (shown.latents - base.latents).abs().amax((1, 2, 3, 4)).min() > 1e-2
    none = run(pipeline, rules=Rules(0.965, 0.9999, "greedy"), rag_init=True)
    assert none.latents.equal(base.latents) and none.video.equal(base.video)
    assert not none.retrieved.mask.any() and none.retrieved.ids.eq(-1).all()
    found = shown.retrieved
    one = Retrieved(found.ids, found.similarities, found.mask & torch.tensor([[True], [False]]))
    mixed = run(pipeline, found=one, rag_init=True)
    assert mixed.latents[1].equal(base.latents[1])
    torch.testing.assert_close(mixed.latents[0], shown.latents[0], atol=1e-5, rtol=0)


# --- what is retrieved, shown and started from ---


def test_retrieval_of_prompts(folder: Path) -> None:
    pipeline = loaded(folder)
    found = pipeline.retrieve(PROMPTS, 3)
    vectors = video_embedding(collection().frames, collection().mask)
    expected = retrieve(embed(PROMPTS), vectors, 3)
    assert found.ids.equal(expected.ids) and found.ids[0, 0] in (2, 4)
    assert not {2, 4} <= set(found.ids[0].tolist())  # duplicates
    assert {2, 4} <= set(pipeline.retrieve(PROMPTS, 3, Rules(1.0, None, "greedy")).ids[0].tolist())


@torch.no_grad()
def test_by_hand(folder: Path) -> None:
    """z once; DDIM's steps from ᾱ; both terms of the guidance see z; masks of frames and neighbours."""
    pipeline = loaded(folder, reading="paper")
    found = pipeline.retrieve(PROMPTS, 3, Rules(0.965, 0.3, "greedy"))
    assert found.mask.any(1).all() and not found.mask.all()
    made, model, kept = run(pipeline, found=found), pipeline.model, collection()
    frames = torch.nn.functional.normalize(kept.frames[found.ids.clamp_min(0)], dim=-1)
    z = model.condition(frames, found.mask, kept.mask[found.ids.clamp_min(0)])  # type: ignore[index]
    text, empty = pipeline.text_states(PROMPTS), pipeline.text_states(["", ""])
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(3)
    x = torch.randn(2, 3, 5, 8, 4, generator=torch.Generator().manual_seed(5))
    bar = scheduler.alphas_cumprod
    for t in scheduler.timesteps.tolist():
        without, with_text = model(x, t, empty, z), model(x, t, text, z)
        noise = without + 4.0 * (with_text - without)
        before = bar[max(t - 333, 0)]
        clean = (x - (1 - bar[t]).sqrt() * noise) / bar[t].sqrt()
        x = before.sqrt() * clean + (1 - before).sqrt() * noise
    torch.testing.assert_close(made.latents, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_where_sampling_starts(folder: Path, reading: str) -> None:
    """Eq. 7 on encoded clips, at T or at the first step; nothing else differs when Eq. 6 is off."""
    pipeline = loaded(folder, reading=reading)
    pipeline.codec = VAECodec(pipeline.codec.vae, draw=False)  # type: ignore[union-attr]
    noise = features(2, 3, 5, 8, 4, seed=9)
    found = pipeline.retrieve(PROMPTS, 3)
    start = pipeline.start(noise, found, 3)
    with torch.no_grad():
        latents = torch.stack([torch.stack([
            torch.stack([pipeline.codec.vae.encode(frame[None] / 127.5 - 1).latent_dist.mean[0] for frame in clip], 1)
            for clip in collection().clips_at(row)
        ]) for row in found.ids.tolist()]) * 0.18215  # fmt: skip
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(3)
    place = {"paper": "last", "released": "first"}[reading]
    torch.testing.assert_close(start, rag_init(scheduler, latents, noise, start=place), atol=1e-5, rtol=0)
    assert signal_level(scheduler, "last") < 0.01 < signal_level(scheduler, "first")
    begun = run(pipeline, latents=noise, rag_ca=False, rag_init=True, found=found)
    torch.testing.assert_close(begun.latents, run(pipeline, latents=start, k=None).latents, atol=1e-5, rtol=0)


def test_another_collection_moves_them_in_another_way(folder: Path) -> None:
    pipeline = loaded(folder)
    before = run(pipeline)
    assert run(pipeline).latents.equal(before.latents) and run(pipeline).video.equal(before.video)
    pipeline.collection = Collection(collection().frames.flip(0) + 1)
    assert (run(pipeline).latents - before.latents).abs().max() > 1e-2


def test_clips_on_demand(folder: Path) -> None:
    """A function is asked for the clips that were retrieved, each once."""
    asked, kept = [], collection()

    def clips(places: list[int]) -> Tensor:
        asked.append(places)
        return kept.clips_at(places)

    pipeline, expected = loaded(folder), run(loaded(folder), rag_init=True)
    pipeline.collection = Collection(kept.frames, kept.mask, clips)
    assert run(pipeline, rag_init=True).latents.equal(expected.latents)
    assert asked == [sorted(set(expected.retrieved.ids.flatten().tolist()))]


def test_adapters_on_disk(folder: Path, tmp_path: Path) -> None:
    made = loaded(folder)
    save_file(made.model.added(), tmp_path / "adapters.safetensors")
    for adapters in (tmp_path / "adapters.safetensors", made.model.added()):
        again = Pipeline.from_pretrained(folder, collection(), embed, CONFIG, adapters=adapters)
        assert run(again).latents.equal(run(made).latents)
    with pytest.raises(ValueError, match=r"weights: found missing, unknown or misshapen enhancer.blocks.1"):
        Pipeline.from_pretrained(folder, collection(), embed, {**CONFIG, "layers": 2}, adapters=made.model.added())


def test_half_precision(folder: Path) -> None:
    """Every part in bfloat16; without neighbours the base's bits."""
    made = Pipeline.from_pretrained(folder, collection(), embed, CONFIG, dtype=torch.bfloat16)
    move(made.model.infusers, size=0.3)
    shown, base = run(made, rag_init=True), run(made, k=None)
    assert shown.latents.dtype == torch.bfloat16 and shown.latents.isfinite().all()
    assert not shown.latents.equal(base.latents)
    assert run(made, rules=Rules(0.965, 0.9999, "greedy"), rag_init=True).latents.equal(base.latents)


def test_guidance_one_needs_one_pass(folder: Path) -> None:
    pipeline, sizes = loaded(folder), []
    pipeline.model.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    run(pipeline, guidance=1.0)
    run(pipeline, guidance=2.0)
    assert sizes == [2] * 3 + [4] * 3


def test_eta_draws(folder: Path) -> None:
    pipeline = loaded(folder)
    found = [run(pipeline, eta=0.5).latents for _ in range(2)]
    assert found[0].equal(found[1]) and not found[0].equal(run(pipeline).latents)


def test_without_a_codec() -> None:
    """Any base, text and size: nothing but latents is made."""
    model = RagMe(unet(), CONFIG)
    pipeline = Pipeline(
        model, DDIMScheduler(**SCHEDULE), collection(), embed, lambda texts: features(len(texts), 7, TEXT, seed=2)
    )
    found = pipeline("left", frames=3, size=(4, 6), k=2, steps=2)
    assert found.video is None and found.latents.shape == (1, 3, 3, 4, 6) and found.retrieved.ids.shape == (1, 2)


def test_codec() -> None:
    codec = VAECodec(parts()["vae"])
    clips = collection().clips_at([3, 0])
    drawn = [codec.encode(clips, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert (codec.channels, codec.factor) == (3, 2) and drawn[0].shape == (2, 3, 5, 8, 4)
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
    decoded = codec.decode(drawn[0])
    with torch.no_grad():
        one = codec.vae.decode(drawn[0][1, :, 3][None] / 0.18215).sample[0]
    torch.testing.assert_close(decoded[1, 3].float(), ((one + 1) / 2).clamp(0, 1) * 255, atol=0.51, rtol=0)


# --- bad input ---


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return loaded(folder)


def shown(*places: int) -> Retrieved:
    ids = torch.tensor([[one] for one in places])
    return Retrieved(ids, torch.ones(ids.shape), torch.ones(ids.shape, dtype=torch.bool))


def bare(pipeline: Pipeline, **change: Any) -> Pipeline:
    made = Pipeline(pipeline.model, pipeline.scheduler, collection(), embed, pipeline.text_states, pipeline.codec)
    vars(made).update(change)
    return made


@pytest.mark.parametrize(("call", "message"), [
    (lambda p: run(p, []), r"prompts: found \[\], expected at least one text"),
    (lambda p: run(p, [3]), r"prompts: found \[3\], expected at least one text"),
    (lambda p: run(p, frames=0), r"frames=0: expected at least 1"),
    (lambda p: run(p, size=(16, 9)), r"size=\(16, 9\): expected a width that 2 divides"),
    (lambda p: run(p, k=0), r"k=0: expected at least 1"),
    (lambda p: run(p, steps=0), r"steps=0: expected at least 1"),
    (lambda p: run(p, eta=2.0), r"eta=2.0: expected a finite number, at least 0 and at most 1"),
    (lambda p: run(p, latents=torch.zeros(2, 3, 5, 8, 5)), r"latents: found shape \(2, 3, 5, 8, 5\), expected \(2, 3, 5, 8, 4\)"),
    (lambda p: run(p, rag_init=True, frames=4), r"clips: found \(5, 3, 16, 8\), expected \(F, 3, H, W\) = \(4, 3, 16, 8\).*Resample"),
    (lambda p: run(p, rag_init=True, size=(8, 8)), r"clips: found \(5, 3, 16, 8\), expected .*\(5, 3, 8, 8\)"),
    (lambda p: run(bare(p, codec=None), rag_init=True), r"codec=None: expected one, since RagInit"),
    (lambda p: run(bare(p, collection=Collection(collection().frames)), rag_init=True), r"clips: found none in the collection"),
    (lambda p: run(bare(p, embed_text=lambda texts: torch.ones(2, 5))), r"query: found shape \(2, 5\), expected \(Q, 12\)"),
    (lambda p: run(bare(p, embed_text=lambda texts: torch.zeros(2, WIDTH))), r"query: found only 0 in row 0, 1"),
    (lambda p: run(p, found=p.retrieve(PROMPTS[:1], 2)), r"found.ids: found shape \(1, 2\), expected \(B=2, K\)"),
    (lambda p: run(p, found=shown(9, 1)), r"found.ids: found places from 1 to 9, expected 0 to \d, those of the collection"),
    (lambda p: run(p, found=shown(-1, 1)), r"found.ids: found places from -1 to 1, expected 0 to"),
    (lambda p: sample(p.model, p.scheduler, torch.zeros(1, 3, 5, 6, 4), p.text_states(["a"])), r"unconditional=None: expected states of"),
    (lambda p: p.codec.encode(torch.zeros(1, 5, 3, 4, 4)), r"clips: found torch.float32, expected bytes"),
    (lambda p: Collection(torch.zeros(0, 6, WIDTH)), r"frames: found an empty collection, expected at least one video"),
    (lambda p: Collection(torch.zeros(2, 6, WIDTH)), r"embeddings: found only 0 in row 0, 1"),
    (lambda p: Collection(torch.ones(2, 6, WIDTH) / 0), r"embeddings: found NaN or infinity in row 0, 1"),
    (lambda p: Collection(torch.ones(2, WIDTH)), r"frames: found shape \(2, 12\), expected \(V, F, D\)"),
    (lambda p: Collection(torch.ones(2, 6, WIDTH), torch.ones(2, 5)), r"mask: found shape \(2, 5\), expected \(V=2, F=6\)"),
    (lambda p: Collection(torch.ones(2, 6, WIDTH), None, torch.ones(3, 5, 3, 4, 4)), r"clips: found 3, expected 2, one for each"),
])  # fmt: skip
def test_bad_input(pipeline: Pipeline, call: Callable[[Pipeline], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(pipeline)


@pytest.mark.parametrize(("call", "message"), [
    (lambda p: run(p, size=32), r"size=32: expected height and width, such as"),
    (lambda p: run(p, size=(32,)), r"size=\(32,\): expected height and width"),
    (lambda p: Collection(np.ones((2, 6, WIDTH))), r"frames: found ndarray, expected a tensor \(V, F, D\)"),
    (lambda p: Collection(torch.ones(2, 6, WIDTH), None, np.ones((2, 5, 3, 4, 4))), r"clips: found ndarray, expected a tensor"),
])  # fmt: skip
def test_wrong_types(pipeline: Pipeline, call: Callable[[Pipeline], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(pipeline)


def test_a_folder_with_parts_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").symlink_to(folder / "unet")
    with pytest.raises(FileNotFoundError, match=r"found no vae, text_encoder, tokenizer, scheduler, expected a text-to-video"):
        Pipeline.from_pretrained(tmp_path, collection(), embed)


