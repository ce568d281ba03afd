"""OpenArctic: make, run and apply dense-MoE hybrid language models of the Arctic family.

Example: `from openarctic import ask`, then `ask("How many customers are there?").rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "ask", "load"]

if TYPE_CHECKING:
    from openarctic.copilot.ask import ask
    from openarctic.engine import load


def __getattr__(name: str) -> Any:
    # Importing the package must stay quick: the doors open when they are used.
    if name == "ask":
        from openarctic.copilot.ask import ask

        return ask
    if name == "load":
        from openarctic.engine import load

        return load
    raise AttributeError(f"module 'openarctic' has no attribute {name!r}")
