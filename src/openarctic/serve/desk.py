"""Named databases behind the server: who may ask what of them, and copilots that wait for the next question.

A copilot (schema as its reader may see it, a process that runs statements) belongs to one database and one reader, and answers
one question at a time. Some are kept; a database that changed is read anew.

What copilots need (parsers, charts: much to import) is loaded with the first one, or by `warm`: a server is ready before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openarctic.copilot.principal import Principal
from openarctic.engine.request import Stream
from openarctic.errors import CapacityError, UserError
from openarctic.generator import GREEDY, Completion, Constraint, OnText, Sampling
from openarctic.serve.errors import HTTPError
from openarctic.serve.keys import ANYONE, Key
from openarctic.serve.work import Work, deadline

if TYPE_CHECKING:
    from openarctic.copilot.ask import Answer, Copilot, OnLinked
    from openarctic.copilot.conversation import Conversation
    from openarctic.copilot.databases import Database
    from openarctic.copilot.feedback import FeedbackFile
    from openarctic.copilot.linking.values import ValueLink
    from openarctic.copilot.policy import Policy
    from openarctic.copilot.semantic.model import SemanticModel
    from openarctic.engine import Engine
    from openarctic.serve.metrics import Metrics

MAX_IDLE = 16  # copilots that are kept
MAX_BUSY = 8  # questions and statements at a time
MAX_BUSY_OF_KEY = 4  # of them of one key, where there are keys: no key keeps all others waiting
WAIT_S = 30.0

Result = TypeVar("Result")
OnWork = Callable[[Work], None]


class Voice:
    """The engine for one question: what it writes is for the asking key, and can be stopped from outside."""

    def __init__(self, engine: Engine) -> None:
        from openarctic.copilot.confidence import fingerprint_of

        self._engine = engine
        self.target_form = engine.target_form
        self.asks_questions: bool = getattr(engine, "asks_questions", False)
        self.name = engine.name
        self.fingerprint = fingerprint_of(engine)  # a calibration is found by it
        self.tenant = ""
        self._streams: list[Stream] = []
        self._is_stopped = False
        self._lock = threading.Lock()

    def count_tokens(self, text: str) -> int:
        """Length in tokens."""
        return self._engine.count_tokens(text)

    def keep_prefix(self, text: str) -> None:
        """Keep what is computed of a prompt's beginning."""
        self._engine.keep_prefix(text, tenant=self.tenant)

    def generate(
        self,
        prompt: str,
        *,
        sampling: Sequence[Sampling] = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
    ) -> list[Completion]:
        """As `Generator.generate`. Raises CapacityError once stopped."""
        from openarctic.copilot.models import heard

        with self._lock:
            if self._is_stopped:
                raise CapacityError("the question was given up")
            given = heard(self._engine, prompt)
            stream = self._engine.submit(given, sampling=sampling, max_tokens=max_tokens, grammar=grammar, tenant=self.tenant)
            stream.is_heard = False
            self._streams.append(stream)
        return stream.result()

    def continuation_logprobs(self, prompts: Sequence[str], continuation: str) -> list[float]:
        """As `Engine.continuation_logprobs`. Raises CapacityError once stopped."""
        if self._is_stopped:
            raise CapacityError("the question was given up")
        return self._engine.continuation_logprobs(prompts, continuation, tenant=self.tenant)

    def begin(self, tenant: str) -> Sequence[Stream]:
        """The next question; what it will ask of the engine."""
        with self._lock:
            self.tenant, self._is_stopped = tenant, False
            self._streams = []
            return self._streams

    def stop(self) -> None:
        """End what is being written, and whatever would come."""
        with self._lock:
            self._is_stopped = True
            for stream in self._streams:
                stream.cancel()


@dataclass(slots=True, eq=False)
class Seat:
    """A copilot and the voice that its model is."""

    copilot: Copilot
    voice: Voice
    reader: tuple[str, Principal | str | None]  # database, who asks
    fingerprint: Any
    conversation: Conversation  # each request brings its own history
    timeout_s: float | None = None

    def has_changed(self) -> bool:
        """Whether the database is another one than when its schema was read."""
        return self.fingerprint != _fingerprint(self.copilot.database)


def _fingerprint(database: Database) -> Any:
    from openarctic.copilot.databases.reading import kind_of

    try:
        return kind_of(database).fingerprint(database)
    except OSError:
        return None  # it has gone: reading it will say so


