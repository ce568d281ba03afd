"""Does every runtime compute the same model? One set of prompts through all that are installed, compared with a reference."""

from openarctic.model.parity.report import Difference, Report, compare
from openarctic.model.parity.runtimes import RUNTIMES

__all__ = ["RUNTIMES", "Difference", "Report", "compare"]
