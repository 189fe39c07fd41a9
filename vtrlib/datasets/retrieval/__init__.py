"""Video-text retrieval from raw videos: captions, frames, pseudo captions, and batches of them.

Importing this room loads neither a decoder nor `transformers`.
"""

from vtrlib.datasets.retrieval.batches import Pair, PairBatch, collate_pairs
from vtrlib.datasets.retrieval.captioner import GUIDED, UNGUIDED, Captioner, load_captioner
from vtrlib.datasets.retrieval.captions import Captioned, CaptionedVideo, read_captions, read_msvd
from vtrlib.datasets.retrieval.frames import FrameSource, VideoFolder, find_videos
from vtrlib.datasets.retrieval.generation import generate
from vtrlib.datasets.retrieval.pairs import Gallery, VideoTextPairs
from vtrlib.datasets.retrieval.pseudo_captions import (
    PseudoCaptions,
    check_pseudo_captions,
    pseudo_key,
    read_pseudo_captions,
    write_pseudo_captions,
)
from vtrlib.datasets.retrieval.tokens import tokenize_captions
from vtrlib.datasets.retrieval.world import WorldFrames, world_captions, world_pairs, world_pseudo_captions

__all__ = [
    "GUIDED", "UNGUIDED", "Captioned", "CaptionedVideo", "Captioner", "FrameSource", "Gallery", "Pair", "PairBatch",
    "PseudoCaptions", "VideoFolder", "VideoTextPairs", "WorldFrames", "check_pseudo_captions", "collate_pairs",
    "find_videos", "generate", "load_captioner", "pseudo_key", "read_captions", "read_msvd", "read_pseudo_captions",
    "tokenize_captions", "world_captions", "world_pairs", "world_pseudo_captions", "write_pseudo_captions",
]  # fmt: skip
