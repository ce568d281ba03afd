"""The scheduler against a simulated memory of keys and values: every slot of a page records which tokens it was computed from.

The fake model's logits are a hash of what it reads through a sequence's page table, so one stale or foreign position changes the
tokens; a second check compares every position with the sequence's own history. The same tokens must come out as from `reference`,
which knows neither pages nor steps.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from openarctic.engine.pages import PagePool
from openarctic.engine.scheduler import Chunk, Plan, Scheduler, Sequence
from openarctic.errors import CapacityError, UserError

VOCAB = 3
TRACES = 2_000


def mix(before: int, token: int) -> int:
    """The content of a slot: it stands for all tokens up to this one."""
    return ((before ^ (token + 1)) * 0x9E3779B97F4A7C15 + 0x7F4A7C15) % 2**64 >> 3


def seed_of(salt: str) -> int:
    return 1000 + len(salt)


def choose(content: int) -> tuple[list[int], bool]:
    """What follows: the chosen token, sometimes tokens that a grammar forces after it, and whether the text ends here."""
    tokens = [(content >> 20) % VOCAB]
    if (content >> 30) % 5 == 0:
        tokens += [(content >> 40) % VOCAB] * (1 + (content >> 33) % 3)
    return tokens, (content >> 45) % 16 == 0


def contents(tokens: list[int], salt: str) -> list[int]:
    found = []
    before = seed_of(salt)
    for token in tokens:
        before = mix(before, token)
        found.append(before)
    return found


def reference(tokens: list[int], limit: int, salt: str) -> tuple[list[int], str]:
    """All tokens and the reason of the end, alone and without pages."""
    tokens = list(tokens)
    content = contents(tokens, salt)[-1]
    while True:
        new, is_stop = choose(content)
        for token in new:
            content = mix(content, token)
        tokens += new
        if is_stop:
            return tokens, "stop"
        if len(tokens) >= limit:
            return tokens, "length"


@dataclass
class World:
    """A scheduler, its pool, the memory, and a loop that plays the engine's."""

    scheduler: Scheduler
    memory: list[list[int]] = field(default_factory=list)
    beginnings: dict[int, tuple[Sequence, list[int]]] = field(default_factory=dict)
    reasons: dict[int, list[str]] = field(default_factory=dict)
    rows: Counter[tuple[int, int]] = field(default_factory=Counter)
    plan: Plan | None = None
    preempted: int = 0

    def __post_init__(self) -> None:
        self.memory = [[0] * self.pool.page_size for _ in range(self.pool.count)]

    @property
    def pool(self) -> PagePool:
        return self.scheduler.pool

    @property
    def live(self) -> list[Sequence]:
        return [sequence for sequence, _ in self.beginnings.values() if sequence.end_reason is None]

    def add(self, sequence: Sequence, parent: Sequence | None = None) -> Sequence:
        self.beginnings[sequence.id] = (sequence, list(sequence.tokens))
        self.reasons[sequence.id] = []
        if parent:
            self.scheduler.fork(parent.id, sequence)
        else:
            self.scheduler.add(sequence)
        self.scheduler.check()
        return sequence

    def abort(self, sequence: Sequence) -> None:
        if self.scheduler.abort(sequence.id):
            self.reasons[sequence.id].append("abort")
        self.scheduler.check()

    def schedule(self, now: float = 0.0) -> Plan:
        self.plan = plan = self.scheduler.schedule(now)
        for sequence in plan.ended:
            self.reasons[sequence.id].append("deadline")
        self.scheduler.check()
        self.preempted += len(plan.preempted)
        assert bool(plan.chunks) == bool(self.live), "sequences live and none goes on"
        assert plan.num_tokens + plan.room == self.scheduler.max_step_tokens and plan.room >= 0
        for chunk in plan.chunks:
            assert chunk.start == chunk.sequence.computed and chunk.tokens
            known = chunk.sequence.tokens[chunk.start : chunk.end]
            assert chunk.tokens[: len(known)] == known
            assert chunk.end < chunk.sequence.limit + (chunk.sequence.rows_from is not None)
        return plan

    def compute(self, plan: Plan) -> dict[int, dict[int, int]]:
        """Copies and the step. Gives the rows by id and position."""
        for source, target in plan.copies:
            self.memory[target] = list(self.memory[source])
        size = self.pool.page_size
        rows: dict[int, dict[int, int]] = {}
        for chunk in plan.chunks:
            pages, salt = chunk.sequence.pages, chunk.sequence.salt
            for position, token in enumerate(chunk.tokens, chunk.start):
                last = position - 1
                before = self.memory[pages[last // size]][last % size] if position else seed_of(salt)
                self.memory[pages[position // size]][position % size] = mix(before, token)
            rows[chunk.sequence.id] = {p: self.memory[pages[p // size]][p % size] for p in chunk.rows}
        for chunk in plan.chunks:
            self._verify(chunk)
        return rows

    def _verify(self, chunk: Chunk) -> None:
        """Every position that the chunk's tokens read holds the sequence's own history."""
        sequence = chunk.sequence
        history = contents([*sequence.tokens[: chunk.start], *chunk.tokens], sequence.salt)
        stored = [content for page in sequence.pages for content in self.memory[page]]
        assert stored[: len(history)] == history, f"sequence {sequence.id} reads what is not its own"

    def append(self, plan: Plan, rows: dict[int, dict[int, int]], *, chooses: bool = True) -> dict[int, str]:
        """What the loop does with the rows; gives the sequences that end. Without `chooses` no token follows yet."""
        ended = {}
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if sequence.end_reason:
                continue
            for position, content in rows[sequence.id].items():
                if position < sequence.prompt_length:
                    self.rows[sequence.id, position] += 1
                if not chooses or position != len(sequence.tokens) - 1 or position >= chunk.agreement:
                    continue  # a prompt's row, or one after a token that was forced or not chosen
                new, is_stop = choose(content)
                sequence.tokens += new
                if is_stop:
                    ended[sequence.id] = "stop"
                if is_stop or len(sequence.tokens) >= sequence.limit:
                    break
        return ended

    def commit(self, plan: Plan, ended: dict[int, str]) -> None:
        for sequence in self.scheduler.commit(plan, ended):
            assert sequence.end_reason
            self.reasons[sequence.id].append(sequence.end_reason)
        self.plan = None
        self.scheduler.check()

    def step(self, now: float = 0.0) -> Plan:
        plan = self.schedule(now)
        self.commit(plan, self.append(plan, self.compute(plan)))
        return plan

    def run(self, most: int = 5_000) -> int:
        """Steps until all have ended; the number of steps."""
        for number in range(most):
            if not self.live:
                return number
            self.step()
        raise AssertionError(f"{len(self.live)} sequences live after {most} steps")

    def check_end(self) -> None:
        """Nothing is held, each ended once, and the tokens are those of the reference."""
        self.scheduler.check()
        assert self.pool.held == 0 and self.pool.free + self.pool.cached == self.pool.count
        assert self.scheduler.num_running == self.scheduler.num_waiting == 0
        for sequence, beginning in self.beginnings.values():
            assert self.reasons[sequence.id] == [sequence.end_reason]
            tokens, reason = reference(beginning, sequence.limit, sequence.salt)
            assert sequence.tokens == tokens[: len(sequence.tokens)]
            if sequence.end_reason in ("stop", "length"):
                assert (sequence.tokens, sequence.end_reason) == (tokens, reason)
                if sequence.rows_from is not None:
                    assert all(self.rows[sequence.id, p] == 1 for p in range(sequence.rows_from, sequence.prompt_length - 1))
            assert sequence.cached <= min(sequence.prompt_length, len(beginning) - 1)


def world(
    pages: int = 64, size: int = 4, *, context: int = 1000, step: int = 16, sequences: int = 8, patience: int = 1000
) -> World:
    return World(
        Scheduler(PagePool(pages, size), context=context, max_step_tokens=step, max_sequences=sequences, patience=patience)
    )


class Trace:
    """One random trace: adds, forks, aborts, deadlines, drafts, pins and failures over few pages."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        step = rng.randint(2, 12)
        self.world = world(
            rng.randint(2, 9),
            rng.randint(1, 4),
            context=rng.choice([8, 20, 1000]),
            step=step,
            sequences=rng.randint(1, min(step, 5)),
            patience=rng.choice([2, 5, 50]),
        )
        self.now = 0.0
        self.pins = []  # type: ignore[var-annotated]
        self.prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 14))] for _ in range(2)]

    def run(self) -> World:
        events = [self.add, self.add, self.fork, self.abort, self.pin, self.step, self.step, self.step]
        for _ in range(self.random.randint(4, 14)):
            self.random.choice(events)()
        for _ in range(2_000):
            if not self.world.live:
                break
            self.step()
        for pin in self.pins:
            self.world.pool.unpin(pin)
        assert self.world.pool.pinned == 0
        self.world.check_end()
        return self.world

    def new(self, tokens: list[int]) -> Sequence | None:
        """A sequence; None where admission refuses, as it must exactly when the prompt does not fit."""
        rng, scheduler = self.random, self.world.scheduler
        sequence = Sequence(
            len(self.world.beginnings),
            tokens,
            limit=len(tokens) + rng.randint(1, 10),
            priority=rng.choice([0, 0, 1]),
            tenant=rng.choice("ab"),
            salt=rng.choice(["", "", "other"]),
            deadline=self.now + rng.randint(1, 12) if rng.random() < 0.1 else float("inf"),
            rows_from=rng.randrange(len(tokens)) if rng.random() < 0.1 else None,
        )
        fits = len(tokens) < scheduler.context and scheduler.pool.pages_for(len(tokens)) <= scheduler.pool.count
        if not fits:
            with pytest.raises(CapacityError):
                scheduler.add(sequence)
        return sequence if fits else None

    def add(self) -> None:
        prompt = self.random.choice(self.prompts)
        length = self.random.randint(1, len(prompt))
        if sequence := self.new([*prompt[:length], *self.some(2)]):
            self.world.add(sequence)

    def some(self, most: int) -> list[int]:
        return [self.random.randrange(VOCAB) for _ in range(self.random.randint(0, most))]

    def fork(self) -> None:
        if not self.world.beginnings:
            return
        parent, _ = self.random.choice(list(self.world.beginnings.values()))  # perhaps one that has ended
        length = len(parent.tokens) - self.random.choice([0, 0, 0, 1, 3])
        child = self.new([*parent.tokens[: max(length, 1)], *self.some(1)])
        if child:
            if self.random.random() < 0.9:
                child.salt = parent.salt
            self.world.add(child, parent)

    def abort(self) -> None:
        if self.world.live:
            self.world.abort(self.random.choice(self.world.live))

    def pin(self) -> None:
        if self.pins and self.random.random() < 0.5:
            self.world.pool.unpin(self.pins.pop())
        else:
            try:
                self.pins.append(self.world.pool.pin(self.random.choice(self.prompts)))
            except CapacityError:
                return
        self.world.scheduler.check()

    def step(self) -> None:
        rng, world = self.random, self.world
        self.now += 1
        for sequence in world.live:
            if rng.random() < 0.5:
                guess, _ = reference(sequence.tokens, len(sequence.tokens) + 3, sequence.salt)
                draft = guess[len(sequence.tokens) :] + self.some(2)
                sequence.draft = draft if rng.random() < 0.7 else self.some(3)
        plan = world.schedule(self.now)
        self.meanwhile()
        if rng.random() < 0.02:
            for sequence in world.scheduler.fail(plan):
                world.reasons[sequence.id].append("error")
            world.plan = None
            world.scheduler.check()
            return
        rows = world.compute(plan)
        self.meanwhile()
        ended = world.append(plan, rows, chooses=rng.random() > 0.03)
        self.meanwhile()
        world.commit(plan, {**ended, 10**6: "unknown"})

    def meanwhile(self) -> None:
        if self.random.random() < 0.1:
            self.random.choice([self.add, self.fork, self.abort, self.pin])()


def run_traces(seeds: range) -> Counter[str]:
    """Runs them and counts what happened, so that a test can see that everything did."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        trace = Trace(seed)
        try:
            world = trace.run()
        except Exception as error:
            raise AssertionError(f"trace {seed}") from error
        seen.update(reason for reasons in world.reasons.values() for reason in reasons)
        seen["preempted"] += world.preempted
        seen["evicted"] += world.pool.evictions
        seen["hit"] += world.pool.hit_tokens
        seen["promoted"] += sum(s.is_promoted for s, _ in world.beginnings.values())
    return seen


def test_random_traces() -> None:
    seen = run_traces(range(TRACES))
    for what in ("stop", "length", "abort", "deadline", "error", "preempted", "evicted", "hit", "promoted"):
        assert seen[what] > TRACES // 100, f"{what} hardly happened: {seen}"


@pytest.mark.slow
def test_many_random_traces() -> None:
    run_traces(range(TRACES, TRACES + 40_000))


# The policy, case by case


def ids(plan: Plan) -> dict[int, int]:
    """Tokens of each sequence in the step."""
    return {chunk.sequence.id: len(chunk.tokens) for chunk in plan.chunks}


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


def steady(id: int, length: int, **fields: object) -> Sequence:
    """A sequence for tests that append the tokens themselves; its prompt is like no other."""
    return Sequence(id, [1000 * id + i for i in range(length)], **fields)  # type: ignore[arg-type]


def advance(scheduler: Scheduler, ended: dict[int, str] | None = None, now: float = 0.0) -> Plan:
    """A step in which each sequence that has a row gets the token 7."""
    plan = scheduler.schedule(now)
    scheduler.check()
    for chunk in plan.chunks:
        if chunk.rows:
            chunk.sequence.tokens.append(7)
    scheduler.commit(plan, ended)
    scheduler.check()
    return plan


def test_a_prompt_is_computed_in_chunks_and_its_last_row_is_wanted() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(sequence := steady(1, 40, limit=43))
    chunks = [advance(scheduler).chunks[0] for _ in range(3)]
    assert [(c.start, c.end) for c in chunks] == [(0, 16), (16, 32), (32, 40)]
    plan = scheduler.schedule(0)
    assert plan.chunks[0].tokens == [7] and list(plan.chunks[0].rows) == [40]
    scheduler.commit(plan, {1: "stop"})
    assert sequence.end_reason == "stop" and scheduler.pool.held == 0


def test_rows_of_a_prefill_are_those_of_the_last_token() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(steady(1, 20))
    plan = scheduler.schedule(0)
    assert list(plan.chunks[0].rows) == []
    scheduler.commit(plan)
    assert list(scheduler.schedule(0).chunks[0].rows) == [19]


def test_decoding_comes_before_prefill() -> None:
    scheduler = world(step=8).scheduler
    scheduler.add(steady(1, 4))
    scheduler.add(steady(2, 4))
    assert ids(advance(scheduler)) == {1: 4, 2: 4}
    scheduler.add(steady(3, 30, priority=-1))
    assert ids(advance(scheduler)) == {1: 1, 2: 1, 3: 6}


def test_every_decoding_sequence_gets_a_token_beside_long_forced_texts() -> None:
    scheduler = world(step=8).scheduler
    for id in range(1, 4):
        scheduler.add(steady(id, 2))
    advance(scheduler)
    for chunk in (plan := scheduler.schedule(0)).chunks:
        chunk.sequence.tokens += [7] * (1 if chunk.sequence.id == 3 else 20)  # a grammar forces 19 of them
    scheduler.commit(plan)
    assert ids(advance(scheduler)) == {1: 6, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"length": 50}, CapacityError, "the prompt has 50 tokens, the context 50"),
        ({"length": 41}, CapacityError, "the prompt has 41 tokens, the memory for keys and values holds 40"),
        ({"length": 9, "limit": 9}, UserError, "the prompt has 9 tokens, the limit with the output is 9"),
        ({"length": 0}, UserError, "the prompt is empty"),
    ],
)
def test_what_can_never_be_computed_is_refused_at_admission(fields: dict[str, int], error: type, message: str) -> None:
    scheduler = world(10, 4, context=50).scheduler
    with pytest.raises(error) as raised:
        scheduler.add(steady(1, **fields))
    assert raised.value.message == message  # type: ignore[attr-defined]
    assert scheduler.num_waiting == 0


def test_a_sequence_that_fits_alone_runs_to_the_last_page() -> None:
    alone = world(10, 4, step=16)
    sequence = alone.add(steady(1, 40, limit=100))
    assert sequence.limit == 41
    while sequence.end_reason is None:
        advance(alone.scheduler)
    assert sequence.end_reason == "length" and len(sequence.tokens) == 41


def test_wrong_calls_are_refused() -> None:
    scheduler = world().scheduler
    scheduler.add(sequence := steady(1, 4))
    with pytest.raises(ValueError, match="not new"):
        scheduler.add(sequence)
    with pytest.raises(ValueError, match="not new"):
        scheduler.add(steady(1, 5))
    plan = scheduler.schedule(0)
    with pytest.raises(ValueError, match="neither committed nor failed"):
        scheduler.schedule(0)
    scheduler.commit(plan, {99: "stop"})
    with pytest.raises(ValueError, match="not under way"):
        scheduler.commit(plan)
    assert not scheduler.abort(99)
    with pytest.raises(UserError, match="max_sequences"):
        Scheduler(PagePool(4, 4), max_sequences=9, max_step_tokens=8)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_tokens_come_out_under_pressure(seed: int) -> None:
    results, preempted = [], []
    for pages in (12, 400):
        crowd = world(pages, 4, step=16)
        for id in range(12):
            crowd.add(Sequence(id, prompt(8, seed * 100 + id), limit=40, priority=id % 2))
        crowd.run()
        crowd.check_end()
        results.append([sequence.tokens for sequence, _ in crowd.beginnings.values()])
        preempted.append(crowd.preempted)
    assert results[0] == results[1]
    assert preempted[0] > preempted[1] == 0


@pytest.mark.parametrize("pages", [6, 60])
def test_candidates_share_the_prompt_and_copy_its_last_page_when_they_write(pages: int) -> None:
    """Also where they do not all fit at once."""
    family = world(pages, 4, step=16)
    parent = family.add(Sequence(0, prompt(10), limit=16))
    plan = family.schedule()
    rows = family.compute(plan)
    for id in range(1, 5):
        family.add(Sequence(id, [*parent.tokens, id % VOCAB], limit=16), parent)
    family.commit(plan, family.append(plan, rows))
    children = [sequence for sequence, _ in family.beginnings.values()][1:]
    assert all(child.computed == 10 and child.pages == parent.pages for child in children)
    assert family.pool.held == 3
    if pages == 60:
        assert ids(family.step()) == dict.fromkeys(range(5), 1)
        assert family.pool.held == 2 + len(family.live)  # two full pages of the prompt, and one that each writes
    family.run()
    family.check_end()
    assert (family.preempted > 0) == (pages == 6)


def test_candidates_outlive_a_parent_that_ends_with_its_first_token() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(parent := steady(1, 10))
    plan = scheduler.schedule(0)
    child = Sequence(2, [*parent.tokens, 5])
    scheduler.fork(1, child)
    scheduler.abort(1)
    scheduler.fork(1, late := Sequence(3, [*parent.tokens, 6]))
    scheduler.check()
    scheduler.commit(plan)
    scheduler.check()
    assert child.computed == late.computed == 10 and child.pages == late.pages
    scheduler.fork(1, orphan := Sequence(4, [*parent.tokens, 7]))  # the parent is gone: the prefix tree has two pages
    advance(scheduler)
    assert orphan.computed == 11 and orphan.cached == 8


def test_a_page_that_is_known_is_not_shared_for_writing() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(parent := steady(1, 8))
    advance(scheduler)
    scheduler.fork(1, child := Sequence(2, [*parent.tokens[:6], 5]))  # parts from the parent inside a full page
    scheduler.check()
    assert child.computed == 4
    advance(scheduler)


def test_pages_of_a_step_under_way_stay_held_when_their_sequence_is_aborted() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(sequence := steady(1, 10))
    plan = scheduler.schedule(0)
    assert scheduler.abort(1) and not scheduler.abort(1)
    scheduler.check()
    assert sequence.end_reason == "abort" and scheduler.pool.held == 3
    assert scheduler.commit(plan, {1: "stop"}) == []
    scheduler.check()
    assert sequence.end_reason == "abort" and scheduler.pool.held == 0 and scheduler.pool.cached == 2
    assert scheduler.schedule(0).chunks == []


def test_nothing_of_a_failed_step_is_known() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(sequence := steady(1, 10))
    plan = scheduler.schedule(0)
    assert scheduler.fail(plan) == [sequence] and sequence.end_reason == "error"
    scheduler.check()
    assert scheduler.pool.free == scheduler.pool.count


def test_who_began_in_a_failed_step_without_being_in_it_begins_again() -> None:
    """Its page was to be filled by a copy that perhaps never ran."""
    broken = world(step=8)
    first = broken.add(Sequence(1, prompt(8), limit=9))
    broken.run()
    broken.add(Sequence(2, prompt(20, 2), limit=30))
    third = broken.add(Sequence(3, [*first.tokens[:6], 0, *prompt(30, 3)], limit=40))
    plan = broken.schedule()
    assert ids(plan) == {2: 8} and third.pages[1:] == [plan.copies[-1][1]]
    broken.reasons[2] += [s.end_reason or "" for s in broken.scheduler.fail(plan)]
    broken.run()
    broken.check_end()
    assert third.end_reason in ("stop", "length")


def test_deadlines_end_waiting_and_running_sequences() -> None:
    scheduler = world(step=16, sequences=1).scheduler
    scheduler.add(running := steady(1, 4, deadline=5.0))
    scheduler.add(waiting := steady(2, 4, deadline=4.0))
    assert advance(scheduler, now=3.9).ended == []
    assert advance(scheduler, now=4.0).ended == [waiting]
    assert advance(scheduler, now=9.0).ended == [running]
    assert waiting.end_reason == running.end_reason == "deadline" and scheduler.pool.held == 0


def test_urgent_sequences_go_first_and_take_a_seat() -> None:
    scheduler = world(step=8, sequences=2).scheduler
    for id, priority in ((1, 5), (2, 5), (3, 1)):
        scheduler.add(steady(id, 12, priority=priority))
    assert ids(advance(scheduler)) == {3: 8}
    advance(scheduler)
    scheduler.add(steady(4, 4, priority=0))
    plan = advance(scheduler)
    assert [s.id for s in plan.preempted] == [1] and ids(plan) == {3: 1, 4: 4}
    scheduler.add(steady(5, 4, priority=1))
    assert ids(advance(scheduler)) == {3: 1, 4: 1}  # nobody is displaced by an equal


def test_who_was_preempted_comes_back_before_the_rest_of_its_class() -> None:
    scheduler = world(step=16, sequences=1).scheduler
    scheduler.add(steady(1, 4))
    advance(scheduler)
    scheduler.add(steady(2, 4, tenant="never served"))
    scheduler.add(steady(3, 4, priority=-1))
    assert [s.id for s in advance(scheduler).preempted] == [1]
    advance(scheduler, {3: "stop"})
    assert list(ids(advance(scheduler))) == [1]


def test_who_was_forked_with_a_part_of_its_text_waits_before_those_that_have_not_begun() -> None:
    scheduler = world(step=16, sequences=1).scheduler
    scheduler.add(parent := steady(1, 4))
    advance(scheduler)
    scheduler.add(steady(2, 4, tenant="never served"))
    scheduler.fork(1, Sequence(3, [*parent.tokens[:4], 5]))  # one seat, which is taken
    advance(scheduler, {1: "stop"})
    assert list(ids(advance(scheduler))) == [3]


def test_tenants_are_served_alike_and_idle_time_is_no_credit() -> None:
    scheduler = world(200, 4, step=8, sequences=4, context=100).scheduler
    served: Counter[str] = Counter()

    def run(steps: int) -> None:
        for _ in range(steps):
            plan = advance(scheduler)
            for chunk in plan.chunks:
                served[chunk.sequence.tenant] += len(chunk.tokens)

    for id in range(100):
        scheduler.add(steady(id, 20, limit=21, tenant="first"))
    run(50)
    for id in range(100, 200):
        scheduler.add(steady(id, 20, limit=21, tenant="second"))
    before = Counter(served)
    run(50)
    first, second = served["first"] - before["first"], served["second"]
    assert first + second == 50 * 8
    assert abs(first - second) <= 2 * 20  # a prompt each way


def test_a_long_prompt_does_not_hold_up_short_ones_and_equals_do_not_slow_each_other() -> None:
    scheduler = world(200, 4, step=16).scheduler
    scheduler.add(steady(1, 100))
    scheduler.add(steady(2, 100))
    scheduler.add(steady(3, 8))
    assert ids(advance(scheduler)) == {3: 8, 1: 8}
    assert ids(advance(scheduler)) == {3: 1, 1: 15}


def test_a_short_prompt_has_no_share_before_a_more_urgent_one() -> None:
    scheduler = world(200, 4, step=16).scheduler
    scheduler.add(steady(1, 8, priority=1))
    scheduler.add(steady(2, 100))
    assert ids(advance(scheduler)) == {2: 16}


def test_with_nothing_appended_the_last_token_is_computed_again() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(sequence := steady(1, 8))
    for _ in range(2):
        scheduler.commit(plan := scheduler.schedule(0))
        scheduler.check()
        assert sequence.computed == 7 and list(plan.chunks[0].rows) == [7]
    assert ids(advance(scheduler)) == {1: 1} and sequence.computed == 8


@pytest.mark.parametrize("limit", [5, 9])
def test_a_low_priority_is_served_within_the_stated_bound(limit: int) -> None:
    """Others stay for some steps, or for one alone."""
    patience = 10
    scheduler = world(200, 4, step=4, sequences=2, patience=patience).scheduler
    scheduler.add(low := steady(0, 4, limit=8, priority=9))
    steps = 0
    while low.end_reason is None:
        if steps % 2 == 0 or limit == 5:
            scheduler.add(steady(steps + 1, 4, limit=limit))  # more than there is room for, all more urgent
        advance(scheduler)
        steps += 1
        if low.is_promoted:
            assert scheduler._step - low.served_at <= 1
        assert steps <= 2 * patience + 10
    assert low.is_promoted


def test_without_overtaking_nobody_is_promoted() -> None:
    crowd = world(200, 4, step=16, sequences=2, patience=3)
    for id in range(8):
        crowd.add(Sequence(id, prompt(8, id), limit=30))
    crowd.run()
    assert crowd.preempted == 0 and not any(s.is_promoted for s, _ in crowd.beginnings.values())


def test_a_prefix_that_many_ask_for_is_computed_once() -> None:
    many = world(400, 4, step=32, sequences=16)
    schema = prompt(80)
    for id in range(10):
        many.add(Sequence(id, [*schema, *prompt(6, id + 1)], limit=87))
    computed = 0
    while many.live:
        computed += many.step().num_tokens
    many.check_end()
    assert computed == 80 + 10 * 6 - sum(s.cached % 80 for s, _ in many.beginnings.values())
    first, *others = (s.cached for s, _ in many.beginnings.values())
    assert first == 0 and min(others) >= 80


def test_who_overtakes_computes_the_shared_prefix_and_the_other_takes_it() -> None:
    scheduler = world(100, 4, step=8, sequences=4).scheduler
    tokens = steady(1, 40).tokens
    scheduler.add(slow := Sequence(1, [*tokens, 1], priority=1))
    advance(scheduler)
    scheduler.add(urgent := Sequence(2, [*tokens, 2]))
    plans = [advance(scheduler) for _ in range(4)]
    assert urgent.cached == 8 and [ids(plan).get(1, 0) for plan in plans] == [0, 0, 0, 0]
    advance(scheduler)
    assert slow.cached == 32 and slow.computed == 41


def test_the_next_turn_of_a_conversation_finds_the_last_answer() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(first := steady(1, 6, limit=16))
    while first.end_reason is None:
        advance(scheduler)
    scheduler.add(second := Sequence(2, [*first.tokens, 8, 9]))
    advance(scheduler)
    assert second.cached == 12  # 15 of the 16 were computed: three pages of four


def test_a_part_of_a_page_is_copied() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(first := steady(1, 8))
    advance(scheduler, {1: "stop"})
    scheduler.add(second := Sequence(2, [*first.tokens[:6], 9, 9, 9]))
    plan = advance(scheduler)
    assert second.cached == 6 and [target for _, target in plan.copies] == [second.pages[1]]
    assert ids(plan) == {2: 3} and scheduler.pool.hit_tokens == 6


def test_a_page_that_was_copied_from_is_kept_longer() -> None:
    scheduler = world(4, 4, step=16).scheduler
    copied, other = steady(1, 4), steady(2, 4)
    for sequence in (copied, other):
        scheduler.add(sequence)
        advance(scheduler, {sequence.id: "stop"})
    scheduler.add(Sequence(3, [*copied.tokens[:3], 9]))
    scheduler.add(steady(4, 8))  # there is one page too few
    advance(scheduler)
    assert scheduler.pool.match(copied.tokens).pages and not scheduler.pool.match(other.tokens).pages


def test_rejected_drafts_are_not_known() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(sequence := steady(1, 3))
    advance(scheduler)
    sequence.draft = [1, 2, 3, 4, 5, 6]
    plan = scheduler.schedule(0)
    assert plan.chunks[0].tokens == [7, 1, 2, 3, 4, 5, 6] and list(plan.chunks[0].rows) == list(range(3, 10))
    sequence.tokens += [1, 2, 9]  # two accepted, then another was chosen
    assert plan.chunks[0].agreement == 6
    scheduler.commit(plan)
    scheduler.check()
    assert sequence.computed == 6 and len(sequence.pages) == 2
    assert scheduler.pool.match([*sequence.tokens[:4], 1, 1]).pages == sequence.pages[:1]
    assert scheduler.pool.match([*sequence.tokens[:4], 1, 2, 3, 4, 5]).pages == sequence.pages[:1]
    assert sequence.draft == () and ids(advance(scheduler)) == {1: 1}


def test_drafts_keep_to_the_limit_the_step_and_a_quarter_beside_prefill() -> None:
    scheduler = world(step=16).scheduler
    scheduler.add(sequence := steady(1, 3, limit=10))
    advance(scheduler)
    sequence.draft = [1] * 20
    assert ids(advance(scheduler)) == {1: 1 + 5}  # with the row after the last, ten tokens
    scheduler.abort(1)
    for id in (2, 3):
        scheduler.add(steady(id, 3))
    advance(scheduler)
    drafting = list(scheduler._running.values())
    for sequence in drafting:
        sequence.draft = [1] * 20
    assert ids(advance(scheduler)) == {2: 8, 3: 8}
    scheduler.add(steady(4, 100))
    for sequence in drafting:
        sequence.draft = [1] * 20
    assert ids(advance(scheduler)) == {2: 3, 3: 3, 4: 10}


def test_drafts_displace_nobody() -> None:
    scheduler = world(3, 4, step=16).scheduler
    scheduler.add(first := steady(1, 7))
    scheduler.add(steady(2, 3))
    advance(scheduler)
    first.draft = [1] * 10  # the page after the next token is not there
    plan = advance(scheduler)
    assert ids(plan) == {1: 1, 2: 1} and not plan.preempted


def test_small_prompts_do_not_pass_a_large_one_that_waits_for_pages() -> None:
    scheduler = world(10, 4, step=16).scheduler
    scheduler.add(steady(1, 15, limit=22))
    advance(scheduler)
    scheduler.add(large := steady(2, 24))
    scheduler.add(small := steady(3, 4))
    assert ids(advance(scheduler)) == {1: 1} and large.pages == small.pages == []
    advance(scheduler, {1: "stop"})
    assert ids(advance(scheduler)) == {2: 12, 3: 4}


def test_prompt_rows_are_computed_though_cached_and_come_once() -> None:
    asks = world(9, 4, step=6, sequences=6)
    tokens = prompt(20)
    asks.add(Sequence(0, tokens, limit=21))
    asks.run()
    scored = asks.add(Sequence(1, tokens, limit=30, rows_from=0))
    asks.step()
    asks.step()
    asks.add(Sequence(2, prompt(30, 9), limit=31, priority=-1))  # displaces it in the middle of its prompt
    asks.run()
    asks.check_end()
    assert asks.preempted and scored.end_reason in ("stop", "length")
    assert [asks.rows[1, p] for p in range(20)] == [1] * 20


def test_cached_tokens_are_counted_once() -> None:
    scheduler = world(12, 4, step=16, sequences=1).scheduler
    scheduler.add(first := steady(1, 16))
    advance(scheduler, {1: "stop"})
    scheduler.add(second := Sequence(2, [*first.tokens, 1, 2]))
    advance(scheduler)
    assert second.cached == 16
    scheduler.add(steady(3, 4, priority=-1))
    assert advance(scheduler).preempted == [second]
    advance(scheduler, {3: "stop"})
    advance(scheduler)
    assert second.computed >= 18 and second.cached == 16 and scheduler.pool.hit_tokens == 32


def test_pins_give_way_only_to_a_sequence_that_is_alone() -> None:
    scheduler = world(8, 4, step=32).scheduler
    scheduler.add(steady(1, 8))
    advance(scheduler, {1: "stop"})
    pin = scheduler.pool.pin(steady(1, 8).tokens)
    assert len(pin.pages) == 2
    scheduler.add(steady(2, 16))
    scheduler.add(third := steady(3, 16))
    advance(scheduler)
    assert not pin.is_broken and scheduler.num_waiting == 1
    advance(scheduler, {2: "stop"})
    advance(scheduler, {3: "stop"})
    assert third.end_reason == "stop" and not pin.is_broken
    scheduler.add(large := steady(4, 30))
    advance(scheduler)
    assert pin.is_broken and large.computed == 30
