"""The first journey: a question becomes SQL, rows and a sentence (docs: ARCHITECTURE.md, "A question").

Database -> schema -> access (policy) -> value links -> verified queries and metrics (semantic model) -> prompt -> candidates
under the schema's grammar -> guard and policy -> execution -> vote -> answer -> audit log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlglot.errors import SqlglotError

from openarctic.copilot.access import Access, open_access
from openarctic.copilot.answers.sentence import answer_sentence
from openarctic.copilot.audit import Event
from openarctic.copilot.charts.choose import chart_for
from openarctic.copilot.databases import Database, cached_schema
from openarctic.copilot.execute import Result, Worker
from openarctic.copilot.forms import Form, form_of
from openarctic.copilot.guard import Checked
from openarctic.copilot.intent import check_question
from openarctic.copilot.joins import expand, mend
from openarctic.copilot.link import ValueIndex, ValueLink
from openarctic.copilot.models import load_generator
from openarctic.copilot.narrow import narrow
from openarctic.copilot.policy import Policy
from openarctic.copilot.principal import Principal
from openarctic.copilot.prune import prune
from openarctic.copilot.sample import database_or_sample
from openarctic.copilot.schema import Schema
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.load import load_semantic_model
from openarctic.copilot.semantic.model import SemanticModel
from openarctic.copilot.semantic.propose import Proposal, Proposer
from openarctic.copilot.vote import Ballot, elect
from openarctic.errors import AbstainedError, CapacityError, MissingError, OpenArcticError, RefusedError, UserError
from openarctic.generator import Completion, Generator, Sampling

# Called with the tables that the model is shown, and the values that the question names.
OnLinked = Callable[[list[str], Sequence[ValueLink]], None]

MIN_CONFIDENCE = 0.02
RETRY_TEMPERATURE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AskOptions:
    """How a question is answered. `seed` makes sampled candidates repeatable. `keep_prefix` has an `Engine` keep what it computed
    of the schema (see `Engine.keep_prefix`). `chart` asks for the Vega-Lite spec of a chart, where one fits."""

    candidates: int = 4
    temperature: float = 0.6
    limit: int = 1000
    timeout_s: float = 10.0
    execute: bool = True
    seed: int = 0
    keep_prefix: bool = False
    chart: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the candidates; `first_in_scope` tells whether the greedy one was right without mending.

    `first` is what the greedy one alone would have answered with: None where it did not run.
    """

    generated: int = 0
    parsed: int = 0
    first_in_scope: bool = False
    first_sql: str | None = None
    first: Result | None = None
    refused: int = 0
    failed: int = 0
    timeouts: int = 0
    error: OpenArcticError | None = None  # why the last one failed
    not_permitted: RefusedError | None = None  # why the policy refused one, if it did
    trouble: tuple[str, str] = ("", "")  # the last statement that came to nothing, and why


@dataclass(slots=True)
class Answer:
    """What `ask` gives back; `to_dict` is the JSON of the command line and the server.

    `hidden_by_policy` says of which tables the reader sees some rows only: fewer rows, or none, may be the policy's doing.
    `verified` is the semantic model's verified query that the question is (`exact`) or comes near; `used` tells whether it, or
    what was made of it for other values, is the answer's SQL.
    """

    question: str
    status: str
    sql: str | None
    dialect: str
    columns: list[str] | None
    rows: list[tuple[Any, ...]] | None
    truncated: bool
    answer: str
    confidence: float
    model: str
    timings_ms: dict[str, float]
    tally: Tally = field(default_factory=Tally)
    chart: dict[str, Any] | None = None
    hidden_by_policy: tuple[str, ...] = ()
    verified: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The contract's fields."""
        values = {k: v for k, v in asdict(self).items() if k != "tally"}
        return {**values, "error": None}


class Clock:
    """Milliseconds spent in each stage."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Everything since the last lap was `stage`."""
        now = time.perf_counter()
        self.ms[stage] = round(self.ms.get(stage, 0.0) + (now - self._last) * 1000, 1)
        self._last = now


def ask(
    question: str,
    db: str | Path | Database | None = None,
    model: str | Path | Generator | None = None,
    options: AskOptions | None = None,
    policy: str | Path | Policy | None = None,
    user: str | None = None,
    semantic: str | Path | SemanticModel | None = None,
) -> Answer:
    """Answer `question` from `db` (default: the bundled sample) with `model` (default: the bundled arctic-nano), for `user` under
    `policy` (a file), with what `semantic` (a model or its file) knows of the database.

    Raises the errors of `openarctic.errors`; AbstainedError when no candidate is trustworthy.
    """
    question = check_question(question)
    database = db if isinstance(db, Database) else database_or_sample(db)
    if model is None or isinstance(model, str | Path):
        model = load_generator(model)
    with Copilot(database, model, policy=policy, user=user, semantic=semantic) as copilot:
        return copilot.ask(question, options or AskOptions())


