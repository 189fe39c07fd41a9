"""Items, queries and truth: the same for any worker, and what the world card says."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vtrlib.world import MovingDigits, card, collate
from vtrlib.world.grammar import MOTION_PHRASES
from vtrlib.world.screenplay import digit_images, image_pools

# sha256 over captions; a new hash needs a new WORLD_VERSION
WORDS = {
    ("train", "trimmed"): "665379e1f34b86e3",
    ("val", "untrimmed"): "c99711edd1ae89c3",
}


def fingerprint(video):
    text = repr((video.moments, video.frame_captions, video.scene, video.duplicate_of))
    return hashlib.sha256(video.frames.numpy().tobytes() + video.mask.numpy().tobytes() + text.encode()).hexdigest()


@pytest.mark.parametrize("split, view", WORDS)
def test_word_hash(split, view):
    world = MovingDigits(split, view)
    words = [q.text for p in range(card.PARAPHRASES) for q in world.queries(p)]
    words += [c for i in range(12) for c in (*world[i].frame_captions, *world.pretraining_captions(i))]
    assert hashlib.sha256("\n".join(words).encode()).hexdigest()[:16] == WORDS[split, view]


@pytest.mark.parametrize("view", card.VIEWS)
def test_an_item_is_the_same_for_any_order_worker_and_process(view):
    world = MovingDigits("val", view, size=13)
    alone = [fingerprint(world[i]) for i in range(13)]
    assert len(set(alone)) == 13
    assert [fingerprint(v) for v in world.__getitems__(list(range(12, -1, -1)))] == alone[::-1]
    for workers in (0, 1, 2):
        loader = DataLoader(world, batch_size=4, num_workers=workers, collate_fn=collate)
        assert [fingerprint(v) for batch in loader for v in batch.videos] == alone
    code = f"""
from vtrlib.world import MovingDigits
from tests.test_world_dataset import fingerprint
print(fingerprint(MovingDigits("val", {view!r})[7]))
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == alone[7]


def test_shapes_and_types():
    batch = collate(MovingDigits("test", "untrimmed").__getitems__([5, 599, -1]))
    assert batch.frames.shape == (3, 64, 3, 32, 32) and batch.frames.dtype == torch.uint8
    assert batch.mask.shape == (3, 64, 32, 32) and batch.mask.dtype == torch.bool
    assert fingerprint(batch.videos[1]) == fingerprint(batch.videos[2])
    frames, mask = MovingDigits("test", "untrimmed").frames([5, 599])
    assert torch.equal(frames, batch.frames[:2]) and torch.equal(mask, batch.mask[:2])
    assert [len(MovingDigits(s, v)) for s in card.SPLITS for v in card.VIEWS] == [2000, 2000, 300, 300, 600, 600]


@pytest.mark.parametrize("split", card.SPLITS)
def test_untrimmed_videos_keep_to_the_card(split):
    world = MovingDigits(split, "untrimmed", size=120)
    for video in world.__getitems__(range(120)):
        described = sum(not m.is_distractor for m in video.moments)
        assert described in card.CAPTIONED and len(video.moments) - described in card.DISTRACTORS
        assert video.events == tuple(m for m in video.moments if m.captions)
        end = 0
        for moment in video.moments:
            assert end <= moment.start and moment.end - moment.start in card.LENGTHS and moment.end <= 64
            end = moment.end
            assert len(set(moment.captions)) == len(moment.captions)
            assert video.mask[moment.start : moment.end].any() and moment.degradation in card.DEGRADATIONS
            for caption in moment.captions:
                assert card.DIGIT_WORDS[moment.event.digit] in caption and card.COLOURS[moment.event.colour] in caption
                assert any(p in caption for p in MOTION_PHRASES[moment.event.motion])
                assert (moment.cue is None) != (moment.cue is not None and moment.cue in caption)
        covered = {f for m in video.moments for f in range(m.start, m.end)}
        assert not video.mask[[f for f in range(64) if f not in covered]].any()
        assert len(covered) < 64, "some frame must show the scene"


