"""The tiny generator: frames as a plane, a codec by its blocks, states of prompts, its schedule; RagMe around it."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet3DConditionModel
from small_ragme import features, move
from torch import Tensor, nn

from vtrlib import shipped
from vtrlib.clip import load
from vtrlib.ragme import (
    Collection,
    Config,
    Pipeline,
    RagMe,
    Rules,
    rag_init,
    signal_level,
    video_embedding,
)
from vtrlib.ragme.tiny import (
    FrameIndexUNet,
    PixelCodec,
    TinyStates,
    dark_scheduler,
    load_generator,
    tiny_unet,
)
from vtrlib.world import DarkStage

WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPTS = ["a red seven moves left", "a white two"]
Given = tuple[Tensor, Tensor, Tensor]


@functools.cache
def moved() -> FrameIndexUNet:
    """All weights moved: temporal convolutions end in zeros at first."""
    made = tiny_unet()
    move(made, size=0.05)
    return made


def inputs(dtype: torch.dtype = torch.float32, frames: int = 5) -> Given:
    latents = features(2, PixelCodec.channels, frames, 4, 2, seed=1, dtype=dtype)
    return latents, torch.tensor([11, 702]), features(2, 7, 64, seed=2, dtype=dtype)


def with_plane(unet: FrameIndexUNet, plane: list[float], given: Given) -> Tensor:
    """v, of what the U-Net of diffusers says is clean when the plane is written out: x0 = √ᾱ x_t − √(1−ᾱ) v."""
    latents, t, states = given
    levels = latents.new_tensor(plane)[None, None, :, None, None].expand(2, 1, -1, 4, 2)
    clean: Tensor = UNet3DConditionModel.forward(unet, torch.cat([latents, levels], 1), t, states).sample
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = (1 - betas).cumprod(0)[t]
    v = [(k.sqrt() * x - c) / (1 - k).sqrt() for k, x, c in zip(kept, latents, clean, strict=True)]
    return torch.stack(v).to(clean.dtype)


# --- the U-Net ---


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.no_grad()
def test_the_plane_counts_frames(frames: int) -> None:
    """From -1 to 1 in equal steps; whatever the number of frames and however the U-Net is called."""
    given = inputs(frames=frames)
    plane = [-1 + 2 * f / max(frames - 1, 1) for f in range(frames)]
    found = moved()(*given).sample
    torch.testing.assert_close(found, with_plane(moved(), plane, given), atol=1e-4, rtol=0)
    assert found.shape == given[0].shape
    assert moved()(given[0], given[1], encoder_hidden_states=given[2], return_dict=False)[0].equal(found)


@torch.no_grad()
def test_order_comes_from_the_plane() -> None:
    """Without it, and while temporal convolutions are zero, a clip's reversal is answered by the answer's reversal."""
    unet, (latents, t, states) = tiny_unet(), inputs()
    backwards = (latents.flip(2), t, states)
    even, forth, back = [0.0] * 5, [-1.0, -0.5, 0.0, 0.5, 1.0], [1.0, 0.5, 0.0, -0.5, -1.0]
    blind = with_plane(unet, even, (latents, t, states))
    torch.testing.assert_close(with_plane(unet, even, backwards).flip(2), blind, atol=1e-4, rtol=0)
    told = with_plane(unet, forth, (latents, t, states))
    torch.testing.assert_close(with_plane(unet, back, backwards).flip(2), told, atol=1e-4, rtol=0)
    torch.testing.assert_close(unet(latents, t, states).sample, told, atol=1e-4, rtol=0)
    for other in (blind, with_plane(unet, back, (latents, t, states)), with_plane(unet, forth, backwards).flip(2)):
        assert (other - told).abs().max() > 1e-2


@torch.no_grad()
def test_the_plane_takes_the_dtype() -> None:
    plane = [-1, -1 / 3, 1 / 3, 1]  # no float holds a third: each dtype has its own nearest
    double, half = (inputs(dtype, frames=4) for dtype in (torch.float64, torch.bfloat16))
    found = tiny_unet().double()(*double).sample
    torch.testing.assert_close(found, with_plane(tiny_unet().double(), plane, double), atol=1e-4, rtol=0)
    torch.testing.assert_close(tiny_unet()(*inputs(frames=4)).sample.double(), found, atol=1e-4, rtol=0)
    rough = tiny_unet().bfloat16()(*half).sample
    assert rough.dtype == torch.bfloat16 and (rough.double() - found).std() < 0.05 * found.std()


def test_shape_and_seed() -> None:
    """1.36 M parameters; weights follow the seed, and torch's global generator is left as it was."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = tiny_unet(), tiny_unet(0), tiny_unet(1)
    assert torch.random.get_rng_state().equal(before)
    assert round(sum(weight.numel() for weight in one.parameters()) / 1e6, 2) == 1.36 and not one.training
    assert all(a.equal(b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.config.out_channels == PixelCodec.channels == one.config.in_channels - 1


@torch.no_grad()
def test_nothing_is_dropped(tmp_path: Path) -> None:
    """In training it computes what it does in evaluation, when loaded too; diffusers' own would not."""
    given = inputs()
    recorded(moved(), tmp_path)
    for unet in (moved(), load_generator(tmp_path)):
        expected = unet(*given).sample
        try:
            assert unet.train()(*given).sample.equal(expected)
        finally:
            unet.eval()
    plain = FrameIndexUNet.from_pretrained(tmp_path).train()
    assert (plain(*given).sample - expected).abs().max() > 1e-3


# --- on disk ---


def recorded(unet: FrameIndexUNet, folder: Path) -> str:
    unet.save_pretrained(folder)
    found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / "recipe.json").write_text(json.dumps({"sha256": found}))
    return found


@torch.no_grad()
def test_saved_and_loaded(tmp_path: Path) -> None:
    recorded(moved(), tmp_path / "whole")
    expected = moved()(*inputs()).sample
    assert FrameIndexUNet.from_pretrained(tmp_path / "whole").eval()(*inputs()).sample.equal(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = load_generator(tmp_path / "whole")
    assert type(whole) is FrameIndexUNet and not whole.training and whole(*inputs()).sample.equal(expected)
    recorded(tiny_unet().half(), tmp_path / "half")
    loaded = load_generator(str(tmp_path / "half"))
    for found, of in zip(loaded.parameters(), tiny_unet().parameters(), strict=True):
        assert found.dtype == torch.float32 and found.equal(of.half().float())


def test_a_folder_at_fault(tmp_path: Path) -> None:
    sha = recorded(tiny_unet(), tmp_path)
    shipped.verify(tmp_path, WEIGHTS)
    with pytest.raises(FileNotFoundError, match=r"/model\.safetensors: is missing\. Install vtrlib again"):
        shipped.verify(tmp_path)  # that name is the default
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    other = hashlib.sha256(data).hexdigest()
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: sha256 is {other}, expected {sha}\. Install vtrlib again"):
        load_generator(tmp_path)
    for part in ("config.json", WEIGHTS, "recipe.json"):
        (tmp_path / part).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{re.escape(part)}: is missing\. Install vtrlib again"):
            load_generator(tmp_path)


# --- the schedule ---


def test_schedule() -> None:
    """ᾱ by its definition; it ends where something is left, and predicts v."""
    made, product = dark_scheduler(), 1.0
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
        assert float(made.alphas_cumprod[i]) == pytest.approx(product, rel=1e-4)
    assert math.sqrt(signal_level(made)) == pytest.approx(0.068, abs=5e-4)
    assert made.config.prediction_type == "v_prediction" and not made.config.clip_sample
    made.set_timesteps(50)
    assert made.timesteps[0] == 981 and made.timesteps[-1] == 1 and made.final_alpha_cumprod == made.alphas_cumprod[0]


# --- the codec ---


def clips(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_latent_is_a_block_of_halved_pixels() -> None:
    """Number by number: channel 16 c + 4 i + j is pixel (i, j) of a 4 × 4 block of colour c, at half the size."""
    given = clips(2, 3, 3, 16, 8)
    found = PixelCodec().encode(given)
    assert found.shape == (2, 48, 3, 2, 1) and found.dtype == torch.float32
    expected = torch.zeros_like(found)
    for n, f, c, y, x in ((n, f, c, y, x) for n in range(2) for f in range(3) for c in range(3)
                          for y in range(8) for x in range(4)):  # fmt: skip
        mean = sum(given[n, f, c, 2 * y + i, 2 * x + j].item() for i in (0, 1) for j in (0, 1)) / 4
        expected[n, 16 * c + 4 * (y % 4) + x % 4, f, y // 4, x // 4] = mean / 127.5 - 1 + 0.73
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def doubled(small: Tensor) -> tuple[Tensor, Tensor]:
    """Sixteenths of a bilinear doubling, integers, and the largest and smallest of the four pixels that enter."""
    height, width = small.shape[-2:]
    total = torch.zeros(*small.shape[:-2], 2 * height, 2 * width, dtype=torch.long)
    spread = torch.zeros_like(total)
    for y in range(2 * height):
        for x in range(2 * width):
            rows = [(y // 2, 3), (min(max(y // 2 + (1 if y % 2 else -1), 0), height - 1), 1)]
            columns = [(x // 2, 3), (min(max(x // 2 + (1 if x % 2 else -1), 0), width - 1), 1)]
            parts = [(small[..., i, j].long(), a * b) for i, a in rows for j, b in columns]
            total[..., y, x] = sum(part * weight for part, weight in parts)
            levels = torch.stack([part for part, _ in parts])
            spread[..., y, x] = levels.amax(0) - levels.amin(0)
    return total, spread


def test_round_trip_is_exact_but_for_the_doubling() -> None:
    """Of clips in blocks of 2 × 2: a doubling of the blocks, to the byte; so what has equal neighbours comes back."""
    codec, small = PixelCodec(), clips(2, 3, 3, 8, 4)
    small[:, :, :, :4] = small[:, :, :, :1, :1]  # the upper half of one level
    blocks = small.repeat_interleave(2, 3).repeat_interleave(2, 4)
    found = codec.decode(codec.encode(blocks))
    assert found.shape == blocks.shape and found.dtype == torch.uint8
    total, spread = doubled(small)
    tie = total % 16 == 8  # a half may be rounded either way
    assert (found.long() - total / 16).abs().max() <= 0.5
    assert found[~tie].equal(((total + 8) // 16)[~tie].byte()) and not tie.all()
    assert found[spread == 0].equal(blocks[spread == 0]) and 0.3 < (spread == 0).float().mean() < 0.6
    assert not found.equal(blocks)
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None, None].expand(256, 1, 3, 8, 8)
    assert codec.decode(codec.encode(levels)).equal(levels)


def test_what_a_latent_holds_is_exact() -> None:
    """Blocks' bytes stand in it: no more is lost than halving loses."""
    small = clips(2, 3, 3, 8, 4)
    latents = PixelCodec().encode(small.repeat_interleave(2, 3).repeat_interleave(2, 4))
    levels = nn.functional.pixel_shuffle(latents.transpose(1, 2), 4) - 0.73
    assert ((levels + 1) * 127.5).round().byte().equal(small)


def test_the_mean_of_latents_is_the_latent_of_the_mean() -> None:
    """What RagInit needs of a codec."""
    mean = clips(4, 3, 16, 8).long().clamp(80, 170)
    aside = [clips(4, 3, 16, 8, seed=seed).long() % 80 - 40 for seed in (1, 2)]
    three = torch.stack([mean + aside[0], mean + aside[1], mean - aside[0] - aside[1]])
    assert 0 <= three.min() and three.max() <= 255
    codec = PixelCodec()
    latents, of_mean = codec.encode(three.byte()), codec.encode(mean[None].byte())
    torch.testing.assert_close(latents.mean(0, keepdim=True), of_mean, atol=2e-6, rtol=0)
    assert (latents - of_mean).abs().max() > 0.1
    # So Eq. 7 starts from the mean clip.
    noise = features(1, 48, 4, 2, 1, seed=3)
    begun = rag_init(dark_scheduler(), latents[None], noise)
    level = signal_level(dark_scheduler())
    torch.testing.assert_close(begun, level**0.5 * of_mean + (1 - level) ** 0.5 * noise, atol=2e-6, rtol=0)


def test_latents_of_the_stage_and_of_anything() -> None:
    """The ground is about 0; and a clip hardly shows at the schedule's last step, which it would at a variance of 1."""
    latents = PixelCodec().encode(DarkStage("train", size=100).frames)
    assert latents.shape == (100, 48, 8, 4, 4)
    assert abs(float(latents.median())) < 0.1 and 0.2 < float(latents.std()) < 0.3
    loud = (signal_level(dark_scheduler()) * latents.square().flatten(1).sum(1).mean()).sqrt()  # in spreads of the noise
    assert 1 < loud < 2 and loud / latents.std() > 5
    far = PixelCodec().decode(torch.stack([torch.full((48, 1, 1, 1), level) for level in (-9.0, 9.0)]))
    assert far[0].eq(0).all() and far[1].eq(255).all()
    half = latents[:3].bfloat16()
    apart = PixelCodec().decode(half).int() - PixelCodec().decode(latents[:3]).int()
    assert apart.abs().max() <= 2  # 0.4 % of at most 255 levels, halved


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda: PixelCodec().encode(clips(1, 2, 3, 12, 8)), ValueError, r"clips: found frames of 12 × 8, expected sides that 8 divides"),
    (lambda: PixelCodec().encode(clips(1, 2, 3, 8, 9)), ValueError, r"clips: found frames of 8 × 9, expected sides that 8 divides"),
    (lambda: PixelCodec().encode(clips(1, 2, 3, 8, 8).float()), ValueError, r"clips: found torch.float32, expected bytes \(uint8\)"),
    (lambda: PixelCodec().encode(clips(2, 3, 8, 8)), ValueError, r"clips: found shape \(2, 3, 8, 8\), expected \(n, F, c=3, H, W\)"),
    (lambda: PixelCodec().encode(clips(1, 2, 4, 8, 8)), ValueError, r"clips: found shape \(1, 2, 4, 8, 8\), expected .*c=3"),
    (lambda: PixelCodec().encode(clips(0, 2, 3, 8, 8)), ValueError, r"clips: found shape \(0, 2, 3, 8, 8\), .*no axis empty"),
    (lambda: PixelCodec().encode(None), TypeError, r"clips: found NoneType, expected a tensor"),  # type: ignore[arg-type]
])  # fmt: skip
def test_clips_refused(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# --- states of prompts ---


def test_states() -> None:
    """Of each prompt by itself its words and places, normed, then zeros; opposite words are far apart."""
    towers, texts = load("tiny").frozen(), ["", "a red seven", "an eight in purple flashes on and off"]
    found = TinyStates()(texts)
    assert found.shape == (3, 12, 64) and not found.requires_grad
    for row, text in enumerate(texts):
        count = 2 + len(text.split())
        ids, _ = towers.tokenize([text])
        tower = towers.model.text_model
        first = tower(input_ids=ids, output_hidden_states=True).hidden_states[0][0]
        about = first - first.mean(-1, keepdim=True)
        norm = tower.final_layer_norm
        alone = about / (about.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
        assert len(alone) == count
        torch.testing.assert_close(found[row, :count], alone, atol=1e-4, rtol=0)
        assert found[row, count:].eq(0).all() and found[row, :count].ne(0).any(1).all()
    torch.testing.assert_close(TinyStates(towers, 5)(texts[1:2]), found[1:2, :5], atol=1e-4, rtol=0)
    up, down, three = TinyStates(towers)(["a red seven moves up", "a red seven moves down", "a red three moves up"])
    ways, things = ((up - other).norm(dim=-1) for other in (down, three))
    assert 6.5 < ways.max() < 7 and 9.5 < things.max() < 10.5
    last = [towers.token_states(*towers.tokenize([f"a red seven moves {way}"]))[0] for way in ("up", "down")]
    assert (last[0] - last[1]).norm(dim=-1).max() < 1.8


def test_towers_given_are_frozen() -> None:
    towers = load("tiny").train()
    states = TinyStates(towers)
    assert states.towers is towers and not towers.training
    assert not any(weight.requires_grad for weight in towers.parameters())


@pytest.mark.parametrize(("prompts", "kind", "message"), [
    (["a red seven", "a red cat"], ValueError, r"prompts: found words outside the tiny vocabulary in 'a red cat', expected words"),
    (["a red seven " * 4], ValueError, r"prompts: found one of 14 tokens, expected at most 12, \[bos\] and \[eos\] included"),
    ([], ValueError, r"texts is empty"),
    ("a red seven", TypeError, r"texts='a red seven': expected a list of sentences"),
])  # fmt: skip
def test_prompts_refused(prompts: list[str], kind: type[Exception], message: str) -> None:
    """And no warning before, as if an unknown word had been read."""
    with warnings.catch_warnings(), pytest.raises(kind, match=message):
        warnings.simplefilter("error")
        TinyStates()(prompts)


# --- RagMe around it ---


def wrapped(seed: int = 0) -> RagMe:
    return RagMe(tiny_unet(seed), Config(width=64, layers=1, heads=4)).eval()


@torch.no_grad()
def test_wrapped_is_the_base_at_first() -> None:
    """And without neighbours, when it is trained; bit for bit. Its channels are the latents', without the plane."""
    given, z = inputs(), features(2, 3, 6, 64, seed=4)
    expected = tiny_unet()(*given).sample
    model = wrapped()
    assert model(*given, z).equal(expected) and model(*given).equal(expected)
    move(model.infusers)
    assert (model(*given, z) - expected).abs().max() > 1e-2 and model(*given).equal(expected)
    assert model(*given, z, torch.zeros(2, 3)).equal(expected)
    assert model.remove()(*given).sample.equal(expected)
    with pytest.raises(ValueError, match=r"latents: found shape \(2, 49, 5, 4, 2\), expected \(B, C=48, F, H, W\)"):
        model(features(2, 49, 5, 4, 2, seed=1), *given[1:])


@functools.cache
def pipeline() -> Pipeline:
    stage, towers = DarkStage("train", size=12), load("tiny").frozen()
    collection = Collection(towers.encode_frames(stage.frames), clips=stage.frames)
    model = wrapped()
    move(model.infusers, size=0.2)
    return Pipeline(model, dark_scheduler(), collection, towers.encode_text, TinyStates(towers), PixelCodec())


def run(seed: int = 5, **change: object) -> tuple[Tensor, Tensor]:
    """Video and latents; two steps."""
    given = {"frames": 8, "size": (32, 32), "k": 3, "steps": 2, "guidance": 2.0, **change}
    made = pipeline()(PROMPTS, generator=torch.Generator().manual_seed(seed), **given)  # type: ignore[arg-type]
    assert made.video is not None and made.video.shape == (2, 8, 3, 32, 32) and made.video.dtype == torch.uint8
    assert made.video.equal(PixelCodec().decode(made.latents)) and made.latents.isfinite().all()
    return made.video, made.latents


@torch.no_grad()
def test_end_to_end() -> None:
    """Deterministic; what is retrieved shows, in both ways; without neighbours the base alone has sampled."""
    video, latents = run(rag_init=True)
    assert run(rag_init=True)[0].equal(video)
    _, base = run(k=None)
    for other in (base, run(rag_ca=False, rag_init=True)[1], run()[1]):
        assert (other - latents).abs().amax((1, 2, 3, 4)).min() > 1e-3
    assert run(rules=Rules(0.965, 0.9999, "greedy"), rag_init=True)[1].equal(base)


@torch.no_grad()
def test_the_base_by_hand() -> None:
    """DDIM on v, from ᾱ: x0 = √ᾱ x − √(1−ᾱ) v and ε = √ᾱ v + √(1−ᾱ) x; both terms of the guidance."""
    unet, states = tiny_unet(), TinyStates()
    x = torch.randn(2, 48, 8, 4, 4, generator=torch.Generator().manual_seed(5))
    bars = dark_scheduler().alphas_cumprod.tolist()
    for t in (501, 1):
        without, with_text = (unet(x, t, states(texts)).sample for texts in (["", ""], PROMPTS))
        v = without + 2.0 * (with_text - without)
        bar, before = bars[t], bars[max(t - 500, 0)]
        clean = math.sqrt(bar) * x - math.sqrt(1 - bar) * v
        noise = math.sqrt(bar) * v + math.sqrt(1 - bar) * x
        x = math.sqrt(before) * clean + math.sqrt(1 - before) * noise
    torch.testing.assert_close(run(k=None)[1], x, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_sampling_starts_from_the_mean_clip() -> None:
    """Eq. 7 with this codec: the same as if the mean of the retrieved clips had been encoded."""
    made = pipeline()
    found = made.retrieve(PROMPTS, 3)
    vectors = video_embedding(made.collection.frames)
    assert found.mask.all() and found.similarities[0, 0] == pytest.approx(
        float((vectors @ made.embed_text(PROMPTS[:1])[0]).max()), abs=1e-5
    )
    noise = features(2, 48, 8, 4, 4, seed=6)
    level = signal_level(dark_scheduler())
    for row, start in zip(found.ids.tolist(), made.start(noise, found, 2) - (1 - level) ** 0.5 * noise, strict=True):
        mean = made.collection.clips_at(row).float().mean(0)
        halved = nn.functional.avg_pool2d(mean / 127.5 - 1, 2)
        expected = nn.functional.pixel_unshuffle(halved + 0.73, 4).transpose(0, 1)
        torch.testing.assert_close(start / level**0.5, expected, atol=1e-4, rtol=0)
