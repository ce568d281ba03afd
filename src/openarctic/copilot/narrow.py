"""The former address of `copilot.linking.words`."""

from openarctic.copilot.linking.words import name_stems, stem

__all__ = ["name_stems", "stem"]