class Copilot:
    """One database and one model, ready for many questions. The execution worker starts while the model thinks."""

    def __init__(
        self,
        database: Database,
        model: Generator,
        schema: Schema | None = None,
        policy: str | Path | Policy | None = None,
        user: str | Principal | None = None,
        semantic: str | Path | SemanticModel | None = None,
    ) -> None:
        self.database, self.model = database, model
        if isinstance(semantic, str | Path):
            semantic = load_semantic_model(Path(semantic)).model
        self.access: Access = open_access(schema or cached_schema(database), policy, user)
        self.schema = self.access.schema
        self.proposer: Proposer | None = None
        if semantic is not None:
            layer = SemanticLayer(semantic, self.schema, shows_samples=not self.access.is_restricted)
            self.schema, self.proposer = layer.logical, Proposer(layer, self.access.check)
        self.worker = Worker(database)
        self.values = ValueIndex(self.schema)
        self.form: Form = form_of(model)
        self.instructions = "\n".join(semantic.instructions) if semantic is not None else ""

    def __enter__(self) -> Copilot:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    def ask(self, question: str, options: AskOptions, tally: Tally | None = None, on_linked: OnLinked | None = None) -> Answer:
        """Answer one (checked) question; `tally` counts the candidates even where none wins. `on_linked` hears which tables the
        model is shown, and the values that the question names, before the model begins.

        Raises AbstainedError, CapacityError or RefusedError.
        """
        with self.access.recorded("ask", question=question) as event:
            answer = self._ask(question, options, tally, event, on_linked or (lambda tables, links: None))
            event.rows, event.truncated = len(answer.rows or ()), answer.truncated
        return answer

    def _ask(self, question: str, options: AskOptions, tally: Tally | None, event: Event, on_linked: OnLinked) -> Answer:
        clock, tally = Clock(), tally or Tally()
        links = self.values.links(question)
        proposal = self.proposer.propose(question) if self.proposer else Proposal()
        if proposal.verified is not None:
            clock.lap("verified")
            answer = self._verified(question, proposal, options, clock, tally, event)
            if answer is not None:
                return answer
        shown = narrow(self.schema, question, links, self._fits)
        prompt = self.form.prompt(shown, question, links, self.instructions)
        on_linked([table.name for table in shown.tables], links)
        clock.lap("link")
        grammar = self.form.grammar(shown)
        if options.keep_prefix:
            self._keep_prefix(self.form.schema_text(shown))
        ballots: list[Ballot] = []
        for attempt in range(1 + self.form.retries):
            asked = self.form.repair(prompt, *tally.trouble) if attempt else prompt
            completions = self._candidates(asked, grammar, options, attempt)
            clock.lap("generate")
            checked = _with_proposed(self._checked(question, completions, links, tally), proposal)
            clock.lap("guard")
            if checked and not options.execute:
                event.checked, logprob = max(checked, key=lambda item: item[1])
                confidence = min(1.0, _certainty(logprob))
                return self._answer(question, event.checked, None, confidence, options, clock, tally, proposal)
            ballots = self._executed(checked, options, tally)
            clock.lap("execute")
            if ballots:
                break
        if not ballots:
            raise self._nothing_ran(tally)
        winner, share = elect(ballots)
        event.checked = next(statement for statement, _ in checked if statement.shown == winner.sql)
        confidence = round(share * _certainty(winner.logprob), 4)
        if confidence < MIN_CONFIDENCE:
            raise AbstainedError(
                f"the best query has a confidence of only {confidence:.3f} (at least {MIN_CONFIDENCE} is needed)",
                "rephrase the question, naming tables or columns",
            )
        return self._answer(question, event.checked, winner.result, confidence, options, clock, tally, proposal)

    def _verified(
        self, question: str, proposal: Proposal, options: AskOptions, clock: Clock, tally: Tally, event: Event
    ) -> Answer | None:
        """The answer of a verified query, without the model; None where the database cannot run it any more."""
        checked = proposal.verified
        assert checked is not None
        result = None
        if options.execute:
            try:
                result = self.worker.execute(checked, limit=options.limit, timeout_s=options.timeout_s)
            except UserError:
                return None
            clock.lap("execute")
        event.checked = checked
        return self._answer(question, checked, result, 1.0, options, clock, tally, proposal)

    def _keep_prefix(self, text: str) -> None:
        keep = getattr(self.model, "keep_prefix", None)
        if keep is None:
            raise UserError(f"the model {self.model.name} cannot keep prefixes", "an embedded model can")
        keep(text)

    def _fits(self, schema: Schema) -> bool:
        return self.model.count_tokens(self.form.schema_text(schema)) <= self.form.max_prompt

    def _candidates(self, prompt: str, grammar: str | None, options: AskOptions, attempt: int) -> list[Completion]:
        """The most probable text and samples; a later attempt samples all, further from the most probable."""
        if attempt:
            seeds = range(options.seed + attempt * options.candidates, options.seed + (attempt + 1) * options.candidates)
            sampling = [Sampling(temperature=RETRY_TEMPERATURE, seed=seed) for seed in seeds]
        else:
            seeds = range(options.seed + 1, options.seed + options.candidates)
            sampling = [Sampling(), *(Sampling(temperature=options.temperature, seed=seed) for seed in seeds)]
        return self.model.generate(prompt, sampling=sampling, grammar=grammar, max_tokens=self.form.max_tokens)

    def _checked(
        self, question: str, completions: Sequence[Completion], links: Sequence[ValueLink], tally: Tally
    ) -> list[tuple[Checked, float]]:
        """Distinct statements that pass the guard, with their log probability (of the most probable spelling)."""
        found: dict[str, tuple[Checked, float]] = {}
        is_first_round = tally.generated == 0
        tally.generated += len(completions)
        for i, completion in enumerate(completions):
            if completion.finish_reason != "stop":
                continue
            tally.parsed += 1
            sql = self.form.read(completion.text)
            is_first = i == 0 and is_first_round
            mended = self._check(self._mended(sql, question, links), tally) if self.form.is_short else None
            written = self._check(sql, tally) if is_first or mended is None else None
            checked = mended or written
            if is_first:
                tally.first_in_scope = written is not None
                tally.first_sql = checked.shown if checked else None
            if checked is None:
                tally.refused += 1
            elif checked.sql not in found or found[checked.sql][1] < completion.logprob:
                found[checked.sql] = (checked, completion.logprob)
        return list(found.values())

    def _mended(self, short_sql: str, question: str, links: Sequence[ValueLink]) -> str:
        """With the tables that it needs and no others, and linked texts compared where they stand."""
        try:
            return prune(mend(short_sql, self.schema, links), self.schema, question)
        except SqlglotError:
            return short_sql

    def _check(self, sql: str, tally: Tally) -> Checked | None:
        """The whole statement; None where guard or policy refuse it, which the tally remembers."""
        tally.trouble = (sql, "there is no SQL statement in the answer") if not sql else (sql, "it cannot be parsed")
        try:
            if self.form.is_short:
                sql = expand(sql, self.schema, self.database.dialect)
            return self.access.check(self.proposer.physical(sql) if self.proposer else sql)
        except (SqlglotError, UserError):
            return None
        except RefusedError as error:
            tally.trouble = (sql, f"{error.message}; {error.hint}" if error.hint else error.message)
            if error.type == "not_permitted":
                tally.not_permitted = error
            return None

    def _executed(self, checked: list[tuple[Checked, float]], options: AskOptions, tally: Tally) -> list[Ballot]:
        """What ran; why the others did not is in the tally."""
        ballots = []
        for statement, logprob in checked:
            try:
                result = self.worker.execute(statement, limit=options.limit, timeout_s=options.timeout_s)
            except CapacityError as failure:
                tally.timeouts += 1
                tally.error = failure
            except OpenArcticError as failure:
                tally.failed += 1
                tally.error = failure
                tally.trouble = (statement.shown, failure.message)
            else:
                ballots.append(Ballot(statement.shown, logprob, result))
                if statement.shown == tally.first_sql:
                    tally.first = result
        return ballots

    def _nothing_ran(self, tally: Tally) -> OpenArcticError:
        if isinstance(tally.error, CapacityError | MissingError | RefusedError):
            return tally.error
        hint = "rephrase the question, naming tables or columns"
        if tally.error is None and tally.not_permitted is not None:
            return tally.not_permitted
        if tally.error is None:
            return AbstainedError("no candidate query was valid for this database", hint)
        return AbstainedError(f"every candidate query failed to run: {tally.error.message}", hint)

    def _answer(
        self,
        question: str,
        checked: Checked,
        result: Result | None,
        confidence: float,
        options: AskOptions,
        clock: Clock,
        tally: Tally,
        proposal: Proposal,
    ) -> Answer:
        sentence, chart, sql = "", None, checked.shown
        if result is not None:
            dialect = self.database.dialect
            sentence = answer_sentence(
                question, result.columns, result.rows, result.truncated, sql, dialect, self.access.schema
            ).text
            sentence = f"{sentence} {self.access.hidden(checked)}".strip()
            if options.chart:
                chart = chart_for(result.columns, (), result.rows, question, sql, dialect, result.truncated)
        clock.lap("answer")
        return Answer(
            question=question,
            status="ok",
            sql=sql,
            dialect=self.database.dialect,
            columns=result.columns if result else None,
            rows=result.rows if result else None,
            truncated=bool(result and result.truncated),
            answer=sentence,
            confidence=confidence,
            model=self.model.name,
            timings_ms=clock.ms,
            tally=tally,
            chart=chart,
            hidden_by_policy=checked.filtered,
            verified=proposal.shown(sql),
        )


def _with_proposed(checked: list[tuple[Checked, float]], proposal: Proposal) -> list[tuple[Checked, float]]:
    """The candidates of model and semantic model, each statement once, at its highest probability."""
    found = {c.checked.sql: (c.checked, c.logprob) for c in proposal.candidates}
    for statement, logprob in checked:
        if statement.sql not in found or found[statement.sql][1] < logprob:
            found[statement.sql] = (statement, logprob)
    return list(found.values())


def _certainty(logprob: float) -> float:
    """The model's own probability of the statement, softened by a square root: statements are long."""
    return float(min(1.0, 2.718281828 ** (logprob / 2)))
