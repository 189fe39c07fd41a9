"""Pseudo captions of Moving Digits: what each variant says, and how often it is wrong."""

import hashlib
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from vtrlib.world import MovingDigits, card, pseudo_captions
from vtrlib.world.captioner import ERROR_EVERY, VARIANTS, erroneous, shuffled_videos
from vtrlib.world.grammar import MOTION_PHRASES, frame_captions
from vtrlib.world.stage import stage

# sha256 over sentences; another hash is another teacher for every model trained with them
WORDS = {
    ("train", "trimmed", "guided"): "5122b580a72eb115",
    ("train", "trimmed", "unguided"): "bc72441db5ace832",
    ("val", "untrimmed", "shuffled"): "7deeeb7e4673ce0a",
    ("test", "untrimmed", "guided"): "c14b28162c28521d",
}
FRAMES = {"trimmed": 8, "untrimmed": 64}
PHRASES = [phrase for synonyms in MOTION_PHRASES for phrase in synonyms]
CUES = (*card.SCENE_CUES, *card.COARSE_CUES, "in the fog")


def words(view, video=5):
    """Every sentence about one video of the validation split, for a comparison between processes."""
    world = MovingDigits("val", view)
    queries = [query for query in world.queries() if query.video == video]
    return "\n".join(s for v in VARIANTS for told in pseudo_captions(world, queries, variant=v) for s in told)


@pytest.mark.parametrize("split, view, variant", WORDS)
def test_word_hash(split, view, variant):
    world = MovingDigits(split, view, size=60)
    told = pseudo_captions(world, world.queries(1), variant=variant)
    text = "\n".join(sentence for sentences in told for sentence in sentences)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == WORDS[split, view, variant]


@pytest.mark.parametrize("split, view", [("train", "trimmed"), ("test", "trimmed"), ("val", "untrimmed")])
def test_realised_share_of_errors(split, view):
    size = {"trimmed": 300, "untrimmed": 60}[view]
    world = MovingDigits(split, view, size=size)
    queries = [query for query in world.queries() if query.moment == world.screenplay.captioned[query.video].argmax()]
    assert len(queries) == size
    drawn = np.stack([erroneous(world, query.video, FRAMES[view]) for query in queries])
    for variant in VARIANTS:
        told, right = (pseudo_captions(world, queries, variant=variant, errors=e) for e in (True, False))
        wrong = np.array(told) != np.array(right)
        source = shuffled_videos(world)[[q.video for q in queries]] if variant == "shuffled" else None
        expected = drawn if source is None else np.stack([erroneous(world, int(s), FRAMES[view]) for s in source])
        assert (wrong == expected).all()
        share, n = wrong.mean(), wrong.size
        print(f"{split} {view} {variant}: {wrong.sum()} of {n} sentences wrong, {share:.4f}")
        assert abs(share - 1 / ERROR_EVERY) < 4 * (7 / 64 / n) ** 0.5  # binomial; 1/8 · 7/8


def test_an_error_names_one_wrong_thing():
    world = MovingDigits("train", "untrimmed", size=40)
    queries, kinds = world.queries(), Counter()
    for variant in ("guided", "unguided"):
        for told, right in zip(
            *(pseudo_captions(world, queries, variant=variant, errors=e) for e in (True, False)), strict=True
        ):
            for wrong, good in zip(told, right, strict=True):
                if wrong == good:
                    continue
                if good.startswith(("nothing", "a closed curtain")):
                    made_up = re.sub("nothing|a closed curtain", "", good)
                    assert re.fullmatch(rf"a \w+ \w+{made_up}", wrong), (wrong, good)
                    kinds["made up"] += 1
                    continue
                changed = [(a, b) for a, b in zip(wrong.split()[1:], good.split()[1:], strict=True) if a != b]
                assert len(changed) == 1, (wrong, good)  # its article may change with it
                pair = set(changed[0])
                named = "digit" if pair <= set(card.DIGIT_WORDS) else "colour"
                assert named == "digit" or pair <= set(card.COLOURS)
                kinds[named] += 1
    both = kinds["digit"] + kinds["colour"]
    assert abs(kinds["digit"] / both - 0.5) < 0.1 and kinds["made up"] > 100, kinds


@pytest.mark.parametrize("view", card.VIEWS)
def test_the_same_in_any_order_company_and_process(view):
    world, small = MovingDigits("val", view), MovingDigits("val", view, size=13)
    queries = [query for query in world.queries() if query.video < 13]
    for variant in VARIANTS:
        whole = pseudo_captions(world, queries, variant=variant)
        assert len(set(whole)) > 10
        assert pseudo_captions(world, queries[::-1], variant=variant) == whole[::-1]
        assert [pseudo_captions(small, [query], variant=variant)[0] for query in queries] == whole
        some = pseudo_captions(world, queries, [5, 0, 5], variant=variant)
        assert some == [(told[5], told[0], told[5]) for told in whole]
    code = f"from tests.test_world_captioner import words; print(words({view!r}))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == words(view)
    other = MovingDigits("val", view, seed=1, size=13)
    assert pseudo_captions(other, other.queries()) != pseudo_captions(small, small.queries())


