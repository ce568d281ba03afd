"""Who may see what: a policy file, the part of a schema that a principal may see, and statements rewritten to read just that.

A table that may be seen in part is read through a subquery that holds its row condition and its masked columns, wherever a
statement names it; whatever stands above (stars, joins, correlated references, set operations) sees only what comes out of it.
"""

from openarctic.copilot.policy.file import Grant, Limits, Policy, Role, parse_policy, read_policy
from openarctic.copilot.policy.rewrite import Reader
from openarctic.copilot.policy.rules import Rules

__all__ = ["Grant", "Limits", "Policy", "Reader", "Role", "Rules", "parse_policy", "read_policy"]
