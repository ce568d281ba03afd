"""Embedded inference on the CPU: `Engine` runs a GGUF file, `load` finds one by name or path."""

from openarctic.engine.engine import Engine
from openarctic.engine.library import load

__all__ = ["Engine", "load"]
