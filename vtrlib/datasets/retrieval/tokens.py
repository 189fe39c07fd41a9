"""Sentences as CLIP's text tower reads them.

Letters (see the notation page): N sentences of L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vtrlib.check import integer

__all__ = ["tokenize_captions"]


def tokenize_captions(
    tokenizer: Any, texts: Sequence[str], words: int = 32
) -> tuple[Tensor, Tensor]:
    """Token ids (N, L) int64 and mask (N, L) bool, True on tokens; L = `words`.

    A sentence is its start token, its tokens, its end token; of a longer one the first
    L − 1 tokens stay and the end token follows them (the released code's 32).

    Args:
        tokenizer: CLIP's of `transformers`, or another that is called like it, sets
            start and end token itself, and has `bos_token_id`, `eos_token_id` and
            `pad_token_id`; such as `Towers.tokenizer`.
        texts: sentences, none empty.
        words: L, start and end included.

    Raises:
        TypeError: `texts` is one string.
        ValueError: no sentence, an empty one; more words than the tokenizer's model
            takes; or a tokenizer that leaves out start or end.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts={texts!r}: expected a list of sentences.")
    integer("words", words, low=3)
    most = getattr(tokenizer, "model_max_length", words)
    if words > most:
        raise ValueError(f"words={words}: the tokenizer's model takes at most {most}.")
    if not len(texts) or any(not text.strip() for text in texts):
        raise ValueError("texts: expected at least one sentence, and none empty.")
    call: Callable[..., Any] = tokenizer
    lines = call(list(texts), truncation=True, max_length=words)["input_ids"]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    ids = torch.full((len(lines), words), end if pad is None else pad)
    mask = torch.zeros(len(lines), words, dtype=torch.bool)
    for row, line in enumerate(lines):
        if not 2 <= len(line) <= words or line[0] != start or line[-1] != end:
            raise ValueError(
                f"tokenizer: makes {line!r:.80} of {texts[row]!r:.60}. Expected the start "
                f"token {start}, at most {words - 2} others, the end token {end}."
            )
        ids[row, : len(line)] = torch.tensor(line)
        mask[row, : len(line)] = True
    return ids, mask
