"""Suffix drafts of sequences: what they are made of, who may see them, and how long and how large they live."""

from __future__ import annotations

import random

import pytest

from openarctic.engine.drafts import SharedResponses, SuffixDrafter
from openarctic.engine.suffix import SuffixTree


def run(drafter: SuffixDrafter, sequence_id: int, tenant: str, prompt: list[int], output: list[int], keep: bool = True) -> None:
    """A whole life of a sequence."""
    drafter.start(sequence_id, tenant, prompt)
    for token in output:
        drafter.append(sequence_id, [token])
    drafter.finish(sequence_id, keep)


def test_a_sequence_s_own_prompt_is_drafted_from() -> None:
    drafter = SuffixDrafter()
    drafter.start(0, "", [1, 2, 3, 4, 5, 9, 1, 2])
    assert drafter.draft({0: 8})[0].tokens == [3, 4]
    drafter.append(0, [3, 4])
    assert drafter.draft({0: 8})[0].tokens == [5, 9, 1, 2]
    assert drafter.draft({0: 2})[0].tokens == [5, 9]


def test_the_response_to_the_same_prompt_is_drafted_from_its_first_token() -> None:
    drafter = SuffixDrafter()
    run(drafter, 0, "", [7, 8, 9], [1, 2, 3])
    drafter.start(1, "", [7, 8, 9])
    assert drafter.draft({1: 8})[1].tokens == [1, 2, 3]


def test_running_responses_are_shared() -> None:
    drafter = SuffixDrafter()
    drafter.start(0, "", [7, 8, 9])
    drafter.start(1, "", [7, 8, 9])
    drafter.append(0, [1, 2])
    assert drafter.draft({1: 8, 0: 8})[1].tokens == [1, 2]


def test_the_own_tree_wins_at_equality() -> None:
    """The shared tree knows another continuation, as often and as long."""
    drafter = SuffixDrafter()
    run(drafter, 0, "", [], [5, 6, 1])
    drafter.start(1, "", [5, 6, 2, *range(100, 150), 5, 6])
    assert drafter.draft({1: 1})[1].tokens == [2]
    run(drafter, 2, "", [], [5, 6, 1])
    assert drafter.draft({1: 1})[1].tokens == [1]  # more often there


def test_what_is_not_kept_is_forgotten() -> None:
    drafter = SuffixDrafter()
    run(drafter, 0, "", [7, 8, 9], [1, 2, 3], keep=False)
    drafter.start(1, "", [7, 8, 9])
    assert drafter.draft({1: 8}) == {}


def test_no_token_of_a_tenant_is_drafted_for_another() -> None:
    """Tenants write texts of the same context and tokens of their own; thousands of drafts hold only tokens of the asker's."""
    rng = random.Random(0)
    drafter = SuffixDrafter(max_bytes=60_000)
    running: dict[int, str] = {}
    marks = {"a": range(100, 110), "b": range(200, 210), "": range(300, 310)}
    seen = 0
    for step in range(3000):
        drafter.tick(step)
        if len(running) < 6:
            running[step] = rng.choice(list(marks))
            drafter.start(step, running[step], [1, 2, 3])
        sequence_id = rng.choice(list(running))
        tenant = running[sequence_id]
        drafter.append(sequence_id, [rng.choice([1, 2, 3, rng.choice(marks[tenant])]) for _ in range(rng.randint(1, 4))])
        for other, draft in drafter.draft(dict.fromkeys(running, 8)).items():
            allowed = {1, 2, 3, *marks[running[other]]}
            assert set(draft.tokens) <= allowed
            seen += any(token > 99 for token in draft.tokens)
        if rng.random() < 0.1:
            drafter.finish(sequence_id, rng.random() < 0.8)
            del running[sequence_id]
    assert seen > 500 and drafter.responses.evictions > 20


def test_the_budget_is_kept_and_the_oldest_go_first() -> None:
    responses = SharedResponses(max_bytes=100_000, ttl_s=1e9)
    rng = random.Random(1)
    for i in range(600):
        responses.append("large" if i % 4 else "small", i, [rng.randrange(1000) for _ in range(40)])
        responses.finish("large" if i % 4 else "small", i, keep=True)
        assert responses.num_bytes == sum(tenant.tree.num_bytes for tenant in responses._tenants.values()) <= 100_000
    assert responses.evictions > 0 and 10 < responses.num_responses < 600
    alone = SuffixTree()
    alone.append(0, [rng.randrange(1000) for _ in range(40)])
    assert responses.num_bytes > 100_000 - 4 * alone.num_bytes  # no more goes than must


def test_a_response_that_alone_is_too_large_starts_anew() -> None:
    drafter = SuffixDrafter(max_bytes=20_000)
    drafter.start(0, "", [])
    rng = random.Random(2)
    for _ in range(200):
        drafter.append(0, [rng.randrange(50) for _ in range(8)])
        drafter.draft({0: 8})
        assert drafter.responses.num_bytes <= 20_000
    drafter.finish(0, keep=True)


def test_old_responses_vanish_and_used_ones_stay() -> None:
    drafter = SuffixDrafter(ttl_s=10)
    drafter.tick(0)
    run(drafter, 0, "", [7, 8], [1, 2])
    drafter.start(1, "", [5, 6])
    drafter.tick(6)
    drafter.append(1, [3, 4])
    drafter.draft({1: 1})
    drafter.tick(10)
    drafter.start(2, "", [7, 8])
    drafter.start(3, "", [5, 6])
    drafts = drafter.draft({2: 8, 3: 8})
    assert 2 not in drafts and drafts[3].tokens == [3, 4]
    drafter.finish(1, keep=True)
    drafter.tick(20)
    assert drafter.responses.num_responses == 0 and drafter.responses.num_bytes == 0


@pytest.mark.parametrize("keep", [True, False])
def test_sequences_end_with_nothing_left_behind(keep: bool) -> None:
    drafter = SuffixDrafter(ttl_s=5)
    for i in range(50):
        drafter.tick(i / 10)
        run(drafter, i, str(i % 3), [1, 2, 3], [i, i + 1, 1, 2, 3])
        drafter.start(1000 + i, str(i % 3), [1, 2])
        drafter.draft({1000 + i: 4})
        drafter.finish(1000 + i, keep)
    drafter.tick(1000)
    assert drafter.responses.num_bytes == 0 and not drafter._sequences
