"""The model's configuration."""

from openarctic.formats import HybridConfig as ArcticConfig

__all__ = ["ArcticConfig"]
