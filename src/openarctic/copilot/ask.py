"""The first journey: a question becomes SQL, rows and a sentence (docs: ARCHITECTURE.md, "A question").

Database -> schema -> access (policy) -> value links -> verified queries and metrics (semantic model) -> prompt -> candidates
under the schema's grammar -> guard and policy -> execution -> vote -> answer -> audit log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from sqlglot.errors import SqlglotError

from openarctic.config import cache_folder
from openarctic.copilot.access import Access, open_access
from openarctic.copilot.answers.sentence import answer_sentence
from openarctic.copilot.audit import Event
from openarctic.copilot.charts.choose import chart_for
from openarctic.copilot.column_order import in_said_order
from openarctic.copilot.comparisons import as_worded
from openarctic.copilot.confidence import Calibration, Judge
from openarctic.copilot.databases import Database, cached_schema
from openarctic.copilot.execute import Result, Worker
from openarctic.copilot.features import Evidence
from openarctic.copilot.forms import Form, form_of
from openarctic.copilot.guard import Checked
from openarctic.copilot.intent import check_question
from openarctic.copilot.joins import expand, mend
from openarctic.copilot.linking.linker import Linker
from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.models import load_generator
from openarctic.copilot.policy import Policy
from openarctic.copilot.principal import Principal
from openarctic.copilot.prompt import turned_text
from openarctic.copilot.prune import prune
from openarctic.copilot.sample import database_or_sample
from openarctic.copilot.schema import Schema
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.load import load_semantic_model
from openarctic.copilot.semantic.model import SemanticModel
from openarctic.copilot.semantic.propose import Proposal, Proposer
from openarctic.copilot.variants import LOGPROB as VARIANT_LOGPROB
from openarctic.copilot.variants import variants
from openarctic.copilot.vote import Candidate, Election, Group
from openarctic.errors import AbstainedError, CapacityError, MissingError, OpenArcticError, RefusedError, UserError
from openarctic.generator import Completion, Generator, Sampling

# Called with the tables that the model is shown, and the values that the question names.
OnLinked = Callable[[list[str], Sequence[ValueLink]], None]

RETRY_TEMPERATURE = 1.0

# What may be switched off, in the order of work.
STEPS: dict[str, str] = {
    "values": "the cell values that the question names, in the prompt and in mending",
    "mend": "tables added that a query needs, texts compared where they stand",
    "words": "comparisons and the order of columns as the question plainly words them",
    "prune": "tables taken away that are joined for nothing",
    "channel": "how probable the question is, given each candidate (a noisy channel), for the scorer",
    "variants": "statements beside those that the model wrote, for the scorer to choose from",
    "scorer": "candidates weighed by their features; without it by the model's probability",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AskOptions:
    """How a question is answered. `candidates` None: as many as suit the model (`Form.candidates`). `seed` makes sampled
    candidates repeatable. `keep_prefix` has an `Engine` keep what it computed of the schema (see `Engine.keep_prefix`). `chart`
    asks for the Vega-Lite spec of a chart, where one fits. `max_error` is the wanted error rate among what is answered: less
    certain answers are held back (`Answer.abstained`). `without` switches steps off, by their names in `STEPS`, to measure what
    each gives. `clarify` lets a `Conversation` ask back where two readings are near."""

    candidates: int | None = None
    temperature: float = 0.6
    limit: int = 1000
    timeout_s: float = 10.0
    execute: bool = True
    seed: int = 0
    keep_prefix: bool = False
    chart: bool = False
    max_error: float | None = None
    without: frozenset[str] = frozenset()
    clarify: bool = False


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
    election: Election | None = None  # who stood, and who won


@dataclass(slots=True)
class Answer:
    """What `ask` gives back; `to_dict` is the JSON of the command line and the server.

    `hidden_by_policy` says of which tables the reader sees some rows only: fewer rows, or none, may be the policy's doing.
    `verified` is the semantic model's verified query that the question is (`exact`) or comes near; `used` tells whether it, or
    what was made of it for other values, is the answer's SQL. `abstained`: the answer is held back (`status` is the same word),
    `sql` is what would have been run. `confidence` is a probability where `calibrated`, else it only orders. `read_as` says how a
    follow-up was read (`conversation/`). With a `clarification` there is no answer yet: one of two readings is to be chosen.
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
    abstained: bool = False
    calibrated: bool = False
    read_as: str | None = None
    clarification: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The contract's fields."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tally"}
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
    calibration: str | Path | Calibration | None = None,
    values: bool = True,
) -> Answer:
    """Answer `question` from `db` (default: the bundled sample) with `model` (default: the bundled arctic-nano), for `user` under
    `policy` (a file), with what `semantic` (a model or its file) knows of the database. `calibration` (a file; default: that of
    the bundled model, if it is the one that answers) says how candidates are weighed and how sure an answer is. Without `values`
    no cell value is read before the query runs: none is kept, linked or shown to the model.

    Raises the errors of `openarctic.errors`; AbstainedError when no candidate is trustworthy.
    """
    question = check_question(question)
    database = db if isinstance(db, Database) else database_or_sample(db)
    if model is None or isinstance(model, str | Path):
        model = load_generator(model)
    with Copilot(database, model, policy=policy, user=user, semantic=semantic, calibration=calibration, values=values) as copilot:
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
        calibration: str | Path | Calibration | None = None,
        values: bool = True,
    ) -> None:
        self.database, self.model, self._shows_values = database, model, values
        if isinstance(semantic, str | Path):
            semantic = load_semantic_model(Path(semantic)).model
        self.access: Access = open_access(schema or cached_schema(database, values=values), policy, user)
        self.schema = self.access.schema
        self.proposer: Proposer | None = None
        if semantic is not None:
            layer = SemanticLayer(semantic, self.schema, shows_samples=values and not self.access.is_restricted)
            self.schema, self.proposer = layer.logical, Proposer(layer, self.access.check)
        self.worker = Worker(database)
        self.form: Form = form_of(model)
        synonyms = semantic.synonyms() if semantic is not None else ()
        place = f"{database.place} {database.schema}"
        self.linker = Linker(
            self.schema, self._size, self.form.max_prompt, synonyms, folder=cache_folder() / "values", name=place
        )
        self.judge = Judge(self.access.schema, model, calibration)
        self.instructions = "\n".join(semantic.instructions) if semantic is not None else ""

    def __enter__(self) -> Copilot:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    def ask(
        self,
        question: str,
        options: AskOptions,
        tally: Tally | None = None,
        on_linked: OnLinked | None = None,
        history: str = "",
    ) -> Answer:
        """Answer one (checked) question; `tally` counts the candidates even where none wins. `on_linked` hears which tables the
        model is shown, and the values that the question names, before the model begins. `history` is what a model that reads
        dialogues is told of the questions before.

        Raises AbstainedError, CapacityError or RefusedError.
        """
        with self.access.recorded("ask", question=question) as event:
            answer = self._ask(question, options, tally, event, on_linked or (lambda tables, links: None), history)
            event.rows, event.truncated = len(answer.rows or ()), answer.truncated
        return answer

    def answer_with(
        self, question: str, sql: str, options: AskOptions, confidence: float = 1.0, is_calibrated: bool = True
    ) -> Answer:
        """Answer with SQL that is known: guard, policy, execution, sentence and audit log as for a model's.

        Raises RefusedError, CapacityError, UserError as `Access.check` and `Worker.execute`.
        """
        clock, result = Clock(), None
        with self.access.recorded("ask", question=question) as event:
            event.checked = checked = self.access.check(sql)
            clock.lap("guard")
            if options.execute:
                result = self.worker.execute(checked, limit=options.limit, timeout_s=options.timeout_s)
                clock.lap("execute")
            answer = self._answer(
                question, _given(checked, result, confidence, is_calibrated), options, clock, Tally(), Proposal()
            )
            event.rows, event.truncated = len(answer.rows or ()), answer.truncated
        return answer

    def _ask(
        self, question: str, options: AskOptions, tally: Tally | None, event: Event, on_linked: OnLinked, history: str
    ) -> Answer:
        clock, tally = Clock(), tally or Tally()
        proposal = self.proposer.propose(question) if self.proposer else Proposal()
        if proposal.verified is not None:
            clock.lap("verified")
            answer = self._verified(question, proposal, options, clock, tally, event)
            if answer is not None:
                return answer
        if options.max_error is not None:
            self.judge.required()
        links = self.linker.link(question, history, values="values" not in options.without)
        shown = links.shown
        prompt = self.form.prompt(shown, links.question, links.values, self.instructions, history)
        on_linked([table.name for table in shown.tables], links.values)
        clock.lap("link")
        grammar = self.form.grammar(shown)
        if options.keep_prefix:
            self._keep_prefix(self.form.schema_text(shown))
        evidence = self.judge.evidence(question, links.values, links.coverage())
        candidates: list[Candidate] = []
        for attempt in range(1 + self.form.retries):
            asked = self.form.repair(prompt, *tally.trouble) if attempt else prompt
            completions = self._candidates(asked, grammar, options, attempt)
            clock.lap("generate")
            candidates = _with_proposed(self._checked(evidence, completions, options, tally), proposal)
            if self.form.is_short and self.judge.calibration is not None and not options.without & {"variants", "scorer"}:
                candidates = self._with_variants(evidence, candidates)
            clock.lap("guard")
            if options.execute:
                candidates = self._executed(candidates, options, tally)
                clock.lap("execute")
            if candidates:
                break
        if not candidates:
            raise self._nothing_ran(tally)
        if self._asks_back and not options.without & {"channel", "scorer"}:
            self._ask_back(shown, links.question, candidates)
            clock.lap("channel")
        election = tally.election = self.judge.elect(evidence, candidates, "scorer" not in options.without)
        event.checked = election.winner.checked
        clock.lap("elect")
        return self._answer(question, election, options, clock, tally, proposal)

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
        return self._answer(question, _given(checked, result, 1.0, True), options, clock, tally, proposal)

    def _keep_prefix(self, text: str) -> None:
        keep = getattr(self.model, "keep_prefix", None)
        if keep is None:
            raise UserError(f"the model {self.model.name} cannot keep prefixes", "an embedded model can")
        keep(text)

    def _size(self, schema: Schema) -> int:
        return self.model.count_tokens(self.form.schema_text(schema))

    def _candidates(self, prompt: str, grammar: str | None, options: AskOptions, attempt: int) -> list[Completion]:
        """The most probable text and samples; a later attempt samples all, further from the most probable."""
        count = options.candidates or self.form.candidates
        if attempt:
            seeds = range(options.seed + attempt * count, options.seed + (attempt + 1) * count)
            sampling = [Sampling(temperature=RETRY_TEMPERATURE, seed=seed) for seed in seeds]
        else:
            seeds = range(options.seed + 1, options.seed + count)
            sampling = [Sampling(), *(Sampling(temperature=options.temperature, seed=seed) for seed in seeds)]
        return self.model.generate(prompt, sampling=sampling, grammar=grammar, max_tokens=self.form.max_tokens)

    def _checked(
        self, evidence: Evidence, completions: Sequence[Completion], options: AskOptions, tally: Tally
    ) -> list[Candidate]:
        """Distinct statements that pass the guard."""
        found: dict[str, Candidate] = {}
        is_first_round = tally.generated == 0
        mended_of = cache(lambda sql: self._mended(sql, evidence, options))  # samples often agree
        tally.generated += len(completions)
        for i, completion in enumerate(completions):
            if completion.finish_reason != "stop":
                continue
            tally.parsed += 1
            sql = self.form.read(completion.text)
            is_first = i == 0 and is_first_round
            mended_sql = mended_of(sql) if self.form.is_short else sql
            mended = self._check(mended_sql, tally) if self.form.is_short else None
            written = self._check(sql, tally) if is_first or mended is None else None
            checked = mended or written
            if is_first:
                tally.first_in_scope = written is not None
                tally.first_sql = checked.shown if checked else None
            if checked is None:
                tally.refused += 1
            else:
                short_sql = mended_sql if mended else sql
                made = Candidate(checked, completion.logprob, len(completion.ids), is_first=is_first, short_sql=short_sql)
                _add(found, made)
        return list(found.values())

    def _with_variants(self, evidence: Evidence, candidates: list[Candidate]) -> list[Candidate]:
        """With what the model may have meant instead, where it passes the guard."""
        found = {candidate.checked.sql: candidate for candidate in candidates}
        for candidate in candidates:
            for sql in variants(candidate.short_sql, self.schema, evidence) if candidate.short_sql else ():
                checked = self._check(sql, Tally())
                if checked is not None:
                    logprob = candidate.logprob + VARIANT_LOGPROB
                    made = Candidate(checked, logprob, candidate.tokens, times=0, is_variant=True, short_sql=sql)
                    _add(found, made)
        return list(found.values())

    @property
    def _asks_back(self) -> bool:
        """Whether the model was trained to write the question for a query, and its calibration, if there is one, weighs that."""
        weighed = self.judge.calibration is None or "asked_logprob" in self.judge.calibration.correct.terms
        return weighed and self.form.is_short and getattr(self.model, "asks_questions", False)

    def _ask_back(self, shown: Schema, question: str, candidates: Sequence[Candidate]) -> None:
        """Has the model say how probable this question is for each candidate.

        Electing by that too is the noisy channel of Brown et al. 1993 (Computational Linguistics 19:2): what leaves out a part of
        the question, or adds to it, seldom explains it.
        """
        texts = list(dict.fromkeys(c.short_sql for c in candidates if c.short_sql))
        if len(texts) < 2:
            return
        schema = self.form.schema_text(shown)
        prompts = [schema + turned_text(text) for text in texts]
        found = self.model.continuation_logprobs(prompts, f" {' '.join(question.split())}")  # type: ignore[attr-defined]
        known = dict(zip(texts, found, strict=True))
        for candidate in candidates:
            candidate.asked_logprob = known.get(candidate.short_sql)

    def _mended(self, short_sql: str, evidence: Evidence, options: AskOptions) -> str:
        """With the tables that it needs and no others, texts, comparisons and columns as question and database have them."""
        try:
            if "mend" not in options.without:
                short_sql = mend(short_sql, self.schema, evidence.links)
            if "words" not in options.without:
                short_sql = in_said_order(as_worded(short_sql, evidence.text, self.schema), evidence)
            return short_sql if "prune" in options.without else prune(short_sql, self.schema, evidence.text)
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

    def _executed(self, candidates: list[Candidate], options: AskOptions, tally: Tally) -> list[Candidate]:
        """Those that ran; why the others did not is in the tally."""
        ran = []
        for candidate in candidates:
            try:
                candidate.result = self.worker.execute(candidate.checked, limit=options.limit, timeout_s=options.timeout_s)
            except CapacityError as failure:
                tally.timeouts += 1
                tally.error = failure
            except OpenArcticError as failure:
                tally.failed += 1
                tally.error = failure
                # A database's message may quote a cell: "could not convert string 'Ann'".
                tally.trouble = (candidate.sql, failure.message if self._shows_values else "the database cannot run it")
            else:
                ran.append(candidate)
                if candidate.sql == tally.first_sql:
                    tally.first = candidate.result
        return ran

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
        self, question: str, election: Election, options: AskOptions, clock: Clock, tally: Tally, proposal: Proposal
    ) -> Answer:
        checked, result = election.winner.checked, election.winner.result
        sentence, chart, sql = "", None, checked.shown
        abstained = options.max_error is not None and not self.judge.is_sure(election, options.max_error)
        if abstained:
            assert options.max_error is not None
            sentence, result = self.judge.doubt(election, options.max_error), None
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
            status="abstained" if abstained else "ok",
            sql=sql,
            dialect=self.database.dialect,
            columns=result.columns if result else None,
            rows=result.rows if result else None,
            truncated=bool(result and result.truncated),
            answer=sentence,
            confidence=round(election.confidence, 4),
            model=self.model.name,
            timings_ms=clock.ms,
            tally=tally,
            chart=chart,
            hidden_by_policy=checked.filtered,
            verified=proposal.shown(sql),
            abstained=abstained,
            calibrated=election.is_calibrated,
        )


def _given(checked: Checked, result: Result | None, confidence: float, is_calibrated: bool) -> Election:
    """Where there is one statement, and nothing to elect."""
    group = Group([Candidate(checked, 0.0, result=result)], 1.0)
    return Election([group], share=1.0, confidence=confidence, is_calibrated=is_calibrated)


def _with_proposed(candidates: list[Candidate], proposal: Proposal) -> list[Candidate]:
    """The candidates of model and semantic model, each statement once, at its highest probability."""
    found: dict[str, Candidate] = {}
    for proposed in proposal.candidates:
        _add(found, Candidate(proposed.checked, proposed.logprob))
    for candidate in candidates:
        _add(found, candidate)
    return list(found.values())


def _add(found: dict[str, Candidate], candidate: Candidate) -> None:
    """Each statement once, as its most probable spelling was."""
    known = found.setdefault(candidate.checked.sql, candidate)
    if known is not candidate:
        known.times += candidate.times
        known.is_first |= candidate.is_first
        known.is_variant &= candidate.is_variant
        if candidate.logprob > known.logprob:
            known.logprob, known.tokens = candidate.logprob, candidate.tokens
