"""Partially relevant video retrieval: a query describes a moment of an untrimmed video.

`PartialRelevance` reads a collection in the layout of the published features, whole and
checked. `write_world` and `write_joined_msrvtt` write two more in the same layout, so
that one code path serves the real sets, Moving Digits, and joined clips of MSR-VTT.
"""

from vtrlib.datasets.prvr.batches import Batch, Item, QueryBatch, VideoBatch, collate
from vtrlib.datasets.prvr.captions import Caption, Truth, read_captions, read_truth
from vtrlib.datasets.prvr.dataset import PartialRelevance
from vtrlib.datasets.prvr.features import open_features
from vtrlib.datasets.prvr.hdf5 import StoredWords
from vtrlib.datasets.prvr.joined import JoinedVideo, join_clips, write_joined_msrvtt
from vtrlib.datasets.prvr.layout import Layout
from vtrlib.datasets.prvr.pooling import (
    clip_bounds,
    frame_bounds,
    pool_clips,
    pool_frames,
    unit_rows,
)
from vtrlib.datasets.prvr.stored import StoredFeatures
from vtrlib.datasets.prvr.world import encode_frames, encode_texts, write_world
from vtrlib.datasets.prvr.writer import write_layout

__all__ = [
    "Batch", "Caption", "Item", "JoinedVideo", "Layout", "PartialRelevance",
    "QueryBatch", "StoredFeatures", "StoredWords", "Truth", "VideoBatch", "clip_bounds",
    "collate", "encode_frames", "encode_texts", "frame_bounds", "join_clips",
    "open_features", "pool_clips", "pool_frames", "read_captions", "read_truth",
    "unit_rows", "write_joined_msrvtt", "write_layout", "write_world",
]  # fmt: skip
