"""The scheduler against a simulated memory of keys and values: every slot of every page records which tokens it was computed from.

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
            assert chunk.end < chunk.sequence.limit + chunk.sequence.wants_every_row
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

    def append(self, plan: Plan, rows: dict[int, dict[int, int]]) -> dict[int, str]:
        """What the loop does with the rows; gives the sequences that end."""
        ended = {}
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if sequence.end_reason:
                continue
            for position, content in rows[sequence.id].items():
                if position < sequence.prompt_length:
                    self.rows[sequence.id, position] += 1
                if position != len(sequence.tokens) - 1 or position >= chunk.agreement:
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
                if sequence.wants_every_row:
                    assert all(self.rows[sequence.id, p] == 1 for p in range(sequence.prompt_length))
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
            wants_every_row=rng.random() < 0.1,
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
        ended = world.append(plan, rows)
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
