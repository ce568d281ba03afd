"""`MixtureSource`: batches of a curriculum, each a function of its number alone.

Number of batch -> stage and positions of its sequences -> domain and index in the domain (`Schedule`) -> place in the domain's
stream (a keyed permutation among its neighbours of the same epoch) -> pieces of documents (`DomainStream`). Therefore
one integer resumes a run, and N processes that each take every Nth sequence of a batch read together what one would read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from openarctic.data.batch import Batch
from openarctic.data.curriculum import Curriculum, Stage, limit_repeats
from openarctic.data.mixture import Schedule
from openarctic.data.packing import Packed, lay_out
from openarctic.data.permutation import Indices, derive_key, permute_one
from openarctic.data.shards import TokenShards
from openarctic.data.stream import DomainStream
from openarctic.errors import UserError

STATE_FORMAT = 1
LongDocuments = Literal["cut", "drop"]


class Use(NamedTuple):
    """What a stage takes of a domain."""

    stage: str
    domain: str
    sequences: int
    tokens: int
    epochs: float  # of the domain's tokens


@dataclass(frozen=True, slots=True)
class _StagePlan:
    """A stage with everything that turns a position in it into a place in a domain's stream. K domains."""

    stage: Stage
    index: int
    first_batch: int
    num_batches: int
    batch_size: int  # sequences of all processes
    schedule: Schedule
    sequences_K: Indices
    starts_K: Indices  # where in each domain's stream the stage begins, in tokens


