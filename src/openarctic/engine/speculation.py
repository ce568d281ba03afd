"""How many drafted tokens a step should verify: a policy of plain numbers, with neither clock nor model.

**Why the tokens are the same.** The loop runs a sequence's last token together with its draft, and then goes through the rows
as if it had decoded one by one: at each position the request's own sampler chooses a token from the row (grammar, penalties,
temperature and seed as ever), and the draft goes on only while the choice is the drafted token; the first choice that differs
is committed in its place, and the rest of the draft is forgotten. Every committed token is thus the sampler's own choice from
the logits of exactly the tokens before it, drawn with the next number of the request's own generator, and a row's logits do not
depend on what else is in the step. So greedy and seeded output are token for token those of plain decoding, not merely alike in
distribution. Rejection sampling (accept a draft x with probability min(1, p(x)/q(x)), else draw from the rest) comes to the
same: a draft that is one certain token has q(x) = 1, so it is accepted with probability p(x), and the rest is p without x,
renormalised: a draw from p that is compared with x does both at once.

**What to verify.** A step of n tokens takes t(n), which is measured; on a processor it grows from the first token on, all the
more so with experts. A draft token's chance q is estimated from how often tokens of like drafts were accepted, and how this
sequence fares against that. The policy takes draft tokens in the order of their chance while (tokens gained) / t(n) grows. What
does not pay gets length 0: on free text that is nearly always, and costs a look into a table. Estimates fade, so that what once
failed is tried again; now and then a step without drafts, or one with likely drafts, is run only to learn how long it takes. A
sequence without good drafts is looked at every few steps only. If in spite of it all the steps with drafts lose time on balance,
speculation pauses altogether, for longer each time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openarctic.engine.suffix import Draft

MAX_DRAFT = 16
SIZES = [*range(1, 17), 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]  # of steps whose time is kept apart
MARGINAL = 0.45  # a further token's time against the first one's, until measured: a hybrid's step of 8 takes 4 times that of 1
DRIFT = 0.05  # share of a step's surprise by which the times of all sizes move; its own moves by a tenth or more
STALE = 100  # steps after which a size without drafts is measured again
OWN_WEIGHT = 2.0  # tokens that a sequence must have seen for half a say
CELL_WEIGHT = 4.0  # tokens that a cell's prior is worth
GAIN = 1.03  # speed that drafts must promise: what promises less is within the errors of all these estimates
PROBED = 0.5  # chance of tokens that are verified to learn what it costs
RATE = 0.7  # chance of a drafted token, until measured
REFRESH = 16  # steps for which what a draft token must promise is not computed anew
LONGEST_REST = 4  # steps in which a sequence with no good draft is not looked at
FADE = 0.998  # what a step leaves of a cell's evidence
OWN_FADE = 0.97


@dataclass(slots=True)
class _Point:
    """Steps of about one size: their mean size, and their mean time in units of `StepTime.scale`."""

    size: float
    time: float
    seen: int = 1
    last: int = 0  # observation in which it last moved


@dataclass(slots=True)
class StepTime:
    """Seconds of a step against the number of its tokens: a mean for each size, on a scale that drifts with the machine."""

    scale: float = 0.0
    _count: int = 0
    _points: dict[int, _Point] = field(default_factory=dict)  # of index in SIZES
    _cache: dict[int, float] = field(default_factory=dict)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A step of that many tokens took that long. One outlier moves a mean by a tenth at most."""
        assert num_tokens > 0 and seconds > 0
        index = _size_index(num_tokens)
        self._count += 1
        self.scale = self.scale or seconds
        point = self._points.get(index)
        if point is None:
            self._points[index] = _Point(num_tokens, seconds / self.scale)
            self._points = dict(sorted(self._points.items()))
        else:
            point.seen += 1
            weight = max(0.1, 1 / point.seen)
            ratio = min(max(seconds / (self.scale * point.time), 0.5), 2.0)
            drift = 1 + DRIFT * (ratio - 1)
            self.scale *= drift
            point.time *= (1 + weight * (ratio - 1)) / drift
            point.size += weight * (num_tokens - point.size)
        self._points[index].last = self._count
        self._cache.clear()

    def is_known(self, num_tokens: int) -> bool:
        """Whether steps of about that size came up lately."""
        point = self._points.get(_size_index(num_tokens))
        return point is not None and self._count - point.last < STALE

    def predict(self, num_tokens: int) -> float:
        """Seconds of such a step, relative to an unknown unit before the first observation."""
        seconds = self._cache.get(num_tokens)
        if seconds is None:
            seconds = self._cache[num_tokens] = self._interpolate(num_tokens)
        return seconds

    def _interpolate(self, num_tokens: int) -> float:
        """Between the nearest points; beyond the last one as if the prior's line went through it."""
        below = above = None
        for point in self._points.values():
            if point.size > num_tokens:
                above = point
                break
            below = point
        if below and above:
            share = (num_tokens - below.size) / (above.size - below.size)
            return self.scale * (below.time + share * (above.time - below.time))
        nearest = below or above
        if nearest is None:
            return 1 + MARGINAL * (num_tokens - 1)
        return self.scale * nearest.time * (1 + MARGINAL * (num_tokens - 1)) / (1 + MARGINAL * (nearest.size - 1))


