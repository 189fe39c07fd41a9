"""The tiny towers' own vocabulary: the words of the world, one token each.

CLIP's byte-pair vocabulary has 49,408 entries, more parameters than the whole tiny model; the world needs about a
hundred words. The tokenizer is an ordinary `tokenizers` word-level one, so it is saved, loaded and called like any.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vtrlib.world import card
from vtrlib.world.grammar import MOTION_PHRASES, TEMPLATES

__all__ = ["CONTEXT", "SPECIAL", "build_tokenizer", "words"]

CONTEXT = 48  # positions of the tiny text tower

# The end token must not have id 2: transformers takes an `eos_token_id` of 2 for the old hub configurations, in which
# the sentence is read at the position of the largest id.
SPECIAL = ("[pad]", "[bos]", "[unk]", "[eos]")


def words() -> list[str]:
    """Every word that a caption of the world can hold, sorted."""
    frame_words = "nothing in the fog a closed curtain small large tilted upside-down blur grey that"
    places = "on left right at top bottom middle"
    phrases = [phrase for synonyms in MOTION_PHRASES for phrase in synonyms]
    templates = [t.format(colour="", digit="", a_digit="a an", motion="", cue="") for t in TEMPLATES]
    sentences = [
        frame_words, places, *phrases, *templates, *card.DIGIT_WORDS, *card.COLOURS, *card.SCENE_CUES, *card.COARSE_CUES,
    ]  # fmt: skip
    return sorted({word for sentence in sentences for word in sentence.split()})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that lower-cases, splits at spaces and punctuation, and wraps a sentence in [bos] … [eos]."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *words()))}
    pad, bos, unk, eos = SPECIAL
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,;!?]"), "removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, vocabulary[bos]), (eos, vocabulary[eos])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, unk_token=unk, eos_token=eos, model_max_length=CONTEXT
    )
