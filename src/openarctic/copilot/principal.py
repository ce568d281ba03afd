"""Who asks: the one thing that policies and the audit log know of people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A user and the roles that a policy gives to them."""

    name: str
    roles: tuple[str, ...] = ()


# Without a policy there is one principal, who may read everything.
ANYONE = Principal("anyone")
