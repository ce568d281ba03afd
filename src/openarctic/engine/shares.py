"""Who had how much: a counter of service for each tenant, so that the one with the least goes first.

The counter is in tokens computed (Sheng et al. 2023, "Fairness in Serving Large Language Models"). A tenant that comes back after
a pause starts where those stand that were served last (start-time fair queueing, Goyal et al. 1996): idle time is no credit.
"""

from __future__ import annotations

from collections import Counter


class TenantShares:
    """Counters of the tenants of one priority."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._level = 0  # the highest counter at which a tenant was served
        self._num_sequences: Counter[str] = Counter()

    def join(self, tenant: str, has_backlog: bool) -> None:
        """A sequence came; without a backlog the tenant had asked for nothing until now."""
        self._num_sequences[tenant] += 1
        if not has_backlog:
            self._served[tenant] = max(self.served(tenant), self._level)

    def leave(self, tenant: str) -> None:
        """A sequence ended. Of a tenant without any, only what it had beyond the level is remembered."""
        self._num_sequences[tenant] -= 1
        if not self._num_sequences[tenant]:
            del self._num_sequences[tenant]
            gone = [t for t, n in self._served.items() if n <= self._level and t not in self._num_sequences]
            for name in gone:
                del self._served[name]

    def charge(self, tenant: str, num_tokens: int) -> None:
        """The tenant's sequences compute that many tokens."""
        self._level = max(self._level, self.served(tenant))
        self._served[tenant] = self.served(tenant) + num_tokens

    def served(self, tenant: str) -> int:
        """Tokens, to be compared between tenants."""
        return self._served.get(tenant, 0)

    @property
    def is_empty(self) -> bool:
        """Nobody is here to compare with."""
        return not self._num_sequences
