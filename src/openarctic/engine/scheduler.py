"""What the next step computes: continuous batching with chunked prefill over a pool of pages.

    add / fork / abort ...  ->  plan = schedule(now)  ->  copies, then one model step  ->  tokens chosen  ->  commit(plan, ended)

One plan at a time. `schedule` takes `now` as a number and compares it with deadlines; there is no clock here, no I/O, no
sampling. Between `schedule` and `commit` the loop runs `plan.copies` in their order and then the step, appends to
`sequence.tokens` what was really chosen (and what a grammar forces), and may `fork` and `abort`. `commit` compares the tokens of
the chunk with `sequence.tokens`: as far as they agree, keys and values are right, so accepted drafts need no bookkeeping, and
those of rejected ones are overwritten later. `sequence.tokens` only ever grows.

Policy of a step of `max_step_tokens`:
1. Every decoding sequence gets its pending tokens (at least one each), the best-ranked first.
2. The rest goes to prefill: sequences that began and those that wait, by promotion, priority, the tenant with the least service,
   arrival. The first takes it, but among the first four those of its class with less to do have a share. Who needs the same next
   page as one before it waits for that one's, so a prefix that many ask for at once is computed once.
3. Drafts take what is left; a quarter of the step is kept for them.

Rank: (promoted first, priority, arrival). When pages run out, cache is evicted, then the lowest-ranked running sequence loses its
pages and waits at the head of its class; its tokens are kept and computed again. Who waits displaces only a strictly lower class
(promotion, priority); who runs, anything ranked below it. So the best-ranked sequence is never displaced, and since admission
refused what would not fit alone, it runs to its end: no livelock. (Last resort of a sequence that is alone: pins are broken.)

No starvation: every `patience` steps the oldest sequence that had no token for `patience` steps, while a later one had, is
promoted for good. One with k older ones not served is promoted after at most (k + 2) * patience steps.

Every sequence ends once, with a reason: stop, length, abort, deadline, error, or what the loop says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items

from openarctic.engine.pages import Match, PagePool, common_prefix
from openarctic.engine.plan import UNLIMITED, Chunk, Plan, Sequence
from openarctic.engine.shares import TenantShares
from openarctic.errors import CapacityError, UserError

PREFILLS = 4  # sequences among which a step's prefill is shared


class Scheduler:
    """Sequences of at most `context` tokens, `max_sequences` of them running; at most `max_step_tokens` a step."""

    def __init__(
        self,
        pool: PagePool,
        *,
        context: int = UNLIMITED,
        max_step_tokens: int = 512,
        max_sequences: int = 64,
        patience: int = 128,
    ) -> None:
        if not 1 <= max_sequences <= max_step_tokens:
            raise UserError(f"max_sequences is {max_sequences}, it must be 1 to max_step_tokens, {max_step_tokens}")
        self.pool, self.context = pool, context
        self.max_step_tokens, self.max_sequences, self.patience = max_step_tokens, max_sequences, patience
        self.preemptions = 0
        self._step = 0
        self._arrivals = 0
        self._newest = 0  # the last arrival that had a token since the last promotion
        self._waiting: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._plan: Plan | None = None
        self._forks: list[tuple[Sequence, Sequence]] = []  # parent and child, where the parent is in the step under way
        self._leaving: list[Sequence] = []  # ended, but the step under way still writes to their pages
        self._shares: dict[int, TenantShares] = {}
        self._backlog: Counter[tuple[int, str]] = Counter()  # waiting sequences of (priority, tenant)

    @property
    def under_way(self) -> Plan | None:
        """The plan that is neither committed nor failed."""
        return self._plan

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    # Coming and going

    def add(self, sequence: Sequence) -> None:
        """The sequence waits for its turn.

        Raises UserError for an empty prompt, CapacityError for one that can never be computed; the limit is lowered to what fits.
        """
        self._check_fits(sequence)
        if sequence.arrival or sequence.end_reason or self._find(sequence.id):
            raise ValueError(f"sequence {sequence.id} is not new")
        self._arrivals += 1
        sequence.arrival, sequence.served_at = self._arrivals, self._step
        sequence.prompt_length = len(sequence.tokens)
        sequence.prefill_end = len(sequence.tokens) - 1
        shares = self._shares.setdefault(sequence.priority, TenantShares())
        shares.join(sequence.tenant, has_backlog=self._backlog[sequence.priority, sequence.tenant] > 0)
        self._wait(sequence)

    def _check_fits(self, sequence: Sequence) -> None:
        length, pool = len(sequence.tokens), self.pool
        if not length:
            raise UserError("the prompt is empty")
        if length >= self.context:
            raise CapacityError(f"the prompt has {length} tokens, the context {self.context}", "shorten the prompt")
        if pool.pages_for(length) > pool.count:
            raise CapacityError(
                f"the prompt has {length} tokens, the memory for keys and values holds {pool.count * pool.page_size}",
                "shorten the prompt, or allow more memory",
            )
        if length >= sequence.limit:
            raise UserError(f"the prompt has {length} tokens, the limit with the output is {sequence.limit}")
        sequence.limit = min(sequence.limit, self.context, pool.count * pool.page_size + 1)  # the last token is not computed

    def fork(self, parent_id: int, child: Sequence) -> None:
        """Adds `child`, whose tokens begin as the parent's: it shares the pages of what is computed of that.

        While the parent is in the step under way, this happens at its commit, before ended sequences leave. Where nothing can be
        shared (the parent is gone or preempted, no seat is free), the child waits; with a part of its output, in front of those
        that have not begun, as one that was preempted. Raises as `add` does.
        """
        parent = self._find(parent_id)
        self.add(child)
        if parent is None:
            return
        child.prompt_length = min(child.prompt_length, parent.prompt_length)
        child.is_resuming = len(child.tokens) > child.prompt_length
        if self._plan and parent_id in self._plan.by_id:
            self._forks.append((parent, child))
        else:
            self._share(parent, child)

    def _share(self, parent: Sequence, child: Sequence) -> None:
        size = self.pool.page_size
        is_possible = child.salt == parent.salt and child.rows_from is None and child.id in self._waiting
        if not is_possible or len(self._running) >= self.max_sequences:
            return
        length = common_prefix(parent.tokens[: parent.computed], child.tokens[:-1])
        pages = parent.pages[: self.pool.pages_for(length)]
        if length % size and self.pool.is_known(pages[-1]):  # would be written, and what the tree knows never is
            length -= length % size
            pages.pop()
        if length:
            self.pool.hold(pages)
            child.pages, child.computed, child.reached = pages, length, length
            self._run(child)

    def abort(self, id: int, reason: str = "abort") -> bool:
        """Ends a sequence at any moment; False if it is unknown or has ended."""
        sequence = self._waiting.get(id) or self._running.get(id)
        if sequence is None:
            return False
        self._end(sequence, reason)
        return True

    def _find(self, id: int) -> Sequence | None:
        """A live sequence, or one that ended in the step under way."""
        live = self._waiting.get(id) or self._running.get(id)
        return live or next((sequence for sequence in self._leaving if sequence.id == id), None)

    def _wait(self, sequence: Sequence) -> None:
        self._running.pop(sequence.id, None)
        self._waiting[sequence.id] = sequence
        self._backlog[sequence.priority, sequence.tenant] += 1

    def _run(self, sequence: Sequence) -> None:
        self._stop_waiting(sequence)
        self._running[sequence.id] = sequence

    def _stop_waiting(self, sequence: Sequence) -> None:
        del self._waiting[sequence.id]
        key = (sequence.priority, sequence.tenant)
        self._backlog[key] -= 1
        if not self._backlog[key]:
            del self._backlog[key]

    def _end(self, sequence: Sequence, reason: str) -> None:
        if sequence.id in self._waiting:
            self._stop_waiting(sequence)
        else:
            del self._running[sequence.id]
        sequence.end_reason = reason
        shares = self._shares[sequence.priority]
        shares.leave(sequence.tenant)
        if shares.is_empty:
            del self._shares[sequence.priority]
        if self._plan and sequence.id in self._plan.by_id:
            self._leaving.append(sequence)
        else:
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages = []

    # Planning

    def schedule(self, now: float) -> Plan:
        """The next step; `now` is on the scale of the deadlines. With live sequences there is at least one chunk."""
        if self._plan:
            raise ValueError("the last plan is neither committed nor failed")
        self._step += 1
        plan = Plan(self.max_step_tokens)
        for sequence in [*self._waiting.values(), *self._running.values()]:
            if sequence.deadline <= now:
                self._end(sequence, "deadline")
                plan.ended.append(sequence)
        if self._step % self.patience == 0:
            self._promote()
        self._decode(plan)
        self._prefill(plan)
        self._speculate(plan)
        for chunk in plan.by_id.values():
            sequence = chunk.sequence
            sequence.served_at = self._step
            self._newest = max(self._newest, sequence.arrival)
            self._shares[sequence.priority].charge(sequence.tenant, len(chunk.tokens))
        self._plan = plan
        return plan

    def _promote(self) -> None:
        """The oldest sequence that was passed over for `patience` steps comes before all others from now on."""
        newest, self._newest = self._newest, 0
        starving = [
            sequence
            for sequences in (self._waiting, self._running)
            for sequence in sequences.values()
            if not sequence.is_promoted and self._step - sequence.served_at >= self.patience and sequence.arrival < newest
        ]
        if starving:
            min(starving, key=lambda s: s.arrival).is_promoted = True

    def _decode(self, plan: Plan) -> None:
        decoding = sorted((s for s in self._running.values() if s.is_decoding), key=lambda s: s.rank)
        for num_before, sequence in enumerate(decoding):
            num_after = len(decoding) - num_before - 1
            self._give(plan, sequence, plan.room - num_after)

    def _prefill(self, plan: Plan) -> None:
        drafts = sum(len(chunk.sequence.draft) for chunk in plan.by_id.values())
        kept = min(drafts, self.max_step_tokens // 4, max(plan.room - 1, 0))
        plan.room -= kept
        if plan.room > 0:
            leaders, followers = self._prefilling(plan)
            shorter = [s for s in leaders[1:PREFILLS] if s.level == leaders[0].level and s.left < leaders[0].left]
            share = max(plan.room // (len(shorter) + 1), 1)
            for sequence in shorter:
                self._give(plan, sequence, min(share, plan.room))
            for sequence in leaders:
                self._give(plan, sequence, plan.room)
            for sequence, leader in followers:
                if leader.id not in plan.by_id:
                    self._give(plan, sequence, plan.room)
        plan.room += kept

    def _speculate(self, plan: Plan) -> None:
        """Drafts behind the chunks of decoding sequences, as far as nobody has to give way."""
        drafting = [
            c for c in plan.by_id.values() if c.sequence.is_decoding and c.sequence.draft and not c.sequence.left > len(c.tokens)
        ]
        for num_before, chunk in enumerate(drafting):
            sequence, start = chunk.sequence, chunk.end
            share = -(-plan.room // (len(drafting) - num_before))
            num = min(len(sequence.draft), share, sequence.limit - len(sequence.tokens) - 1)
            if num > 0:
                end = self._reserve(plan, sequence, start, start + num, may_preempt=False)
                self._extend(plan, sequence, sequence.draft[: end - start])
        for sequence in self._running.values():
            sequence.draft = ()

    def _give(self, plan: Plan, sequence: Sequence, most: int) -> None:
        """At most that many of the known tokens that come next, as far as there are pages."""
        if most <= 0 or sequence.id not in self._running:  # not: displaced in this very step
            return
        chunk = plan.by_id.get(sequence.id)
        start = chunk.end if chunk else sequence.computed
        end = min(start + most, len(sequence.tokens))
        if end > start:
            end = self._reserve(plan, sequence, start, end, may_preempt=True)
            self._extend(plan, sequence, sequence.tokens[start:end])

    def _extend(self, plan: Plan, sequence: Sequence, tokens: Items[int]) -> None:
        if tokens:
            chunk = plan.by_id.setdefault(sequence.id, Chunk(sequence, sequence.computed))
            chunk.tokens += tokens
            plan.room -= len(tokens)

    # Pages

    def _reserve(self, plan: Plan, sequence: Sequence, start: int, end: int, *, may_preempt: bool) -> int:
        """Makes the positions from `start` writable, up to the returned one: `end`, or as far as there are pages.

        Others give way only where not even one position could be had.
        """
        pool, pages = self.pool, sequence.pages
        while True:
            is_shared = self._is_shared(sequence, start)
            reach = (len(pages) + pool.available - is_shared) * pool.page_size
            if reach > start:
                break
            if not may_preempt or not self._make_room(plan, sequence):
                return start
        if is_shared:
            self._copy_on_write(plan, sequence, start // pool.page_size)
        end = min(end, reach)
        pages += pool.try_allocate(max(pool.pages_for(end) - len(pages), 0)) or []
        return end

    def _is_shared(self, sequence: Sequence, position: int) -> bool:
        """Whether another table holds the page of `position`; such a page must not be written."""
        index = position // self.pool.page_size
        return index < len(sequence.pages) and self.pool.num_holders(sequence.pages[index]) > 1

    def _copy_on_write(self, plan: Plan, sequence: Sequence, index: int) -> None:
        source = sequence.pages[index]
        copy = self.pool.try_allocate(1)
        assert copy, "reserved"
        self.pool.release([source])
        sequence.pages[index] = copy[0]
        plan.copies.append((source, copy[0]))

    def _make_room(self, plan: Plan, sequence: Sequence) -> bool:
        """The lowest-ranked running sequence gives way to this one. Who is alone breaks pins."""
        holding = [s for s in self._running.values() if s.pages and s is not sequence]
        if not holding:
            return self.pool.try_break_pin()
        victim = max(holding, key=lambda s: s.rank)
        if victim.rank < sequence.rank:
            return False
        self._preempt(plan, victim)
        return True

    def _preempt(self, plan: Plan, sequence: Sequence) -> None:
        """Takes the sequence's pages, and its part of the step. It waits, and its tokens are computed again."""
        chunk = plan.by_id.pop(sequence.id, None)
        plan.room += len(chunk.tokens) if chunk else 0
        plan.preempted.append(sequence)
        self.preemptions += 1
        self._release(sequence)
        sequence.computed, sequence.prefill_end = 0, len(sequence.tokens) - 1
        sequence.draft, sequence.is_resuming = (), True
        self._wait(sequence)

    # Prefill

    def _prefilling(self, plan: Plan) -> tuple[list[Sequence], list[tuple[Sequence, Sequence]]]:
        """Running sequences that prefill, in order, with as many from the queue as the step has room for; and those that had
        better wait for a page that another is about to compute, with that other."""
        leaders: list[Sequence] = []
        followers: list[tuple[Sequence, Sequence]] = []
        under_way: dict[tuple[int | None, str, tuple[int, ...]], Sequence] = {}
        num_looked_at = wanted = 0
        is_blocked = False
        for sequence in self._candidates(plan):
            is_waiting = sequence.id in self._waiting
            if is_waiting:
                is_enough = len(leaders) >= PREFILLS and wanted >= plan.room
                if is_blocked or is_enough or num_looked_at >= self.max_sequences or sequence in plan.preempted:
                    continue
                num_looked_at += 1
            else:
                self._adopt(sequence)
            match = self._match(sequence)
            table = sequence.pages[: sequence.computed // self.pool.page_size] + match.pages
            key = self._next_page(sequence, table)
            leader = under_way.get(key) if key else None
            if leader and (len(table) + 1) * self.pool.page_size <= sequence.cacheable:
                if not is_waiting:
                    followers.append((sequence, leader))
                continue
            if is_waiting and not self._try_start(plan, sequence, match):
                is_blocked = True  # smaller ones behind it do not pass, or it might never find room
                continue
            if key:
                under_way.setdefault(key, sequence)
            leaders.append(sequence)
            wanted += sequence.left
        return leaders, followers

    def _candidates(self, plan: Plan) -> Iterator[Sequence]:
        """Who prefills or waits, in order of service."""
        running, waiting = list(self._running.values()), list(self._waiting.values())
        if len(running) >= self.max_sequences:
            lowest = max(s.level for s in running)
            waiting = [s for s in waiting if s.level < lowest]
        prefilling = [s for s in running if not s.is_decoding]
        yield from sorted(prefilling + waiting, key=self._order)

    def _order(self, sequence: Sequence) -> tuple[bool, int, int, int]:
        is_first = sequence.is_promoted or sequence.is_resuming
        served = -1 if is_first else self._shares[sequence.priority].served(sequence.tenant)
        return (*sequence.level, served, sequence.arrival)

    def _match(self, sequence: Sequence) -> Match:
        """What the cache knows beyond the full pages that the sequence has."""
        table = sequence.pages[: sequence.computed // self.pool.page_size]
        return self.pool.match(sequence.tokens, sequence.salt, limit=sequence.cacheable, table=table)

    def _next_page(self, sequence: Sequence, table: Items[int]) -> tuple[int | None, str, tuple[int, ...]] | None:
        """Names the page that follows the table in the prefix tree; None where the tokens do not fill it."""
        size = self.pool.page_size
        tokens = tuple(sequence.tokens[len(table) * size : (len(table) + 1) * size])
        return (table[-1] if table else None, sequence.salt, tokens) if len(tokens) == size else None

    def _adopt(self, sequence: Sequence) -> None:
        """Takes full pages that became known since the sequence started."""
        found = self._match(sequence).pages
        if found:
            index = sequence.computed // self.pool.page_size
            self.pool.hold(found)
            self.pool.release(sequence.pages[index:])
            sequence.pages[index:] = found
            self._take_from_cache(sequence, len(sequence.pages) * self.pool.page_size)

    def _take_from_cache(self, sequence: Sequence, computed: int) -> None:
        self.pool.hit_tokens += computed - sequence.computed
        sequence.cached += max(min(computed, sequence.prompt_length) - max(sequence.computed, sequence.reached), 0)
        sequence.computed, sequence.reached = computed, max(sequence.reached, computed)

    def _try_start(self, plan: Plan, sequence: Sequence, match: Match) -> bool:
        """Gives a waiting sequence a seat and what the cache has; False while there is no room."""
        self.pool.hold(match.pages)
        need = self.pool.pages_for(len(sequence.tokens)) - len(match.pages)
        if not self._find_pages(plan, sequence, need) or not self._find_seat(plan, sequence):
            self.pool.release(match.pages)
            return False
        self._run(sequence)
        sequence.pages = list(match.pages)
        self._take_from_cache(sequence, len(match.pages) * self.pool.page_size)
        if match.partial:
            self._copy_partial(plan, sequence, match.partial.page, match.partial.num_tokens)
        return True

    def _copy_partial(self, plan: Plan, sequence: Sequence, source: int, num_tokens: int) -> None:
        self.pool.touch(source)
        copy = self.pool.try_allocate(1)
        assert copy, "found"
        sequence.pages += copy
        if copy[0] != source:  # else it was the last page to evict
            plan.copies.append((source, copy[0]))
        self._take_from_cache(sequence, sequence.computed + num_tokens)

    def _find_pages(self, plan: Plan, sequence: Sequence, need: int) -> bool:
        """Whether `need` pages are there beyond what running sequences are about to take; lower classes give way."""
        while (short := need + self._promised() - self.pool.available) > 0:
            lower = [s for s in self._running.values() if sequence.level < s.level]
            if sum(len(s.pages) for s in lower) >= short:
                self._preempt(plan, max(lower, key=lambda s: s.rank))
            elif self._running or not self.pool.try_break_pin():
                return False
        return True

    def _promised(self) -> int:
        """Pages that running sequences still need for their prompts, and one for each that decodes."""
        pages_for = self.pool.pages_for
        return sum(1 if s.is_decoding else pages_for(len(s.tokens)) - len(s.pages) for s in self._running.values())

    def _find_seat(self, plan: Plan, sequence: Sequence) -> bool:
        if len(self._running) < self.max_sequences:
            return True
        victim = max(self._running.values(), key=lambda s: s.rank)
        if sequence.level < victim.level:
            self._preempt(plan, victim)
            return True
        return False

    # What a step did

    def commit(self, plan: Plan, ended: Mapping[int, str] | None = None) -> list[Sequence]:
        """The step is done and `tokens` have grown; `ended` has reasons by id (unknown and ended ids are ignored).

        Full pages of computed tokens become known. Sequences that reached their limit end with "length". Returns all that ended
        here.
        """
        ended = ended or {}
        self._close(plan)
        for chunk in plan.by_id.values():
            self._record(chunk, chunk.sequence.id in ended)
        for parent, child in self._forks:
            self._share(parent, child)
        self._forks = []
        reasons = {c.sequence.id: "length" for c in plan.by_id.values() if len(c.sequence.tokens) >= c.sequence.limit}
        finished = []
        for id, reason in {**reasons, **ended}.items():
            sequence = self._waiting.get(id) or self._running.get(id)
            if sequence:
                self._end(sequence, reason)
                finished.append(sequence)
        self._let_go()
        return finished

    def fail(self, plan: Plan, reason: str = "error") -> list[Sequence]:
        """The step broke: nothing of it counts, and its sequences end. Returns those that ended here."""
        self._close(plan)
        self._forks = []
        finished = [c.sequence for c in plan.by_id.values() if c.sequence.end_reason is None]
        for sequence in finished:
            self._end(sequence, reason)
        self._let_go()
        targets = {target for _, target in plan.copies}  # perhaps never written
        for sequence in list(self._running.values()):
            if targets.intersection(sequence.pages):
                self._preempt(plan, sequence)
        return finished

    def _close(self, plan: Plan) -> None:
        if plan is not self._plan:
            raise ValueError("this plan is not under way")
        self._plan = None

    def _let_go(self) -> None:
        for sequence in self._leaving:
            self._release(sequence)
        self._leaving = []

    def _record(self, chunk: Chunk, is_end: bool) -> None:
        """Counts what agrees with the tokens as computed, makes full pages known, and gives back pages without a position."""
        sequence, pool = chunk.sequence, self.pool
        size, tokens = pool.page_size, sequence.tokens
        computed = chunk.agreement
        goes_on = not is_end and sequence.end_reason is None and len(tokens) < sequence.limit
        if goes_on:  # with nothing appended, the last token is computed again for its logits
            computed = min(computed, len(tokens) - 1)
        sequence.computed, sequence.reached = computed, max(sequence.reached, computed)
        sequence.num_rows = max(sequence.num_rows, min(chunk.end, sequence.prompt_length))
        sequence.is_resuming = sequence.is_resuming and not sequence.is_decoding
        for index in range(chunk.start // size, computed // size):
            after = sequence.pages[index - 1] if index else None
            content = tokens[index * size : (index + 1) * size]
            sequence.pages[index] = pool.insert(sequence.pages[index], content, after=after, salt=sequence.salt)
        spare = sequence.pages[pool.pages_for(computed) :]
        del sequence.pages[len(sequence.pages) - len(spare) :]
        pool.release(spare)

    # Invariants

    def check(self, other_tables: Iterable[Items[int]] = ()) -> None:
        """Raises AssertionError unless sequences and pages agree; `other_tables` hold pages beside the sequences'."""
        size = self.pool.page_size
        assert not self._waiting.keys() & self._running.keys()
        assert len(self._running) <= self.max_sequences
        assert self._plan or not (self._leaving or self._forks)
        for sequence in self._waiting.values():
            assert not sequence.pages and not sequence.computed and sequence.end_reason is None
        for sequence in [*self._running.values(), *self._leaving]:
            chunk = self._plan.by_id.get(sequence.id) if self._plan else None
            written = max(sequence.computed, chunk.end if chunk else 0)
            assert len(sequence.pages) == self.pool.pages_for(written), "pages are not those of the positions"
            assert sequence.computed < len(sequence.tokens)
            num_full = sequence.computed // size
            assert all(self.pool.is_known(page) for page in sequence.pages[:num_full]), "a full page is not in the tree"
            assert not any(self.pool.is_known(page) for page in sequence.pages[num_full:]), "a page of the tree may be written"
        backlog = Counter((s.priority, s.tenant) for s in self._waiting.values())
        assert backlog == self._backlog
        self.pool.check([*(s.pages for s in [*self._running.values(), *self._leaving]), *other_tables])
