"""PIG, the hybrid tower: a video asks itself before any query arrives.

Lan et al., *Hybrid-Tower: Fine-grained Pseudo-query Interaction and Generation for
Text-to-Video Retrieval*, ICCV 2025. In the order of its method section: `vip` (CLIP-ViP
with frame-level [cls], Eq. 5), `its` (Eq. 6), `tokens` (both in the last layer),
`generator`, `fusioner` (Eq. 7), `objective` (Eq. 4, 8, 9), `model`; `reading` holds what
differs between the paper and its released code, `config` sizes and settings, `training`
the two stages, `cost` what a video and a match cost.
"""

from vtrlib.pig.config import VARIANTS, Config
from vtrlib.pig.cost import (
    MATCHES,
    OFFLINE,
    Entry,
    VideoCost,
    match_cost,
    parameters,
    video_cost,
)
from vtrlib.pig.fusioner import CoAttention, CrossAttention, Fusioner, XPool
from vtrlib.pig.generator import CausalGenerator, MLPGenerator, QFormerGenerator
from vtrlib.pig.its import informativeness, select
from vtrlib.pig.model import PIG, Videos
from vtrlib.pig.objective import Batch, Losses, contrastive, reconstruction
from vtrlib.pig.reading import Reading
from vtrlib.pig.tokens import Tokens, visual_tokens
from vtrlib.pig.training import plan, prepared, train_stages
from vtrlib.pig.vip import TokenLayout, ViPAttention, ViPEmbeddings, interpolated

__all__ = [
    "MATCHES",
    "OFFLINE",
    "PIG",
    "VARIANTS",
    "Batch",
    "CausalGenerator",
    "CoAttention",
    "Config",
    "CrossAttention",
    "Entry",
    "Fusioner",
    "Losses",
    "MLPGenerator",
    "QFormerGenerator",
    "Reading",
    "TokenLayout",
    "Tokens",
    "ViPAttention",
    "ViPEmbeddings",
    "VideoCost",
    "Videos",
    "XPool",
    "contrastive",
    "informativeness",
    "interpolated",
    "match_cost",
    "parameters",
    "plan",
    "prepared",
    "reconstruction",
    "select",
    "train_stages",
    "video_cost",
    "visual_tokens",
]
