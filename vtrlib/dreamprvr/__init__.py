"""DreamPRVR: registers imagined by truncated diffusion, for partially relevant video
retrieval.

Li et al., *Imagine Before Concentration: Diffusion-Guided Registers Enhance Partially
Relevant Video Retrieval*, 2026. In the order of its method section: `text_space`,
`sampler`, `registers`, `attention`, `video`, `objective`, `model`; `reading` holds what
differs between the paper and its released code, `config` sizes and settings.
"""

from vtrlib.dreamprvr.attention import (
    DreamPRVRBlock,
    Mixture,
    RegisterAugmentedBlocks,
    asymmetric_mask,
    gaussian_windows,
)
from vtrlib.dreamprvr.config import DATASETS, Config, Weights
from vtrlib.dreamprvr.draws import Draws, Negatives
from vtrlib.dreamprvr.inputs import Batch
from vtrlib.dreamprvr.layers import (
    Attention,
    AttentionBlock,
    InputProjection,
    PositionCode,
    attention_weights,
    key_bias,
)
from vtrlib.dreamprvr.model import DreamPRVR
from vtrlib.dreamprvr.objective import (
    Losses,
    Scores,
    contrast,
    generation_losses,
    ranking,
    retrieval_losses,
    similarity,
    textual_losses,
    total,
)
from vtrlib.dreamprvr.reading import Reading
from vtrlib.dreamprvr.registers import (
    ConditionGenerator,
    DiffusionRegisterEstimator,
    EstimatorBlock,
    Guidance,
    forward_diffusion_loss,
    generate_registers,
)
from vtrlib.dreamprvr.sampler import (
    AttentionPooling,
    Gaussian,
    LinearSampler,
    PooledSampler,
    SortedPooling,
    divergence,
    sinusoids,
    variational_sampler,
)
from vtrlib.dreamprvr.text_space import (
    QueryEncoder,
    diversity,
    mean_queries,
    perturb,
    query_similarity_preservation,
    same_video,
)
from vtrlib.dreamprvr.video import DualBranchEncoder, FeatureEncoder, Imagined, Videos
from vtrlib.dreamprvr.weights import draw_weights, parameter_groups

__all__ = [
    "DATASETS",
    "Attention",
    "AttentionBlock",
    "AttentionPooling",
    "Batch",
    "ConditionGenerator",
    "Config",
    "DiffusionRegisterEstimator",
    "Draws",
    "DreamPRVR",
    "DreamPRVRBlock",
    "DualBranchEncoder",
    "EstimatorBlock",
    "FeatureEncoder",
    "Gaussian",
    "Guidance",
    "Imagined",
    "InputProjection",
    "LinearSampler",
    "Losses",
    "Mixture",
    "Negatives",
    "PooledSampler",
    "PositionCode",
    "QueryEncoder",
    "Reading",
    "RegisterAugmentedBlocks",
    "Scores",
    "SortedPooling",
    "Videos",
    "Weights",
    "asymmetric_mask",
    "attention_weights",
    "contrast",
    "divergence",
    "diversity",
    "draw_weights",
    "forward_diffusion_loss",
    "gaussian_windows",
    "generate_registers",
    "generation_losses",
    "key_bias",
    "mean_queries",
    "parameter_groups",
    "perturb",
    "query_similarity_preservation",
    "ranking",
    "retrieval_losses",
    "same_video",
    "similarity",
    "sinusoids",
    "textual_losses",
    "total",
    "variational_sampler",
]
