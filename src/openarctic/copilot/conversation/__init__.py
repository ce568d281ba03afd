"""Conversations: follow-ups that use earlier questions, SQL and results, and one question back where two readings differ."""

from openarctic.copilot.conversation.clarify import Clarification
from openarctic.copilot.conversation.conversation import Conversation
from openarctic.copilot.conversation.turns import Turn

__all__ = ["Clarification", "Conversation", "Turn"]
