"""The loop between requests and the model: plan a step, run it, choose tokens, tell the callers, until nobody waits.

One thread runs it while there is work, and ends when there is none: an idle engine has no thread of its own. Callers only touch
the inbox. Everything that depends on time or on the machine (clock, threads, native model) is here; what the next step is, is
the scheduler's, and what a token is, the candidate's.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.candidate import Candidate, Rows
from openarctic.engine.request import Limits, Request, Stream, TokenEvent
from openarctic.engine.sampler import Sampler, token_logprob
from openarctic.engine.scheduler import Chunk, Plan, Scheduler, Sequence
from openarctic.engine.speculator import Speculator
from openarctic.generator import Completion, TokenLogprob

# (tokens, sequences, positions, tables, wanted) -> rows
Step = Callable[[list[int], list[int], list[int], NDArray[np.int32], list[int]], Rows]


@dataclass(slots=True, eq=False)
class _Job:
    """One request under way. Only the first candidate's sequence computes the prompt; the others are forked from it."""

    stream: Stream
    candidates: list[list[Candidate]]  # of each setting
    prompt_scores: list[list[TokenLogprob | None] | None]
    has_started: bool = False  # the first tokens were chosen
    left: int = 0  # candidates that have not ended

    @property
    def request(self) -> Request:
        return self.stream.request


@dataclass(slots=True, eq=False)
class _Line:
    """A candidate and its sequence in the scheduler."""

    job: _Job
    candidate: Candidate
    sequence: Sequence


