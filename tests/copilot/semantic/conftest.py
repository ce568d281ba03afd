"""What several tests share."""

from tests.copilot.semantic.shop import shop

__all__ = ["shop"]
