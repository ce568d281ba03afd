"""Text to batches: readers, token shards, mixtures in stages, packing, and the check against evaluation files. No torch."""

from openarctic.data.batch import IGNORED, Batch
from openarctic.data.curriculum import Curriculum, Stage, arctic_curriculum, single_stage
from openarctic.data.mixture import Mixture
from openarctic.data.mixture_source import MixtureSource, validation_batches
from openarctic.data.shards import TRAIN, VALIDATION, TokenShards

__all__ = [
    "IGNORED",
    "TRAIN",
    "VALIDATION",
    "Batch",
    "Curriculum",
    "Mixture",
    "MixtureSource",
    "Stage",
    "TokenShards",
    "arctic_curriculum",
    "single_stage",
    "validation_batches",
]
