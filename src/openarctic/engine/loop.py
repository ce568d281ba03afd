"""The loop between requests and the model: plan a step, run it, choose tokens, tell the callers, until nobody waits.

One thread runs it while there is work, and ends when there is none: an idle engine has no thread of its own. Callers only touch
the inbox. What fails for one request ends that one; what fails for all ends all, and the next finds the loop ready. Everything
that depends on time or on the machine (clock, threads, native model) is here; what the next step is, is the scheduler's, and
what a token is, the strand's.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.candidate import Candidate
from openarctic.engine.plan import Chunk, Plan, Sequence
from openarctic.engine.request import Limits, Request, Stream, TokenEvent
from openarctic.engine.sampler import Sampler, token_logprob
from openarctic.engine.scheduler import Scheduler
from openarctic.engine.speculator import Speculator
from openarctic.engine.strand import Rows, Strand
from openarctic.errors import CapacityError, UserError
from openarctic.generator import Completion, TokenLogprob

# (tokens, sequences, positions, tables, wanted) -> rows
Step = Callable[[list[int], list[int], list[int], NDArray[np.int32], list[int]], Rows]


@dataclass(slots=True, eq=False)
class _Job:
    """One request under way. Its candidates begin as one line; what parts from it gets a sequence that is forked from its."""

    stream: Stream
    candidates: list[list[Candidate]]  # of each setting
    prompt_scores: list[list[TokenLogprob | None] | None]
    left: int = 0  # candidates that have not ended

    @property
    def request(self) -> Request:
        return self.stream.request


@dataclass(slots=True, eq=False)
class _Line:
    """Candidates that have written the same so far, and their sequence in the scheduler."""

    job: _Job
    strand: Strand
    sequence: Sequence


@dataclass(slots=True, eq=False, weakref_slot=True)
class Loop:
    """`step` runs the native model, `copy_page` copies a page of keys and values."""

    step: Step
    copy_page: Callable[[int, int], None]
    scheduler: Scheduler
    limits: Limits
    speculator: Speculator | None = None
    clock: Callable[[], float] = time.monotonic
    busy: threading.Lock = field(default_factory=threading.Lock)  # held through a step: who holds it may use model and pool
    _inbox: deque[Callable[[], None]] = field(default_factory=deque)  # appended to from anywhere, even where _lock is held
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of _thread
    _thread: threading.Thread | None = None
    _process: int = field(default_factory=os.getpid)
    _jobs: dict[Stream, _Job] = field(default_factory=dict)
    _lines: dict[int, _Line] = field(default_factory=dict)  # by sequence id
    _ids: Any = field(default_factory=lambda: itertools.count(1))
    _assistant: ThreadPoolExecutor | None = None

    # Callers' side

    def __post_init__(self) -> None:
        _LOOPS.add(self)

    def submit(self, request: Request) -> Stream:
        """Queues a checked request. Raises UserError in a forked process, CapacityError where no thread can be started."""
        self.check_process()
        stream = Stream(request, self._cancel)
        stream.usage.prompt_tokens = len(request.ids)
        message = partial(self._start, stream)
        self._inbox.append(message)
        try:
            self._wake()
        except RuntimeError as error:
            self._inbox.remove(message)  # others may have come after it
            raise CapacityError(f"the engine cannot start its thread: {error}") from error
        return stream

    def check_process(self) -> None:
        """Raises UserError where the engine was made in another process: a fork has none of its threads."""
        if os.getpid() != self._process:
            raise UserError("this engine was loaded before the process was forked", "load it in the process that uses it")

    def stop(self) -> None:
        """Ends every request, and waits for the thread."""
        thread = self._thread
        if thread is not None and os.getpid() == self._process:
            self._inbox.append(self._abort_all)
            thread.join(timeout=10)

    def _cancel(self, stream: Stream) -> None:
        """Called from anywhere, the garbage collector included: takes no lock. Without a thread there is nothing to cancel."""
        if not stream.is_done:
            self._inbox.append(lambda: self._abort(stream, "abort"))

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="openarctic-engine", daemon=True)
                thread.start()  # it waits for the lock
                self._thread = thread

    # The loop's side

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._inbox and not self._jobs:
                    self._thread = None
                    if self._assistant:
                        self._assistant.shutdown(wait=False)
                        self._assistant = None
                    return
            try:
                with self.busy:
                    while self._inbox:
                        self._inbox.popleft()()
                    if self._jobs:
                        self._advance()
            except BaseException as error:  # noqa: BLE001 - every caller that waits must be told
                for job in list(self._jobs.values()):
                    with suppress(BaseException):  # what a failure leaves may fail again; the caller has been told
                        self._fail(job, error)

    def _start(self, stream: Stream) -> None:
        try:
            self._begin_job(stream)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            if job := self._jobs.get(stream):
                self._fail(job, error)
            stream.end([], error)

    def _begin_job(self, stream: Stream) -> None:
        request = stream.request
        limit = min(request.max_tokens, self.limits.context - len(request.ids))
        index = itertools.count()
        samplers = [[Sampler(s, request.ids, number) for number in range(s.num_candidates)] for s in request.settings]
        candidates = [[Candidate(next(index), sampler, self.limits.tokenizer, limit) for sampler in group] for group in samplers]
        start = request.prompt_logprobs_start
        scores: list[list[TokenLogprob | None] | None] = [
            None if s.prompt_logprobs is None else [None] * (start + 1) for s in request.settings
        ]
        job = self._jobs[stream] = _Job(stream, candidates, scores, left=next(index))
        is_scored = any(known is not None for known in scores)
        follower = request.follower.copy() if request.follower else None
        strand = Strand(list(itertools.chain(*candidates)), follower, request.forces_tokens)
        self.scheduler.add(self._line(job, strand, rows_from=start if is_scored else None).sequence)

    def _line(self, job: _Job, strand: Strand, *, rows_from: int | None = None) -> _Line:
        request = job.request
        sequence = Sequence(
            next(self._ids),
            request.ids + strand.ids,
            limit=len(request.ids) + strand.candidates[0].limit,
            priority=request.priority,
            tenant=request.tenant,
            salt=request.tenant,
            deadline=math.inf if request.deadline is None else request.deadline,
            rows_from=rows_from,
        )
        line = self._lines[sequence.id] = _Line(job, strand, sequence)
        return line

    def _abort(self, stream: Stream, reason: str) -> None:
        if job := self._jobs.get(stream):
            self._end_all(job, reason)

    def _abort_all(self) -> None:
        for job in list(self._jobs.values()):
            self._end_all(job, "abort")

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
        if self.speculator:
            self._propose(self.speculator)
        plan = self.scheduler.schedule(self.clock())
        for job in {self._lines[s.id].job for s in plan.ended if s.id in self._lines}:
            self._end_all(job, "deadline")  # a deadline is the request's: all its sequences end
        try:
            moved = [line for line in self._run(plan) if line.sequence.id in self._lines]
            ended = {line.sequence.id: "stop" for line in moved if line.strand.is_over}
            self.scheduler.commit(plan, ended)
        except BaseException:
            if self.scheduler.under_way is plan:
                self.scheduler.fail(plan)
            raise
        for line in moved:
            self._tell(line)

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
        at = num_moved = 0
        for chunk in chunks:
            line = self._lines.get(chunk.sequence.id)
            count = len(chunk.rows)
            if line is not None and count:
                try:
                    parts = self._take(line, chunk, rows[at : at + count], outcomes)
                    moved += parts
                    num_moved += bool(parts)
                except Exception as error:  # noqa: BLE001 - the caller gets it, and nobody else suffers
                    self._fail(line.job, error)
            at += count
        if self.speculator:
            self.speculator.observe(plan.num_tokens, num_moved, outcomes, seconds)
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
        followers = [line.strand.follower for c in chunks if c.rows and (line := self._lines.get(c.sequence.id))]
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
        try:
            return self._assistant.submit(lambda: [follower.prepare() for follower in followers])
        except RuntimeError:  # no more threads; whoever needs a mask computes it
            return None

    def _take(self, line: _Line, chunk: Chunk, rows: Rows, outcomes: dict[int, tuple[int, int]]) -> list[_Line]:
        """Tokens from a chunk's rows; gives the lines that moved."""
        job, sequence = line.job, line.sequence
        if sequence.rows_from is not None:
            self._score_prompt(job, chunk, rows)
        if chunk.end < len(sequence.tokens):
            return []
        num_drafts = chunk.end - len(sequence.tokens)
        draft = chunk.tokens[len(chunk.tokens) - num_drafts :] if num_drafts else []
        last = rows[len(rows) - num_drafts - 1 :]
        moved, agreed = self._part(line, last, draft)
        if draft:
            outcomes[sequence.id] = (num_drafts, agreed)
            job.stream.usage.draft_tokens += num_drafts
            job.stream.usage.accepted_tokens += agreed
        return moved

    def _part(self, line: _Line, rows: Rows, draft: list[int]) -> tuple[list[_Line], int]:
        """Its candidates choose. Those that agree longest with the draft keep the sequence, others get one forked from it.

        Gives a line for each part, and how many tokens of the draft were right.
        """
        job, before = line.job, len(line.strand.ids)
        parts = line.strand.take(rows, draft)
        staying = max(parts, key=lambda part: (not part.is_over, part.agreed))
        line.strand = staying
        line.sequence.tokens += staying.ids[before:]
        lines = [line if part is staying else self._line(job, part) for part in parts]
        for each in lines:
            if each is not line and not each.strand.is_over:
                self.scheduler.fork(line.sequence.id, each.sequence)
            if self.speculator:
                if each is line and before:
                    self.speculator.append(line.sequence.id, staying.ids[before:])
                else:
                    self.speculator.start(each.sequence.id, job.request.tenant, job.request.ids, each.strand.ids)
        if not before:  # the prompt is computed
            job.stream.usage.cached_tokens = line.sequence.cached
        return lines, max(part.agreed for part in parts)

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
        lines = [line for line in self._lines.values() if line.strand.ids and line.sequence.end_reason is None]
        if len(lines) < len(self._lines):
            return
        room = {line.sequence.id: line.sequence.limit - len(line.sequence.tokens) - 1 for line in lines}
        try:
            drafts = speculator.propose(room, sum(line.sequence.left for line in lines))
        except Exception as error:  # noqa: BLE001 - it is only for speed
            self._stop_speculating(error)
            drafts = {}
        for id, tokens in drafts.items():
            line = self._lines[id]
            follower = line.strand.follower
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

    def _tell(self, line: _Line) -> None:
        """What its candidates wrote in this step; those that ended leave."""
        job, strand = line.job, line.strand
        for candidate in strand.candidates:
            self._publish(job.stream, candidate)
        job.left -= len(strand.candidates) - len(strand.live)
        strand.candidates = strand.live
        if not strand.candidates:
            self._forget(line)
        if not job.left:
            self._finish(job)

    def _forget(self, line: _Line) -> None:
        self._lines.pop(line.sequence.id, None)
        if self.speculator:
            try:
                self.speculator.finish(line.sequence.id)
            except Exception as error:  # noqa: BLE001 - it is only for speed
                self._stop_speculating(error)

    def _stop_speculating(self, error: Exception) -> None:
        warnings.warn(f"speculation is off from now on: {error!r}", RuntimeWarning, stacklevel=3)
        self.speculator = None

    def _finish(self, job: _Job) -> None:
        self._jobs.pop(job.stream, None)
        job.stream.end(list(_completions(job)))

    def _fail(self, job: _Job, error: BaseException) -> None:
        """The request ends with that error, even where its sequences cannot be given up."""
        self._jobs.pop(job.stream, None)
        try:
            for line in self._lines_of(job):
                self._forget(line)
                self.scheduler.abort(line.sequence.id, "error")
        finally:
            job.stream.end([], error)


def _completions(job: _Job) -> Iterable[Completion]:
    """`n` of each setting, the ones with the highest mean log probability where `best_of` made more."""
    for sampling, group, prompt_logprobs in zip(job.request.settings, job.candidates, job.prompt_scores, strict=True):
        best = group
        if sampling.num_candidates > sampling.n:
            best = sorted(group, key=Candidate.mean_logprob, reverse=True)
        if prompt_logprobs is not None:  # it may have ended before all of them were there
            prompt_logprobs += [None] * (len(job.request.ids) - len(prompt_logprobs))
        yield from (candidate.completion(prompt_logprobs) for candidate in best[: sampling.n])


_LOOPS: weakref.WeakSet[Loop] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A thread inside the native model would not survive the end of the interpreter."""
    for loop in list(_LOOPS):
        loop.stop()