def test_a_frame_caption_says_what_the_frame_shows_and_no_motion():
    motion_words = {p for phrases in MOTION_PHRASES for p in phrases}
    seen = set()
    for video in MovingDigits("train", "untrimmed").__getitems__(range(60)):
        for f, caption in enumerate(video.frame_captions):
            assert not any(p in caption for p in motion_words)
            digit = caption.startswith(("a ", "an ")) and caption != "a closed curtain"
            assert digit == bool(video.mask[f].any())
            inside = [m for m in video.moments if m.start <= f < m.end]
            if not inside:
                assert caption == f"nothing {card.SCENE_CUES[video.scene]}"
            elif digit and inside[0].degradation is None:
                event = inside[0].event
                assert f"{card.COLOURS[event.colour]} {card.DIGIT_WORDS[event.digit]}" in caption
                assert caption.endswith(card.SCENE_CUES[video.scene])
            if digit:
                ys, xs = np.nonzero(video.mask[f].numpy())
                place = {"on the left": xs.mean() < 16, "on the right": xs.mean() > 15,
                         "at the top": ys.mean() < 16, "at the bottom": ys.mean() > 15}  # fmt: skip
                assert all(holds for words, holds in place.items() if words in caption), caption
            seen.update(caption.split())
    assert {"small", "large", "tilted", "upside-down", "blur", "grey", "curtain", "fog", "nothing"} <= seen


def test_pretraining_captions_say_motion_at_the_fixed_rate():
    world = MovingDigits("train", "trimmed")
    says = shows = 0
    for i in range(0, 400):
        video, captions = world[i], world.pretraining_captions(i)
        for plain, caption in zip(video.frame_captions, captions, strict=True):
            if caption != plain:
                assert caption.startswith(plain)
                assert any(p in caption for p in MOTION_PHRASES[video.moments[0].event.motion])
            says, shows = says + (caption != plain), shows + (not plain.startswith("nothing"))
    assert abs(says / shows - 1 / card.MOTION_WORD_EVERY) < 4 * np.sqrt(3 / 16 / shows)


def test_queries_and_true_positives_agree_with_the_rendered_videos():
    """Oracle: go through the videos themselves, moment by moment."""
    world = MovingDigits("val", "untrimmed", size=70)
    videos = world.__getitems__(range(70))
    queries = world.queries(1)
    expected = [(v.index, k) for v in videos for k, m in enumerate(v.moments) if m.captions]
    assert [(q.video, q.moment) for q in queries] == expected
    shared = 0
    for query in queries:
        moment = videos[query.video].moments[query.moment]
        assert query.text == moment.captions[1] and query.event == moment.event
        exact = {s for s in range(6) if moment.cue in (None, card.SCENE_CUES[s], card.COARSE_CUES[s])}
        assert query.scenes == exact
        truth = [v.index for v in videos if v.scene in exact and any(m.event == query.event for m in v.moments)]
        assert world.true_positives(query).tolist() == truth and query.video in truth
        shared += len(truth) > 1
    assert shared > 50


def test_handwriting_is_disjoint_between_splits():
    pools = [set(image_pools(split)[0].ravel()) - {-1} for split in card.SPLITS]
    assert sum(map(len, pools)) == len(set.union(*pools)) == len(digit_images())
    assert [round(100 * len(p) / 1797) for p in pools] == list(card.IMAGE_SHARES)
    pictures = [{digit_images()[i].tobytes() for i in pool} for pool in pools]
    assert not pictures[0] & pictures[1] and not pictures[0] & pictures[2] and not pictures[1] & pictures[2]
    for split, pool in zip(card.SPLITS, pools, strict=True):
        play = MovingDigits(split, "untrimmed").screenplay
        assert set(play.image.ravel()) <= pool and set(play.clutter.ravel()) <= pool


def test_near_duplicates_repeat_the_story_and_not_the_pixels():
    world = MovingDigits("train", "trimmed")
    play = world.screenplay
    (repeats,) = np.nonzero(play.duplicate_of >= 0)
    assert abs(len(repeats) / len(world) - 1 / card.DUPLICATE_EVERY) < 0.015
    assert (play.duplicate_of[play.duplicate_of[repeats]] == -1).all()
    for i in repeats[:20]:
        copy, source = world[int(i)], world[int(play.duplicate_of[i])]
        assert copy.duplicate_of == source.index < copy.index
        assert copy.moments[0].event == source.moments[0].event and copy.scene == source.scene
        change = (copy.frames.float() - source.frames.float()).abs().mean()
        assert 0 < change < 20
        same_scene = (k for k in np.flatnonzero(play.scene == source.scene) if k not in (i, source.index))
        stranger = world[int(next(same_scene))]
        assert change < (stranger.frames.float() - source.frames.float()).abs().mean()


