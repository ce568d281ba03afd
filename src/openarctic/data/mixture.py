"""Which domain each sequence of a stage comes from: proportions kept to 0.1 % over any 1,000 of them, without sampling.

A schedule is made of rounds of 1,000 slots. A domain of proportion p owns floor(1000 p) slots, the same in every round. The few
slots that are left over belong to no domain: each round lends them to as many different domains, those furthest behind, and a
domain that borrows again keeps the slot it has. Hence any 1,000 consecutive sequences, wherever they begin, meet every owned slot
once and find a domain in at most one lent slot (two lent slots of one domain are at least 1,000 apart), which is floor(1000 p) or
one more: within one sequence of 1000 p. All sequences of a stage are equally long and full, so this holds for tokens as well.
Each stage has a schedule of its own: a window across the border of two is a part of each, and was up to 3.6 sequences off.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openarctic.data.permutation import Indices, uniforms
from openarctic.errors import UserError

WINDOW = 1000
_UNITS = 1_000_000_000  # proportions are whole billionths, so that nothing drifts


@dataclass(frozen=True, slots=True)
class Mixture:
    """Domain -> its proportion of the tokens. Raises UserError for proportions that are negative or do not sum to 1 (or 100)."""

    proportions: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, value in self.proportions.items():
            if not math.isfinite(value) or value < 0:
                raise UserError(f"domain {name} has the proportion {value}", "give 0 or more")
        total = sum(self.proportions.values())
        if not any(math.isclose(total, whole, rel_tol=1e-6) for whole in (1, 100)):
            told = ", ".join(f"{name} {value:g}" for name, value in self.proportions.items())
            raise UserError(
                f"the proportions sum to {total:g}, not to 1 (or 100 %): {told or 'none are given'}", "change one of them"
            )

    @property
    def shares(self) -> dict[str, float]:
        """The proportions as parts of 1."""
        total = sum(self.proportions.values())
        return {name: value / total for name, value in self.proportions.items()}

    def only(self, domains: Collection[str]) -> Mixture:
        """The mixture without the other domains, their part given to these in proportion. Raises UserError if nothing is left."""
        kept = {name: value for name, value in self.proportions.items() if name in domains}
        total = sum(kept.values())
        if not total:
            raise UserError(f"the mixture of {', '.join(self.proportions)} has nothing of {', '.join(domains) or 'no domain'}")
        return Mixture({name: value / total for name, value in kept.items()})


class Schedule:
    """The domain of each of `length` sequences, a function of the position. K domains, R rounds, L lent slots in each."""

    def __init__(self, shares: Sequence[float], length: int, key: int) -> None:
        self.length = length
        units = _whole_units(shares)
        self._owned_K, self._rest_K = np.divmod(units * WINDOW, _UNITS)
        num_lent = int(self._rest_K.sum()) // _UNITS
        self._pattern_W = _spread([*self._owned_K, num_lent], key)
        self._lent_slots_L = np.flatnonzero(self._pattern_W == len(shares))
        lent_index_W = np.cumsum(self._pattern_W == len(shares)) - 1
        self._lent_index_W = np.maximum(lent_index_W, 0)
        self._owned_before_WK = _counts_before(self._pattern_W, len(shares))
        self._borrowers_RL, self._borrowed_before_RK = _lend(self._rest_K, num_lent, -(-length // WINDOW) + 1)

    def domains(self, positions_N: Indices) -> NDArray[np.int64]:
        """Index of each position's domain."""
        rounds, slots = np.divmod(np.asarray(positions_N), WINDOW)
        domains = self._pattern_W[slots]
        if len(self._lent_slots_L):
            is_lent = domains == len(self._owned_K)
            domains = np.where(is_lent, self._borrowers_RL[rounds, self._lent_index_W[slots]], domains)
        return domains

    def ranks(self, positions_N: Indices) -> NDArray[np.int64]:
        """How many earlier positions have the same domain: the index of the position within its domain."""
        return self._before(np.asarray(positions_N), self.domains(positions_N))

    def counts(self) -> NDArray[np.int64]:
        """How many of all positions each domain has [K]."""
        num_domains = len(self._owned_K)
        return self._before(np.full(num_domains, self.length), np.arange(num_domains))

    def _before(self, positions_N: Indices, domains_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many positions before each given one have the given domain."""
        rounds, slots = np.divmod(positions_N, WINDOW)
        owned = rounds * self._owned_K[domains_N] + self._owned_before_WK[slots, domains_N]
        is_earlier = self._lent_slots_L < slots[:, None]
        lent_here = ((self._borrowers_RL[rounds] == domains_N[:, None]) & is_earlier).sum(axis=1)
        return owned + self._borrowed_before_RK[rounds, domains_N] + lent_here


def _whole_units(shares: Sequence[float]) -> NDArray[np.int64]:
    """The shares in billionths, rounded so that they sum to exactly one (largest remainders first)."""
    exact = np.asarray(shares, np.float64) * (_UNITS / math.fsum(shares))
    units = np.floor(exact).astype(np.int64)
    missing = _UNITS - int(units.sum())
    units[np.argsort(units - exact, kind="stable")[:missing]] += 1
    return units


def _spread(counts: Sequence[int], key: int) -> NDArray[np.int64]:
    """WINDOW slots, of which kind i has counts[i], spread evenly: one in each of counts[i] equal parts, at a place drawn there.

    Drawn, as a regular pattern would give each of several processes, which take every Nth sequence, domains of its own.
    """
    kinds = np.repeat(np.arange(len(counts)), counts)
    parts = np.concatenate([np.arange(count) for count in counts])
    places = (parts + uniforms(WINDOW, key)) / np.maximum(1, np.asarray(counts))[kinds]
    return kinds[np.argsort(places, kind="stable")]


def _counts_before(pattern_W: NDArray[np.int64], num_kinds: int) -> NDArray[np.int64]:
    is_kind = pattern_W[:, None] == np.arange(num_kinds)
    return np.concatenate([np.zeros((1, num_kinds), np.int64), np.cumsum(is_kind, axis=0)])


def _lend(rest_K: NDArray[np.int64], num_lent: int, rounds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Who borrows each lent slot in each round [R, L], and how often each domain has borrowed before a round [R, K].

    `rest_K` is what each domain should borrow a round, in billionths; it sums to `num_lent`.
    """
    borrowers = np.zeros((rounds, num_lent), np.int64)
    borrowed = np.zeros((rounds, len(rest_K)), np.int64)
    if not num_lent:
        return borrowers, borrowed
    candidates = [(int(domain), int(rest_K[domain])) for domain in np.flatnonzero(rest_K)]
    deficits = dict.fromkeys((domain for domain, _ in candidates), 0)
    slots: list[int] = []
    for index in range(rounds):
        for domain, rest in candidates:
            deficits[domain] += rest
        furthest = sorted(deficits, key=lambda domain: (-deficits[domain], domain))[:num_lent]
        arrivals = [domain for domain in furthest if domain not in slots]
        slots = [domain if domain in furthest else arrivals.pop(0) for domain in slots] or furthest
        borrowers[index] = slots
        for domain in slots:
            deficits[domain] -= _UNITS
    np.add.at(borrowed, (np.arange(1, rounds)[:, None], borrowers[:-1]), 1)
    return borrowers, np.cumsum(borrowed, axis=0)
