"""Real data: layouts as they are distributed, read into typed things; none of it comes with this package.

The page "Data cards" (`vtrlib.datasets.cards`) says where to get each dataset; the environment variable VTRLIB_DATA
says where it is. Importing this room loads no decoder: PyAV is imported by the first video that is read.
"""

from vtrlib.datasets.cards import CARDS, Card, card
from vtrlib.datasets.features import (
    FeatureBatch,
    VideoFeatures,
    collate_features,
    load_features,
    msrvtt_features,
    stack_features,
)
from vtrlib.datasets.folders import data_folder, verify
from vtrlib.datasets.msrvtt import CATEGORIES, AnnotatedVideo, msrvtt_protocol, read_msrvtt
from vtrlib.datasets.sampling import frame_positions, resize_frames
from vtrlib.datasets.splits import hold_out, source_of, split_by_source, split_of
from vtrlib.datasets.video import VideoError, read_frames
from vtrlib.datasets.words import Tokens, WordVectors, tokenize

__all__ = [
    "CARDS", "CATEGORIES", "AnnotatedVideo", "Card", "FeatureBatch", "Tokens", "VideoError", "VideoFeatures",
    "WordVectors", "card", "collate_features", "data_folder", "frame_positions", "hold_out", "load_features",
    "msrvtt_features", "msrvtt_protocol", "read_frames", "read_msrvtt", "resize_frames", "source_of",
    "split_by_source", "split_of", "stack_features", "tokenize", "verify",
]  # fmt: skip
