"""RagMe: a text-to-video generator that is shown, by retrieval, how things move.

*RagMe: Retrieval-Augmented Video Generation for Enhanced Motion Realism*,
arXiv 2504.06672. In the order of its method section: `retrieval` (search, duplicates,
padding), `conditioning` (the time enhancer, Eq. 5, and RagCA, Eq. 6), `noise` (RagInit,
Eq. 7), `model` (both on any `UNet3DConditionModel`), `pipeline` (text to video);
`reading` holds what differs between the paper and its released code, `config` sizes.
"""

from vtrlib.ragme.conditioning import Attention, Infuser, TimeEnhancer
from vtrlib.ragme.config import Config, Rules
from vtrlib.ragme.model import Condition, RagMe, Site, sites
from vtrlib.ragme.noise import rag_init, signal_level
from vtrlib.ragme.pipeline import (
    Codec,
    Collection,
    Generated,
    Pipeline,
    TextStates,
    VAECodec,
    sample,
)
from vtrlib.ragme.reading import Reading
from vtrlib.ragme.retrieval import Index, Retrieved, retrieve, video_embedding
from vtrlib.ragme.training import diffusion_loss

__all__ = [
    "Attention",
    "Codec",
    "Collection",
    "Condition",
    "Config",
    "Generated",
    "Index",
    "Infuser",
    "Pipeline",
    "RagMe",
    "Reading",
    "Retrieved",
    "Rules",
    "Site",
    "TextStates",
    "TimeEnhancer",
    "VAECodec",
    "diffusion_loss",
    "rag_init",
    "retrieve",
    "sample",
    "signal_level",
    "sites",
    "video_embedding",
]
