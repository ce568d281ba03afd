"""The former address of `copilot.linking`."""

from openarctic.copilot.linking.values import ValueIndex, ValueLink
from openarctic.copilot.linking.words import STOP_WORDS

__all__ = ["STOP_WORDS", "ValueIndex", "ValueLink"]