@dataclass(slots=True, eq=False)
class Loop:
    """`step` runs the native model, `copy_page` copies a page of keys and values."""

    step: Step
    copy_page: Callable[[int, int], None]
    scheduler: Scheduler
    limits: Limits
    speculator: Speculator | None = None
    clock: Callable[[], float] = time.monotonic
    busy: threading.Lock = field(default_factory=threading.Lock)  # held through a step: who holds it may use model and pool
    _inbox: deque[Callable[[], None]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of inbox and thread
    _thread: threading.Thread | None = None
    _jobs: dict[Stream, _Job] = field(default_factory=dict)
    _lines: dict[int, _Line] = field(default_factory=dict)  # by sequence id
    _ids: Any = field(default_factory=lambda: itertools.count(1))
    _assistant: ThreadPoolExecutor | None = None

    # Callers' side

    def submit(self, request: Request) -> Stream:
        """Queues a checked request."""
        stream = Stream(request, self._cancel)
        stream.usage.prompt_tokens = len(request.ids)
        self._post(lambda: self._start(stream))
        return stream

    def _cancel(self, stream: Stream) -> None:
        if not stream.is_done:
            self._post(lambda: self._abort(stream, "abort"))

    def _post(self, message: Callable[[], None]) -> None:
        with self._lock:
            self._inbox.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="openarctic-engine", daemon=True)
                self._thread.start()

    # The loop's side

    def _work(self) -> None:
        while True:
            with self._lock:
                messages = list(self._inbox)
                self._inbox.clear()
                if not messages and not self._jobs:
                    self._thread = None
                    if self._assistant:
                        self._assistant.shutdown(wait=False)
                        self._assistant = None
                    return
            for message in messages:
                message()
            if self._jobs:
                with self.busy:
                    self._advance()

    def _start(self, stream: Stream) -> None:
        request = stream.request
        limit = min(request.max_tokens, self.limits.context - len(request.ids))
        index = itertools.count()
        candidates = [
            [
                self._candidate(request, Sampler(sampling, request.ids, n), next(index), limit)
                for n in range(sampling.num_candidates)
            ]
            for sampling in request.settings
        ]
        scores: list[list[TokenLogprob | None] | None] = [None if s.prompt_logprobs is None else [None] for s in request.settings]
        job = _Job(stream, candidates, scores, left=next(index))
        self._jobs[stream] = job
        line = self._line(job, candidates[0][0], list(request.ids), wants_every_row=any(s is not None for s in scores))
        try:
            self.scheduler.add(line.sequence)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            del self._lines[line.sequence.id]
            self._fail(job, error)

    def _candidate(self, request: Request, sampler: Sampler, index: int, limit: int) -> Candidate:
        follower = request.follower.copy() if request.follower else None
        return Candidate(index, sampler, self.limits.tokenizer, limit, follower, request.forces_tokens)

    def _line(self, job: _Job, candidate: Candidate, tokens: list[int], *, wants_every_row: bool = False) -> _Line:
        request = job.request
        sequence = Sequence(
            next(self._ids),
            tokens,
            limit=len(request.ids) + candidate.limit,
            priority=request.priority,
            tenant=request.tenant,
            salt=request.tenant,
            deadline=math.inf if request.deadline is None else request.deadline,
            wants_every_row=wants_every_row,
        )
        line = self._lines[sequence.id] = _Line(job, candidate, sequence)
        return line

    def _abort(self, stream: Stream, reason: str) -> None:
        if job := self._jobs.get(stream):
            self._end_all(job, reason)

    def _end_all(self, job: _Job, reason: str) -> None:
        """Every candidate that is left ends with that reason."""
        for line in self._lines_of(job):
            self.scheduler.abort(line.sequence.id, reason)
            self._forget(line)
        for candidate in itertools.chain(*job.candidates):
            if candidate.finish_reason is None:
                candidate.finish(reason)
                self._publish(job.stream, candidate)
        self._finish(job)

    def _lines_of(self, job: _Job) -> list[_Line]:
        return [line for line in self._lines.values() if line.job is job]

    # One step

    def _advance(self) -> None:
        plan = None
        try:
            if self.speculator:
                self._propose(self.speculator)
            plan = self.scheduler.schedule(self.clock())
            for job in {self._lines[s.id].job for s in plan.ended if s.id in self._lines}:
                self._end_all(job, "deadline")  # a deadline is the request's: all its sequences end
            moved = self._run(plan)
            ended = {line.sequence.id: line.candidate.finish_reason for line in moved if line.candidate.finish_reason}
            self.scheduler.commit(plan, ended)
        except BaseException as error:  # noqa: BLE001 - every caller that waits must be told
            if plan is not None:
                self.scheduler.fail(plan)
            for job in list(self._jobs.values()):
                self._fail(job, error)
            return
        for line in moved:
            self._publish(line.job.stream, line.candidate)
            if line.candidate.finish_reason is not None:
                self._leave(line)

    def _run(self, plan: Plan) -> list[_Line]:
        """Runs the step and chooses tokens; gives the lines that moved."""
        chunks = plan.chunks
        for source, target in plan.copies:
            self.copy_page(source, target)
        if not chunks:
            return []
        started = self.clock()
        rows = self._model_step(chunks)
        seconds = self.clock() - started
        outcomes: dict[int, tuple[int, int]] = {}
        moved: list[_Line] = []
        at = 0
        for chunk in chunks:
            line = self._lines.get(chunk.sequence.id)
            count = len(chunk.rows)
            if line is not None and count:
                moved += self._take(line, chunk, rows[at : at + count], outcomes)
            at += count
        if self.speculator:
            self.speculator.observe(plan.num_tokens, len(moved), outcomes, seconds)
        return moved

    def _model_step(self, chunks: list[Chunk]) -> Rows:
        """The chunks' rows, one after the other."""
        tokens: list[int] = []
        sequences: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        tables = np.zeros((len(chunks), max(len(c.sequence.pages) for c in chunks)), np.int32)
        for i, chunk in enumerate(chunks):
            base = len(tokens) - chunk.start
            wanted += [base + position for position in chunk.rows]
            tokens += chunk.tokens
            sequences += [i] * len(chunk.tokens)
            positions += range(chunk.start, chunk.end)
            tables[i, : len(chunk.sequence.pages)] = chunk.sequence.pages
        followers = [line.candidate.follower for c in chunks if c.rows and (line := self._lines.get(c.sequence.id))]
        masks = self._prepare_masks([f for f in followers if f is not None and not f.is_prepared])
        try:
            return self.step(tokens, sequences, positions, tables, wanted)
        finally:
            if masks:
                masks.result()

    def _prepare_masks(self, followers: list[Any]) -> Any:
        """Computes masks in another thread while the model runs."""
        if not followers:
            return None
        if self._assistant is None:
            self._assistant = ThreadPoolExecutor(1, thread_name_prefix="openarctic-masks")
        return self._assistant.submit(lambda: [follower.prepare() for follower in followers])

    def _take(self, line: _Line, chunk: Chunk, rows: Rows, outcomes: dict[int, tuple[int, int]]) -> list[_Line]:
        """Tokens from a chunk's rows; gives the lines that moved."""
        job, sequence = line.job, line.sequence
        if sequence.wants_every_row:
            self._score_prompt(job, chunk, rows)
        if chunk.end < len(sequence.tokens):
            return []
        num_drafts = chunk.end - len(sequence.tokens)
        draft = chunk.tokens[len(chunk.tokens) - num_drafts :] if num_drafts else []
        last = rows[len(rows) - num_drafts - 1 :]
        if not job.has_started:
            return self._begin(line, last[:1])
        before = len(line.candidate.ids)
        agreed = line.candidate.take(last, draft)
        self._grow(line, before)
        if draft:
            outcomes[sequence.id] = (num_drafts, agreed)
            job.stream.usage.draft_tokens += num_drafts
            job.stream.usage.accepted_tokens += agreed
        return [line]

    def _begin(self, first: _Line, row: Rows) -> list[_Line]:
        """The prompt is computed: every candidate chooses its first token, and all but the first get sequences of their own."""
        job = first.job
        job.has_started = True
        job.stream.usage.cached_tokens = first.sequence.cached
        prompt = list(job.request.ids)
        lines = []
        for candidate in itertools.chain(*job.candidates):
            candidate.take(row, [])
            line = first if candidate is first.candidate else self._line(job, candidate, [*prompt])
            self._grow(line, 0)
            if line is not first and candidate.finish_reason is None:
                self.scheduler.fork(first.sequence.id, line.sequence)
            if self.speculator:
                self.speculator.start(line.sequence.id, job.request.tenant, prompt, candidate.ids)
            lines.append(line)
        return lines

    def _grow(self, line: _Line, before: int) -> None:
        """The scheduler and the drafter learn the tokens after the first `before`."""
        new = line.candidate.ids[before:]
        line.sequence.tokens += new
        if self.speculator and before:
            self.speculator.append(line.sequence.id, new)

    def _score_prompt(self, job: _Job, chunk: Chunk, rows: Rows) -> None:
        ids = job.request.ids
        for position, row in zip(chunk.rows, rows.logits, strict=True):
            for scores, sampling in zip(job.prompt_scores, job.request.settings, strict=True):
                if scores is not None and len(scores) == position + 1 < len(ids):
                    scores.append(token_logprob(row, ids[position + 1], sampling.prompt_logprobs or 0))

    def _propose(self, speculator: Speculator) -> None:
        """Sets drafts where every running sequence decodes; while a prompt waits, its tokens are worth more."""
        if self.scheduler.num_waiting:
            return
        lines = [line for line in self._lines.values() if line.job.has_started and line.sequence.end_reason is None]
        if len(lines) < len(self._lines):
            return
        room = {line.sequence.id: line.sequence.limit - len(line.sequence.tokens) - 1 for line in lines}
        drafts = speculator.propose(room, sum(line.sequence.left for line in lines))
        for id, tokens in drafts.items():
            line = self._lines[id]
            follower = line.candidate.follower
            line.sequence.draft = tokens[: follower.accepted(tokens)] if follower else tokens

    # Telling and ending

    def _publish(self, stream: Stream, candidate: Candidate) -> None:
        """Puts what is new of a candidate into its stream."""
        ids, start = candidate.ids, candidate.num_shown
        candidate.num_shown = len(ids)
        stream.usage.completion_tokens += len(ids) - start
        if stream.is_heard and stream.request.is_streamed:
            asks = candidate.sampling.logprobs is not None
            logprobs = tuple(candidate.logprobs[start : len(ids)]) if asks else None
            text, candidate.unshown = candidate.unshown, ""
            reasons = (candidate.finish_reason, candidate.stop_reason)
            stream.put([TokenEvent(candidate.index, tuple(ids[start:]), text, logprobs, *reasons)])

    def _leave(self, line: _Line) -> None:
        """A candidate has ended by itself."""
        line.job.left -= 1
        self._forget(line)
        if not line.job.left:
            self._finish(line.job)

    def _forget(self, line: _Line) -> None:
        if self.speculator:
            self.speculator.finish(line.sequence.id)
        self._lines.pop(line.sequence.id, None)

    def _finish(self, job: _Job) -> None:
        self._jobs.pop(job.stream, None)
        job.stream.end(list(_completions(job)))

    def _fail(self, job: _Job, error: BaseException) -> None:
        self._jobs.pop(job.stream, None)
        for line in self._lines_of(job):
            self.scheduler.abort(line.sequence.id, "error")
            self._forget(line)
        job.stream.end([], error)


def _completions(job: _Job) -> Iterable[Completion]:
    """`n` of each setting, the ones with the highest mean log probability where `best_of` made more."""
    for sampling, group, prompt_logprobs in zip(job.request.settings, job.candidates, job.prompt_scores, strict=True):
        best = group
        if sampling.num_candidates > sampling.n:
            best = sorted(group, key=Candidate.mean_logprob, reverse=True)
        yield from (candidate.completion(prompt_logprobs) for candidate in best[: sampling.n])