@dataclass(slots=True, eq=False)
class Desk:
    """`databases` by the names that requests use; with a policy a key is its user (`Key.user`). Without `values` the model is
    shown no cell values, as by `Copilot`."""

    engine: Engine
    databases: Mapping[str, Database]
    policy: Policy | None = None
    semantic: Mapping[str, SemanticModel] = field(default_factory=dict)
    feedback: FeedbackFile | None = None
    values: bool = True
    metrics: Metrics | None = None
    timeout_s: float | None = None  # of one question or statement, whatever it asks for
    _idle: list[Seat] = field(default_factory=list)
    _busy: asyncio.Semaphore | None = None
    _busy_of: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    def database(self, name: str | None) -> str:
        """The name of a database, or of the only one. Raises HTTPError for another name: paths are names of none."""
        if name is None:
            if len(self.databases) == 1:
                return next(iter(self.databases))
            told = ", ".join(self.databases) or "none"
            raise HTTPError(400, f"database is missing; there are {told}", param="database")
        if name not in self.databases:
            message = f"there is no database of that name; there are {', '.join(self.databases) or 'none'}"
            raise HTTPError(404, message, type="not_found_error", param="database", code="unknown_database")
        return name

    @asynccontextmanager
    async def seat(self, name: str, key: Key, on_work: OnWork = lambda work: None) -> AsyncIterator[Seat]:
        """A copilot of that database for that key, alone for the time of a `with`. `on_work` is given what its model will be
        asked. Raises HTTPError when all are busy."""
        async with self._turn(key):
            seat = await self._prepared(name, self._user(key))
            seat.timeout_s = self.timeout_s
            streams = seat.voice.begin(key.name)
            work = Work(streams, self.metrics) if self.metrics else None
            if work:
                on_work(work)
            try:
                yield seat
            finally:
                if work:
                    work.count()
                self._give_back(seat)

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        """Its time among all, and among those of its key."""
        if self._busy is None:
            self._busy = asyncio.Semaphore(MAX_BUSY)
        own = self._busy_of.setdefault(key.name, asyncio.Semaphore(MAX_BUSY if key is ANYONE else MAX_BUSY_OF_KEY))
        try:
            async with asyncio.timeout(WAIT_S) as waiting, own, self._busy:
                waiting.reschedule(None)  # its turn has come
                yield
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise HTTPError(503, "too many questions wait", type="overloaded_error", headers={"Retry-After": "5"}) from error

    def _user(self, key: Key) -> Principal | str | None:
        if self.policy is None:
            return None
        if key is ANYONE:
            raise UserError("a policy is in force, and nobody is named who asks", "serve with API keys: their names are users")
        return key.user

    async def _prepared(self, name: str, user: Principal | str | None) -> Seat:
        """One that was kept, or a new one. Whoever gives up waiting leaves it to the next."""
        kept = self._take((name, user))
        making = asyncio.ensure_future(asyncio.to_thread(self._fresh, kept, name, user))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._keep_made)
            raise

    def _keep_made(self, making: asyncio.Future[Seat]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._give_back(making.result())

    def _fresh(self, kept: Seat | None, name: str, user: Principal | str | None) -> Seat:
        if kept is not None and not kept.has_changed():
            return kept
        if kept is not None:
            kept.copilot.worker.close()
        return self._make(name, user)

    def _take(self, reader: tuple[str, Principal | str | None]) -> Seat | None:
        for seat in reversed(self._idle):
            if seat.reader == reader:
                self._idle.remove(seat)
                return seat
        return None

    def _make(self, name: str, user: Principal | str | None) -> Seat:
        from openarctic.copilot.ask import Copilot
        from openarctic.copilot.conversation import Conversation

        database = self.databases[name]
        fingerprint = _fingerprint(database)
        voice = Voice(self.engine)
        semantic = self.semantic.get(name)
        copilot = Copilot(database, voice, policy=self.policy, user=user, semantic=semantic, values=self.values)
        return Seat(copilot, voice, (name, user), fingerprint, Conversation(copilot))

    def _give_back(self, seat: Seat) -> None:
        self._idle.append(seat)
        if len(self._idle) > MAX_IDLE:
            self._idle.pop(0).copilot.worker.close()

    def warm(self) -> None:
        """Load what questions, statements and their answers need, where there is a database to ask."""
        if self.databases:
            from openarctic.serve import cortex, files, sql  # noqa: F401

    def close(self) -> None:
        """End all processes."""
        for seat in self._idle:
            seat.copilot.worker.close()
        self._idle.clear()


async def in_thread(seat: Seat, work: Callable[[], Result]) -> Result:
    """`work` beside the event loop. Whoever gives up waiting ends it: the model's writing and the statement's process. So does
    the end of the seat's time, with an HTTPError."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.wait_for(asyncio.shield(task), seat.timeout_s)
    except (asyncio.CancelledError, TimeoutError) as end:
        if task.done() and not task.cancelled():
            raise  # its own
        seat.voice.stop()
        seat.copilot.worker.stop()
        with suppress(Exception):
            await task
        seat.copilot.worker.close()
        if isinstance(end, TimeoutError):
            raise deadline() from end
        raise


@dataclass(frozen=True, slots=True)
class Linked:
    """What a question was found to speak of before the model begins: tables, and values where they stand."""

    tables: list[str]
    values: Sequence[ValueLink]


async def answered(seat: Seat, ask: Callable[[OnLinked], Answer]) -> AsyncGenerator[Linked | Answer]:
    """What is linked as soon as it is, if anything is linked, then the answer; as `in_thread` otherwise."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[Linked] = asyncio.Queue()

    def on_linked(tables: list[str], values: Sequence[ValueLink]) -> None:
        loop.call_soon_threadsafe(told.put_nowait, Linked(tables, values))

    work = asyncio.ensure_future(in_thread(seat, lambda: ask(on_linked)))
    first = asyncio.ensure_future(told.get())
    try:
        await asyncio.wait({work, first}, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            yield first.result()
        yield await work
    finally:
        first.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work})


def named(pairs: Sequence[str]) -> dict[str, str]:
    """`name=url` texts of the command line as a mapping; a bare path is called as its file. Raises UserError."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, url = pair.partition("=")
        if not separator or "/" in name or "." in name:
            name, url = Path(pair).stem, pair
        if not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"--db {pair!r} has no plain name", "write --db NAME=URL_OR_PATH")
        if name in found:
            raise UserError(f"two databases are called {name}", "write --db NAME=URL_OR_PATH")
        found[name] = url
    return found
