"""Grammars that requests ask for: how large they may be, and threads of their own to compile them in.

Compiling takes from milliseconds to seconds and cannot be broken off. So databases, which work in other threads, never wait for
it; a request waits no longer than its deadline; and what is too large is refused before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openarctic.errors import UserError
from openarctic.generator import Constraint
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.work import deadline

if TYPE_CHECKING:
    from openarctic.engine import Engine
    from openarctic.engine.constraint import Follower

THREADS = 2
MAX_BYTES = 1 << 16
MAX_TOOLS_BYTES = 4 * MAX_BYTES  # of all tools together
MAX_LARK_BYTES = 1 << 20  # our own, of SQL over a database's names, take some 200 kB
MAX_CHOICES = 5000


@dataclass(frozen=True, slots=True)
class Form:
    """What a text must follow, and the field that asks for it. `parts` are fields that it was made of."""

    constraint: Constraint
    param: str
    parts: tuple[Form, ...] = ()


def _default_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")


@dataclass(slots=True)
class Grammars:
    """Compiles for one engine."""

    engine: Engine
    _threads: ThreadPoolExecutor = field(default_factory=_default_threads)

    async def compiled(self, form: Form, timeout_s: float) -> Follower:
        """Ready for the engine. Raises HTTPError, which names the field, or says that time ran out.

        Who no longer waits leaves a compilation that has begun to its end, and takes back one that has not.
        """
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, self._compile, form), timeout_s)
        except TimeoutError:
            raise deadline() from None

    def _compile(self, form: Form) -> Follower:
        for one in (*form.parts, form):
            with _naming(one):
                check_size(one)
        try:
            return self.engine.follower(form.constraint)
        except UserError as error:
            for part in form.parts:  # is it one of them?
                with _naming(part):
                    self.engine.follower(part.constraint)
            raise _at(form, error) from error


@contextmanager
def _naming(form: Form) -> Iterator[None]:
    """What is wrong is told with the name of the field."""
    try:
        yield
    except UserError as error:
        raise _at(form, error) from error


def _at(form: Form, error: UserError) -> HTTPError:
    http = as_http(error)
    return HTTPError(http.status, f"{form.param}: {http.message}", type=http.type, param=form.param)


def check_size(form: Form) -> None:
    """Raises UserError for what would take too long to compile."""
    kind, source = form.constraint.kind, form.constraint.source
    if kind == "choice" and (count := len(form.constraint.choice or ())) > MAX_CHOICES:
        raise UserError(f"{count} entries, at most {MAX_CHOICES} are allowed")
    most = MAX_TOOLS_BYTES if form.parts else MAX_LARK_BYTES if kind == "grammar" else MAX_BYTES
    if (size := len(source)) > most or (size := len(source.encode(errors="replace"))) > most:
        raise UserError(f"{size} bytes, at most {most} are allowed")
