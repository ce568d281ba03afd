"""The dense-MoE hybrid in PyTorch."""

from openarctic.model.config import ArcticConfig
from openarctic.model.hybrid import ArcticForCausalLM, parameter_counts

__all__ = ["ArcticConfig", "ArcticForCausalLM", "parameter_counts"]
