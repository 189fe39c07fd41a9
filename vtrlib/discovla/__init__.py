"""DiscoVLA: CLIP for videos with half a million trained parameters.

Shen et al., *DiscoVLA: Discrepancy Reduction in Vision, Language, and Alignment for
Parameter-Efficient Video-Text Retrieval*, CVPR 2025. In the order of its method
section: `ivfusion` and `towers` (Eq. 5-7), `alignment` (Eq. 1-4, 8-14), `model`;
`reading` holds what differs between the paper and its released code, `config` sizes and
settings, `cost` what attention costs, `weights` keeps what was trained.
"""

from vtrlib.discovla.alignment import (
    ImageSimilarity,
    Losses,
    aggregate,
    image_similarity,
    objective,
    pool_frames,
)
from vtrlib.discovla.config import VARIANTS, Config
from vtrlib.discovla.cost import AttentionCost, attention_cost
from vtrlib.discovla.inputs import Batch
from vtrlib.discovla.ivfusion import (
    Adapter,
    Frames,
    Fused,
    IVFusionAttention,
    quick_gelu,
)
from vtrlib.discovla.model import DiscoVLA, Videos
from vtrlib.discovla.reading import Reading
from vtrlib.discovla.weights import load_trained, save_trained, trained_weights

__all__ = [
    "VARIANTS",
    "Adapter",
    "AttentionCost",
    "Batch",
    "Config",
    "DiscoVLA",
    "Frames",
    "Fused",
    "IVFusionAttention",
    "ImageSimilarity",
    "Losses",
    "Reading",
    "Videos",
    "aggregate",
    "attention_cost",
    "image_similarity",
    "load_trained",
    "objective",
    "pool_frames",
    "quick_gelu",
    "save_trained",
    "trained_weights",
]