class MixtureSource:
    """The batches that one of `world_size` processes trains on.

    `batch_tokens` are the tokens of one batch of all processes, a multiple of every stage's sequence length; this process gets
    the sequences whose number leaves `rank` when divided by `world_size`. A stage is rounded to whole batches, at least one.
    Documents longer than the longest sequence are cut into pieces, or left out with long_documents="drop" (`left_out` counts
    them). `changes` says how mixtures were reweighted to keep within the curriculum's max_epochs; it is empty otherwise.

    Raises UserError for domains without data, shards of different tokenizers, batches that do not divide, and what
    `limit_repeats` raises.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        shards: Mapping[str, TokenShards],
        *,
        batch_tokens: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        long_documents: LongDocuments = "cut",
    ) -> None:
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} processes", "ranks count from 0")
        if long_documents not in ("cut", "drop"):
            raise UserError(f"long_documents is {long_documents!r}", "give cut or drop")
        self.rank, self.world_size = rank, world_size
        self.seed = seed
        self.domains = curriculum.domains
        limit = max(stage.sequence_length for stage in curriculum.stages) if long_documents == "drop" else None
        _check_one_tokenizer({name: shards[name] for name in self.domains if name in shards})
        streams = {name: DomainStream(shards[name], seed, max_document_tokens=limit) for name in self.domains if name in shards}
        self.curriculum, self.changes = limit_repeats(curriculum, {name: stream.num_tokens for name, stream in streams.items()})
        self._streams = [streams[name] for name in self.domains]
        self.left_out = {name: streams[name].num_left_out for name in self.domains}
        self._plans = self._plan_stages(batch_tokens)
        self.num_batches = sum(plan.num_batches for plan in self._plans)
        self._settings: dict[str, Any] = {"batch_tokens": batch_tokens, "seed": seed, "long_documents": long_documents}
        self._settings |= {"curriculum": self.curriculum.to_dict()}
        self._settings |= {"data": {name: shards[name].manifest.fingerprint() for name in self.domains}}
        self.batches_done = 0

    def _plan_stages(self, batch_tokens: int) -> list[_StagePlan]:
        plans: list[_StagePlan] = []
        first_batch, starts_K = 0, np.zeros(len(self.domains), np.int64)
        for index, stage in enumerate(self.curriculum.stages):
            batch_size = self._batch_size(stage, batch_tokens)
            num_batches = max(1, round(stage.tokens / batch_tokens))
            shares = [stage.mixture.shares.get(name, 0.0) for name in self.domains]
            schedule = Schedule(shares, num_batches * batch_size, derive_key(self.seed, "schedule", index))
            sequences_K = schedule.counts()
            plans.append(_StagePlan(stage, index, first_batch, num_batches, batch_size, schedule, sequences_K, starts_K))
            first_batch, starts_K = first_batch + num_batches, starts_K + sequences_K * stage.sequence_length
        return plans

    def _batch_size(self, stage: Stage, batch_tokens: int) -> int:
        batch_size, rest = divmod(batch_tokens, stage.sequence_length)
        if rest or not batch_size or batch_size % self.world_size:
            raise UserError(
                f"stage {stage.name}: batches of {batch_tokens} tokens are no equal number of sequences of "
                f"{stage.sequence_length} tokens for {self.world_size} processes",
                f"give a multiple of {stage.sequence_length * self.world_size}",
            )
        return batch_size

    def next_batch(self) -> Batch:
        """This process's part of the next batch. Raises StopIteration at the end of the budget."""
        if self.batches_done >= self.num_batches:
            raise StopIteration
        batch = self.batch_at(self.batches_done)
        self.batches_done += 1
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """The batches from where it stands to the end."""
        while self.batches_done < self.num_batches:
            yield self.next_batch()

    def batch_at(self, number: int) -> Batch:
        """This process's part of batch `number`, wherever the source stands."""
        plan = self._plan_of(number)
        first = (number - plan.first_batch) * plan.batch_size
        positions = np.arange(first + self.rank, first + plan.batch_size, self.world_size)
        domains, ranks = plan.schedule.domains(positions), plan.schedule.ranks(positions)
        packed = [self._sequence(plan, int(domain), int(rank)) for domain, rank in zip(domains, ranks, strict=True)]
        return _stack(packed, domains)

    def stage_of(self, number: int) -> str:
        """Name of the stage that batch `number` belongs to."""
        return self._plan_of(number).stage.name

    def uses(self) -> list[Use]:
        """What each stage takes of each domain."""
        return [
            Use(plan.stage.name, name, int(count), int(count) * plan.stage.sequence_length, self._epochs(plan, index))
            for plan in self._plans
            for index, (name, count) in enumerate(zip(self.domains, plan.sequences_K, strict=True))
        ]

    def state_dict(self) -> dict[str, Any]:
        """The number of batches done, and what it counts them of."""
        return {"format": STATE_FORMAT, "batches_done": self.batches_done, "settings": self._digests()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken, by any number of processes. Raises UserError when data or settings have changed."""
        own = self._digests()
        saved = state.get("settings")
        if state.get("format") != STATE_FORMAT or not isinstance(saved, dict) or not isinstance(state.get("batches_done"), int):
            raise UserError("this is no state of a mixture of data, or one of another version", "begin a new run")
        changed = [name for name in own if own[name] != saved.get(name)]
        if changed:
            raise UserError(
                f"the data of this run have changed since its checkpoint: {', '.join(changed)}",
                "go on with the same data and settings, or begin a new run from the checkpoint's weights",
            )
        if not 0 <= state["batches_done"] <= self.num_batches:
            raise UserError(f"the state has {state['batches_done']} batches done of {self.num_batches}")
        self.batches_done = state["batches_done"]

    def _digests(self) -> dict[str, str]:
        return {
            name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
            for name, value in self._settings.items()
        }

    def _plan_of(self, number: int) -> _StagePlan:
        if not 0 <= number < self.num_batches:
            raise UserError(f"there is no batch {number}, the curriculum has {self.num_batches}")
        return next(plan for plan in reversed(self._plans) if plan.first_batch <= number)

    def _sequence(self, plan: _StagePlan, domain: int, rank: int) -> Packed:
        """The sequence that is number `rank` of a domain in a stage."""
        stream, length = self._streams[domain], plan.stage.sequence_length
        start = int(plan.starts_K[domain])
        # Sequences change places only if they begin in the same epoch, so that no token is read again before its epoch has ended.
        epoch = (start + rank * length) // stream.num_tokens
        first = max(0, -(-(epoch * stream.num_tokens - start) // length))
        stop = min(int(plan.sequences_K[domain]), -(-((epoch + 1) * stream.num_tokens - start) // length))
        span = max(1, stream.span // length)
        first += (rank - first) // span * span
        key = derive_key(self.seed, "sequences", plan.index, self.domains[domain], epoch, first)
        place = first + permute_one(rank - first, min(span, stop - first), key)
        return lay_out(stream.read(start + place * length, length), length)

    def _epochs(self, plan: _StagePlan, domain: int) -> float:
        return int(plan.sequences_K[domain]) * plan.stage.sequence_length / self._streams[domain].num_tokens


def validation_batches(
    shards: TokenShards, sequence_length: int, batch_size: int, *, domain: int = 0, max_sequences: int | None = None
) -> Iterator[Batch]:
    """The documents of `shards` (those of one domain that were held out) once, in their order.

    The last sequence is filled up with tokens that do not count, and the last batch may be smaller.
    """
    stream = DomainStream(shards, shuffle=False)
    num_sequences = -(-stream.num_tokens // sequence_length)
    if max_sequences is not None:
        num_sequences = min(num_sequences, max_sequences)
    for first in range(0, num_sequences, batch_size):
        packed = []
        for number in range(first, min(first + batch_size, num_sequences)):
            start = number * sequence_length
            packed.append(lay_out(stream.read(start, min(sequence_length, stream.num_tokens - start)), sequence_length))
        yield _stack(packed, np.full(len(packed), domain))


def _stack(packed: list[Packed], domains: Indices) -> Batch:
    columns = Packed(*(np.stack(column) for column in zip(*packed, strict=True)))
    return Batch(*columns, domains.astype(np.int32))


def _check_one_tokenizer(shards: Mapping[str, TokenShards]) -> None:
    made_by: dict[str, str] = {}
    for name, own in shards.items():
        made_by.setdefault(own.manifest.tokenizer_sha256, name)
    if len(made_by) > 1:
        first, second, *_ = made_by.values()
        raise UserError(
            f"domains {first} and {second} were tokenised by different tokenizers", "prepare all data with one tokenizer"
        )