def _size_index(num_tokens: int) -> int:
    return min(bisect_left(SIZES, num_tokens), len(SIZES) - 1)


@dataclass(slots=True)
class _Tally:
    """Tokens that were verified and accepted, fading; `expected` is what was foretold of the accepted."""

    tried: float = 0.0
    accepted: float = 0.0
    expected: float = 0.0
    at: int = 0  # the step in which it last faded

    def fade(self, step: int, rate: float) -> None:
        if self.at != step:
            kept = rate ** (step - self.at)
            self.tried *= kept
            self.accepted *= kept
            self.expected *= kept
            self.at = step


class Acceptance:
    """The chance that a drafted token is the one that the model chooses, given that all before it were.

    Tokens are alike that have a like length of matching context (which grows with every accepted token) and a like probability in
    the drafter's eyes. Each such cell counts, fading; so does each sequence, against what the cells foretold for it.
    """

    def __init__(self) -> None:
        self._step = 0
        self._cells: dict[int, _Tally] = {}
        self._sequences: dict[int, _Tally] = {}
        self._all = _Tally()

    def chances(self, sequence_id: int, draft: Draft, least: float = 0.0) -> list[float]:
        """For each token of the draft the chance that it and all before it are accepted; none if the first's is below `least`."""
        factor = self.factor(sequence_id)
        total = before = 1.0
        chances: list[float] = []
        for i, p in enumerate(draft.probabilities):
            total *= min(self._estimate(p / before, draft.match_length + i) * factor, 0.99)
            if total < least and not chances:
                break
            chances.append(total)
            before = p
        return chances

    def factor(self, sequence_id: int) -> float:
        """How the sequence's drafts fare against what was foretold."""
        tally = self._sequences.get(sequence_id)
        if tally is None:
            return 1.0
        tally.fade(self._step, OWN_FADE)
        return (tally.accepted + OWN_WEIGHT) / (tally.expected + OWN_WEIGHT)

    def rate(self, sequence_id: int) -> float:
        """The chance of a token of a draft that is not known yet."""
        self._all.fade(self._step, FADE)
        rate = (self._all.accepted + CELL_WEIGHT * RATE) / (self._all.tried + CELL_WEIGHT)
        return min(rate * self.factor(sequence_id), 0.99)

    def observe(self, sequence_id: int, draft: Draft, tried: int, accepted: int) -> None:
        """Of the draft's first `tried` tokens the first `accepted` were right."""
        own = self._sequences.setdefault(sequence_id, _Tally(at=self._step))
        own.fade(self._step, OWN_FADE)
        self._all.fade(self._step, FADE)
        before = 1.0
        for i, p in enumerate(draft.probabilities[: min(tried, accepted + 1)]):
            share, length = p / before, draft.match_length + i
            own.expected += self._estimate(share, length)
            cell = self._cells.setdefault(_cell(share, length), _Tally(at=self._step))
            cell.fade(self._step, FADE)
            for tally in (own, cell, self._all):
                tally.tried += 1
                tally.accepted += i < accepted
            before = p

    def step(self) -> None:
        """One more step has passed."""
        self._step += 1

    def forget(self, sequence_id: int) -> None:
        """The sequence has ended."""
        self._sequences.pop(sequence_id, None)

    def _estimate(self, share: float, length: int) -> float:
        """What came of the cell's tokens, with a prior: the drafter's probability, trusted less where the context is short."""
        prior = share * length / (length + 2)
        tally = self._cells.get(_cell(share, length))
        if tally is None:
            return prior
        tally.fade(self._step, FADE)
        return (tally.accepted + CELL_WEIGHT * prior) / (tally.tried + CELL_WEIGHT)


