"""Fair shares: the least served first, no credit for idle time, no growth with tenants that are gone."""

from __future__ import annotations

from openarctic.engine.shares import TenantShares


def test_the_served_have_more() -> None:
    shares = TenantShares()
    shares.join("a", has_backlog=False)
    shares.join("b", has_backlog=False)
    shares.charge("a", 10)
    assert shares.served("a") - shares.served("b") == 10


def test_a_tenant_that_was_idle_starts_where_the_served_stand() -> None:
    shares = TenantShares()
    shares.join("busy", has_backlog=False)
    for _ in range(100):
        shares.charge("busy", 10)
    shares.join("new", has_backlog=False)
    assert 0 <= shares.served("busy") - shares.served("new") <= 10


def test_a_backlog_keeps_its_claim() -> None:
    shares = TenantShares()
    shares.join("a", has_backlog=False)
    shares.join("b", has_backlog=False)
    for _ in range(10):
        shares.charge("a", 10)
    shares.join("b", has_backlog=True)
    assert shares.served("a") - shares.served("b") == 100


def test_leaving_does_not_clear_a_debt_and_the_past_is_forgotten() -> None:
    shares = TenantShares()
    shares.join("stays", has_backlog=False)
    shares.join("leaves", has_backlog=False)
    shares.charge("leaves", 50)
    shares.leave("leaves")
    shares.join("leaves", has_backlog=False)
    assert shares.served("leaves") - shares.served("stays") == 50
    for number in range(100):
        shares.join(f"tenant {number}", has_backlog=False)
        shares.charge("stays", 1)
        shares.leave(f"tenant {number}")
    assert len(shares._served) <= 3
    assert not shares.is_empty
    shares.leave("stays")
    shares.leave("leaves")
    assert shares.is_empty
