"""Conversations: follow-ups that use earlier questions, SQL and results, and one question back where two readings differ."""

from openarctic.copilot.conversation.conversation import Conversation
from openarctic.copilot.conversation.turns import Turn

__all__ = ["Conversation", "Turn"]