def _cell(share: float, length: int) -> int:
    return 8 * min(length.bit_length(), 7) + int(share * 4.999)


@dataclass(slots=True)
class _Pause:
    """A switch that goes off for longer each time it turns out that being on does not pay."""

    first: int = 16
    longest: int = 1024
    left: int = 0
    length: int = 0

    def fail(self) -> None:
        self.length = min(max(2 * self.length, self.first), self.longest)
        self.left = self.length

    def succeed(self) -> None:
        self.length //= 2


@dataclass(slots=True)
class SpeculationPolicy:
    """Asked before each step for draft lengths, told after it what came of them."""

    max_draft: int = MAX_DRAFT
    step_time: StepTime = field(default_factory=StepTime)
    acceptance: Acceptance = field(default_factory=Acceptance)
    balance_s: float = 0.0  # time that drafts have saved, fading
    draft_s: float = 0.0  # a drafter's time for one more token in all drafts; 0 where it does not count
    _pause: _Pause = field(default_factory=_Pause)
    _limited: list[int] = field(default_factory=list)  # sequences of the last `limits`
    _asked: dict[int, Draft] = field(default_factory=dict)  # drafts of the last `choose`
    _rests: dict[int, _Pause] = field(default_factory=dict)  # of sequences that had no good draft
    _needed: dict[tuple[int, int], float] = field(default_factory=dict)
    _count: int = 0
    _next_probe: int = 0
    _since: int = 0  # steps with drafts since the last pause

    @property
    def is_paused(self) -> bool:
        """Whether speculation is off as a whole for now."""
        return self._pause.left > 0

    def limits(self, num_tokens: int, room: Mapping[int, int]) -> dict[int, int]:
        """For each sequence the longest draft that is worth asking a drafter for; those with 0 are left out.

        `room`: of each sequence that could have a draft, the tokens it may still take (of its length limit). The step has
        `num_tokens` without drafts.
        """
        if self._pause.left:
            self._pause.left -= 1
            return {}
        if not self.step_time.is_known(num_tokens):  # what drafts are compared with must be measured too
            return {}
        if self._needed_chance(num_tokens, len(room)) >= 1 and not self._may_probe():
            return {}
        longest = self._affordable(num_tokens, list(room)) if self.draft_s > 0 else self.max_draft
        limits = {}
        for id, num in room.items():
            rest = self._rests.get(id)
            if rest and rest.left:
                rest.left -= 1
            elif min(longest, num) > 0:
                limits[id] = min(longest, num)
        self._limited = list(limits)
        return limits

    def choose(self, num_tokens: int, num_sequences: int, drafts: Mapping[int, Draft]) -> dict[int, int]:
        """How many tokens of each draft to verify in a step that has `num_tokens` without drafts; those with 0 are left out.

        `num_sequences` of the step's sequences get a token from it anyway. Maximises the expected tokens a second.
        """
        self._asked = {}
        lengths = self._best_lengths(num_tokens, num_sequences, drafts)
        for sequence_id in self._limited:
            if sequence_id in lengths or (sequence_id in drafts and drafts[sequence_id].score >= 1):
                self._rests.pop(sequence_id, None)
            else:
                self._rests.setdefault(sequence_id, _Pause(first=1, longest=LONGEST_REST)).fail()
        self._limited = []
        self._asked = {sequence_id: drafts[sequence_id] for sequence_id in lengths}
        return lengths

    def _best_lengths(self, num_tokens: int, num_sequences: int, drafts: Mapping[int, Draft]) -> dict[int, int]:
        least = 0.0 if self._may_probe() else self._needed_chance(num_tokens, num_sequences)
        candidates: list[tuple[float, int]] = []
        for sequence_id, draft in drafts.items():
            candidates += [(-chance, sequence_id) for chance in self.acceptance.chances(sequence_id, draft, least)]
        if not candidates:
            return {}
        candidates.sort()  # chances fall along a draft, so its tokens stay in order
        predict = self.step_time.predict
        gained = float(num_sequences)
        best_rate, best = GAIN * gained / predict(num_tokens), 0
        for i, (minus_chance, _) in enumerate(candidates, 1):
            gained -= minus_chance
            rate = gained / predict(num_tokens + i)
            if rate > best_rate:
                best_rate, best = rate, i
        best = best or self._probe(num_tokens, candidates)
        lengths: dict[int, int] = {}
        for _, sequence_id in candidates[:best]:
            lengths[sequence_id] = lengths.get(sequence_id, 0) + 1
        return lengths

    def _may_probe(self) -> bool:
        return self._count >= self._next_probe

    def _probe(self, num_tokens: int, candidates: Sequence[tuple[float, int]]) -> int:
        """Tokens that are verified only to learn how long such a step takes: likely ones, and once in many steps."""
        likely = sum(chance <= -PROBED for chance, _ in candidates)
        if not likely or not self._may_probe() or self.step_time.is_known(num_tokens + likely):
            return 0
        self._next_probe = self._count + STALE
        return likely

    def _needed_chance(self, num_tokens: int, num_sequences: int) -> float:
        """If no token has this chance, no choice of tokens pays: they would have to have it in the mean."""
        found = self._needed.get((num_tokens, num_sequences))
        if found is None:
            times = [self.step_time.predict(num_tokens + i) for i in range(self.max_draft * num_sequences + 1)]
            found = min(num_sequences * (time / times[0] - 1) / i for i, time in enumerate(times) if i)
            self._needed[num_tokens, num_sequences] = found
        return found

    def _affordable(self, num_tokens: int, sequence_ids: Sequence[int]) -> int:
        """The length for all that pays best when every token of a draft takes the drafter `draft_s`."""
        rates = [self.acceptance.rate(id) for id in sequence_ids]
        gained = float(len(rates))
        best_rate, best = gained / self.step_time.predict(num_tokens), 0
        for length in range(1, self.max_draft + 1):
            gained += sum(rate**length for rate in rates)
            seconds = self.step_time.predict(num_tokens + length * len(rates)) + length * self.draft_s
            if gained / seconds > best_rate:
                best_rate, best = gained / seconds, length
        return best

    def observe(self, num_tokens: int, num_sequences: int, outcomes: Mapping[int, tuple[int, int]], seconds: float) -> None:
        """A step is over: its tokens, drafts included; for each draft how many tokens were verified and accepted; its time."""
        self.acceptance.step()
        self.step_time.observe(num_tokens, seconds)
        self._count += 1
        if self._count % REFRESH == 0 or len(self._needed) > 1000:
            self._needed.clear()
        if not outcomes:
            return
        tried = accepted = 0
        for sequence_id, (drafted, right) in outcomes.items():
            tried += drafted
            accepted += right
            if sequence_id in self._asked:
                self.acceptance.observe(sequence_id, self._asked[sequence_id], drafted, right)
        plain = self.step_time.predict(num_tokens - tried)
        saved = plain * accepted / max(num_sequences, 1) - (seconds - plain)
        self.balance_s = 0.95 * self.balance_s + min(max(saved, -plain), plain)
        self._since += 1
        if self._since >= 16 and self.balance_s < 0:
            self._pause.fail()
            self.balance_s, self._since = 0.0, 0
        elif self._since % 64 == 0:
            self._pause.succeed()

    def observe_drafting(self, num_tokens: int, seconds: float) -> None:
        """A drafter whose time counts (a model) took that long for drafts of at most `num_tokens` each."""
        self.draft_s += (seconds / num_tokens - self.draft_s) * (0.1 if self.draft_s else 1.0)

    def forget(self, sequence_id: int) -> None:
        """The sequence has ended."""
        self.acceptance.forget(sequence_id)
        self._asked.pop(sequence_id, None)
        self._rests.pop(sequence_id, None)
