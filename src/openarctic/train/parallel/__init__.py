"""Training on several processes, on torch.distributed: copies or shards of a model, spread experts, overlapped all-to-all."""

from openarctic.train.parallel.config import ParallelConfig
from openarctic.train.parallel.data import ParallelModel
from openarctic.train.parallel.mesh import Processes, join

__all__ = ["ParallelConfig", "ParallelModel", "Processes", "join"]