def test_guided_captions_are_the_frame_completed_by_the_query():
    world = MovingDigits("test", "untrimmed", size=30)
    play, staging = world.screenplay, stage(world.screenplay)
    completed = Counter()
    queries = world.queries(2)
    for query, told in zip(queries, pseudo_captions(world, queries, errors=False), strict=True):
        n = query.video
        alone = frame_captions(play, staging, n)
        cue = next((c for c in CUES if query.text.endswith(c)), None)
        (phrase,) = (p for p in PHRASES if p in query.text)
        event = f"{card.COLOURS[query.event.colour]} {card.DIGIT_WORDS[query.event.digit]}"
        for f, (sentence, seen) in enumerate(zip(told, alone, strict=True)):
            slot = staging.slot[n, f]
            if cue:
                seen = seen.replace("in the fog", cue)
            happens = slot >= 0 and query.event.digit == play.digit[n, slot]
            happens = happens and (query.event.colour, query.event.motion) == (
                play.colour[n, slot],
                play.motion[n, slot],
            )
            if not happens:
                assert sentence == (f"{seen} {cue}" if cue and staging.curtain[n, f] else seen)
                continue
            assert event in sentence and sentence.endswith(f"that {phrase}")
            if staging.visible[n, f] and staging.degradation[n, f] == 0:
                assert sentence == f"{seen} that {phrase}"
            else:
                completed[card.DEGRADATIONS[staging.degradation[n, f]]] += 1
                # the parted curtain shows the digit, if not its motion
                assert (event in seen) == (
                    staging.visible[n, f] and card.DEGRADATIONS[staging.degradation[n, f]] == "occlusion"
                )
    assert all(completed[kind] > 10 for kind in card.DEGRADATIONS), completed  # None: it blinks


def test_unguided_captions_are_what_stands_out():
    world = MovingDigits("test", "untrimmed", size=30)
    play, staging = world.screenplay, stage(world.screenplay)
    kinds = Counter()
    queries = [query for query in world.queries() if query.moment == 0]
    for query, told in zip(queries, pseudo_captions(world, queries, variant="unguided", errors=False), strict=True):
        for f, (sentence, seen) in enumerate(zip(told, frame_captions(play, staging, query.video), strict=True)):
            assert not any(phrase in sentence for phrase in PHRASES)
            if staging.visible[query.video, f]:
                assert not any(cue in sentence for cue in CUES)
                assert any(f"{sentence} {cue}" == seen for cue in CUES)
            else:
                assert sentence == seen
            kinds[bool(staging.visible[query.video, f])] += 1
    assert min(kinds.values()) > 500


@pytest.mark.parametrize("split", card.SPLITS)
@pytest.mark.parametrize("view", card.VIEWS)
def test_shuffled_captions_are_those_of_another_video(split, view):
    world = MovingDigits(split, view)
    other = shuffled_videos(world)
    repeats = world.screenplay.duplicate_of
    story = np.where(repeats >= 0, repeats, np.arange(len(world)))
    assert len(other) == len(world) and (story[other] != story).all()
    assert len(set(other.tolist())) > 0.97 * len(world)
    assert (other != np.roll(np.arange(len(world)), -1)).mean() > 0.95  # no neighbours, which may be alike
    queries = world.queries()
    first = {video: [q for q in queries if q.video == video] for video in {0, 1, 7, int(other[0]), int(other[7])}}
    for video in (0, 7):
        mine, theirs = first[video], first[int(other[video])]
        told = pseudo_captions(world, mine, variant="shuffled")
        assert told == pseudo_captions(world, [theirs[k % len(theirs)] for k in range(len(mine))])


def test_every_word_is_in_the_vocabulary_and_every_sentence_fits():
    from vtrlib.clip.vocabulary import build_tokenizer  # seconds, which the fresh process need not wait

    tokenizer = build_tokenizer()
    for view in card.VIEWS:
        world = MovingDigits("train", view, size=40)
        for variant in VARIANTS:
            told = pseudo_captions(world, world.queries(), variant=variant)
            ids = tokenizer(sorted({s for sentences in told for s in sentences}))["input_ids"]
            assert not any(tokenizer.unk_token_id in line for line in ids)
            assert max(map(len, ids)) <= 24


def test_errors_keep_to_the_colours_of_a_domain():
    world = MovingDigits("train", "untrimmed", domain="seen colours", size=40)
    told = pseudo_captions(world, world.queries())
    named = Counter(word for sentences in told for s in sentences for word in s.split() if word in card.COLOURS)
    assert set(named) == {card.COLOURS[c] for c in card.DOMAINS["seen colours"][1]}


def test_bad_input():
    world = MovingDigits("val", "trimmed", size=5)
    query = world.queries()[0]
    assert pseudo_captions(world, []) == []
    with pytest.raises(ValueError, match="variant='guide'.*Did you mean 'guided'"):
        pseudo_captions(world, [query], variant="guide")
    with pytest.raises(ValueError, match="positions=8: expected between 0 and 7"):
        pseudo_captions(world, [query], [8])
    with pytest.raises(ValueError, match=r"queries: '.*' is no caption of video 0 of MovingDigits\('train'"):
        pseudo_captions(MovingDigits("train", "trimmed"), [query])
