"""A small part of the policy fuzzing; `policy_fuzz` runs as much as one wants."""

from __future__ import annotations

import pytest

from openarctic.copilot.policy import Reader

from .policy_fuzz import Report, run_cases


def check(report: Report) -> None:
    assert not report.leaks and not report.differences
    assert report.answered >= 0.8, report.summary()


def test_random_policies_show_what_a_filtered_copy_shows() -> None:
    check(run_cases(72, seed=3, per_policy=9))


@pytest.mark.slow
def test_many_random_policies_show_what_a_filtered_copy_shows() -> None:
    check(run_cases(10_000, seed=4))


def test_the_copy_notices_a_policy_that_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "apply", lambda self, checked: checked)
    report = run_cases(48, seed=5, per_policy=12)
    assert report.leaks and report.differences