def test_opposite_motions_are_balanced_in_every_scene():
    """Else a scene would give a direction away, and one frame would beat chance."""
    weights = card.MOTION_WEIGHTS
    assert all((weights[:, m] == weights[:, card.OPPOSITE[m]]).all() for m in range(8))


def test_scenes_make_events_likely_as_the_card_says():
    play = MovingDigits("train", "untrimmed").screenplay
    for scene in range(6):
        here = play.used & (play.scene == scene)[:, None]
        for values, weights in (
            (play.digit, card.DIGIT_WEIGHTS),
            (play.colour, card.COLOUR_WEIGHTS),
            (play.motion, card.MOTION_WEIGHTS),
        ):
            p = weights[scene] / weights[scene].sum()
            share = np.bincount(values[here], minlength=len(p)) / here.sum()
            assert np.abs(share - p).max() < 5 * np.sqrt(0.25 / here.sum())


@pytest.mark.parametrize("what", ["scenes", "colours"])
def test_cross_domain_splits_share_nothing(what):
    seen, unseen = (MovingDigits("train", "untrimmed", domain=f"{d} {what}").screenplay for d in ("seen", "unseen"))
    values = [set(p.scene) if what == "scenes" else set(p.colour[p.used]) for p in (seen, unseen)]
    assert values[0] == {0, 1, 2, 3} and values[1] == {4, 5}


def test_seeds_views_splits_and_domains_are_other_worlds():
    worlds = [MovingDigits("val", seed=s) for s in (0, 1, 2, 2**62)]
    worlds += [MovingDigits("test"), MovingDigits("val", domain="seen scenes"), MovingDigits("val", "untrimmed")]
    stories = {(w.screenplay.texture[:9].tobytes(), w.screenplay.digit[:9, 0].tobytes()) for w in worlds}
    assert len(stories) == len(worlds)


def test_negative_indices_count_from_the_end_of_a_sized_world():
    world = MovingDigits("val", size=5)
    assert fingerprint(world[-2]) == fingerprint(world[3]) == fingerprint(MovingDigits("val")[3])
    assert world.pretraining_captions(-2) == world.pretraining_captions(3)


def test_the_first_video_can_be_repeated():
    """Index 0 is a source like any other, not a word for none."""
    for seed in range(60):
        world = MovingDigits("train", seed=seed)
        copies = np.flatnonzero(world.screenplay.duplicate_of == 0)
        if len(copies):
            assert world[int(copies[0])].duplicate_of == 0
            return
    raise AssertionError("no seed repeats its first video")


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: MovingDigits("valid"), ValueError, "split='valid'.*'train', 'val', 'test'.*Did you mean 'val'"),
        (lambda: MovingDigits("val", "untrimed"), ValueError, "view='untrimed'.*Did you mean 'untrimmed'"),
        (lambda: MovingDigits("val", domain="seen"), ValueError, "domain='seen'.*'unseen colours'"),
        (lambda: MovingDigits("val", size=0), ValueError, "size=0: expected between 1 and 300"),
        (lambda: MovingDigits("val", size=301), ValueError, "size=301: expected between 1 and 300"),
        (lambda: MovingDigits("val", size=2.5), TypeError, "size=2.5.*expected an integer"),
        (lambda: MovingDigits("val", seed=-1), ValueError, "seed=-1"),
        (lambda: MovingDigits("val")[300], IndexError, "index=300: MovingDigits.*videos 0 to 299"),
        (lambda: MovingDigits("val", size=5)[-6], IndexError, "index=-6.*videos 0 to 4"),
        (lambda: MovingDigits("val")["a"], TypeError, "index='a'"),
        (lambda: MovingDigits("val").queries(3), ValueError, "paraphrase=3: expected between 0 and 2"),
    ],
)
def test_bad_input_is_named(make, error, says):
    with pytest.raises(error, match=says):
        make()
