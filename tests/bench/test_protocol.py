"""Order, warm-up, rejection and the end of a comparison, with scripted sides."""

from __future__ import annotations

import pytest

from openarctic.bench import protocol
from openarctic.bench.protocol import Protocol, Side, compare
from openarctic.bench.summary import Timing


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PAUSE_S", 0)


def scripted(log: list[str], name: str, foreign: list[float]) -> Side:
    def work() -> Timing:
        log.append(name)
        return Timing(1.0, 1.0, foreign.pop(0) if foreign else 0.0)

    return work


def test_pairs_alternate_after_two_warm_ups() -> None:
    log: list[str] = []
    run = compare({n: scripted(log, n, []) for n in "ab"}, Protocol(repetitions=4), lambda text: None)
    assert "".join(log) == "abab" + "ba" + "ab" + "ba" + "ab"
    assert len(run.pairs) == 4 and run.rejected == 0


def test_loud_pairs_are_repeated() -> None:
    log: list[str] = []
    loud = [0.0, 0.0, 0.5, 0.0, 0.11]  # two warm-ups, then the first and the third pair
    run = compare({"a": scripted(log, "a", loud), "b": scripted(log, "b", [])}, Protocol(repetitions=3), lambda text: None)
    assert len(run.pairs) == 3 and run.rejected == 2
    assert all(timing.foreign == 0 for pair in run.pairs for timing in pair)


def test_it_gives_up_and_says_so() -> None:
    log: list[str] = []
    said: list[str] = []
    run = compare({"a": scripted(log, "a", [1.0] * 99)}, Protocol(repetitions=3, warmups=0), said.append)
    assert not run.pairs and run.rejected == len(log) == 9
    assert said[-1] == "repetition 0 of 3, 9 rejected"


def test_under_wanted_load_nothing_is_rejected() -> None:
    run = compare({"a": scripted([], "a", [1.0] * 99)}, Protocol(repetitions=3), lambda text: None, any_load=True)
    assert len(run.pairs) == 3
