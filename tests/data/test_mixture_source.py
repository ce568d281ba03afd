from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.data import (
    IGNORED,
    Batch,
    Curriculum,
    Mixture,
    MixtureSource,
    Stage,
    TokenShards,
    single_stage,
    validation_batches,
)
from openarctic.data.shards import VALIDATION
from openarctic.errors import UserError
from tests.data.corpora import write_shards

LENGTHS = {"web": [31, 8, 120, 5, 64, 17] * 40, "code": [90, 12, 45] * 30, "sql": [6, 9] * 50}
STAGES = Curriculum(
    stages=(
        Stage(name="first", tokens=9000, sequence_length=32, mixture=Mixture({"web": 0.8, "code": 0.2})),
        Stage(name="second", tokens=6000, sequence_length=64, mixture=Mixture({"web": 0.4, "code": 0.5, "sql": 0.1})),
    )
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenShards]:
    folder = tmp_path_factory.mktemp("domains")
    return {name: write_shards(folder / name, own, first_token=100_000 * i) for i, (name, own) in enumerate(LENGTHS.items())}


def source(shards: dict[str, TokenShards], curriculum: Curriculum = STAGES, **settings: Any) -> MixtureSource:
    return MixtureSource(curriculum, shards, **{"batch_tokens": 512, "seed": 3, **settings})


def equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Batch))


def test_a_batch_is_what_its_docstring_says(shards: dict[str, TokenShards]) -> None:
    for batch in source(shards):
        batch_size, length = batch.input_ids.shape
        assert batch_size * length == 512
        assert batch.labels.shape == batch.document_ids.shape == batch.position_ids.shape == (batch_size, length)
        begins = batch.position_ids == 0
        assert (batch.labels == np.where(begins, IGNORED, batch.input_ids)).all()
        assert (np.cumsum(begins, axis=1) - 1 == batch.document_ids).all()
        # Tokens count up within a document, and every token is of the sequence's domain.
        assert (np.diff(batch.input_ids, axis=1) == 1)[~begins[:, 1:]].all()
        assert (batch.input_ids // 100_000 == batch.domains[:, None]).all()


def test_stages_follow_each_other_with_their_own_mixtures(shards: dict[str, TokenShards]) -> None:
    whole = source(shards)
    batches = list(whole)
    assert whole.num_batches == len(batches) == round(9000 / 512) + round(6000 / 512)
    assert [whole.stage_of(n) for n in (0, 17, 18, 29)] == ["first", "first", "second", "second"]
    assert {batch.input_ids.shape for batch in batches} == {(16, 32), (8, 64)}
    first = np.concatenate([batch.domains for batch in batches[:18]])
    second = np.concatenate([batch.domains for batch in batches[18:]])
    assert np.abs(np.bincount(first, minlength=3) / len(first) - [0.8, 0.2, 0]).max() < 0.02
    assert np.abs(np.bincount(second, minlength=3) / len(second) - [0.4, 0.5, 0.1]).max() < 0.02
    met = Counter((whole.stage_of(n), whole.domains[d]) for n, batch in enumerate(batches) for d in batch.domains.tolist())
    assert met == {(use.stage, use.domain): use.sequences for use in whole.uses() if use.sequences}
    with pytest.raises(StopIteration):
        whole.next_batch()


def test_a_run_reads_each_domain_on_from_stage_to_stage_and_nothing_twice_in_an_epoch(shards: dict[str, TokenShards]) -> None:
    """The tokens of all stages are the beginning of the domain's stream: every token n or n + 1 times."""
    whole = source(shards)
    tokens = np.concatenate([batch.input_ids.ravel() for batch in whole])
    for index, name in enumerate(whole.domains):
        total = sum(LENGTHS[name])
        taken = sum(use.tokens for use in whole.uses() if use.domain == name)
        counted = np.bincount(tokens[tokens // 100_000 == index] - 100_000 * index, minlength=total)
        assert counted.sum() == taken and len(counted) == total
        assert set(counted.tolist()) <= {taken // total, taken // total + 1}


def test_every_token_of_whole_epochs_comes_equally_often(shards: dict[str, TokenShards]) -> None:
    """Sequences of 250 tokens do not divide the domain's 750: still three of them are an epoch, and 12 are four."""
    four = source(shards, single_stage({"sql": 1.0}, 3000, 250), batch_tokens=750)
    tokens = np.concatenate([batch.input_ids.ravel() for batch in four])
    assert set(np.bincount(tokens - 200_000).tolist()) == {4}


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_processes_together_read_what_one_reads(shards: dict[str, TokenShards], world_size: int) -> None:
    one = source(shards)
    parts = [source(shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number in range(one.num_batches):
        whole = one.next_batch()
        for rank, part in enumerate(parts):
            own = part.next_batch()
            for field in fields(Batch):
                assert np.array_equal(getattr(own, field.name), getattr(whole, field.name)[rank::world_size]), (
                    number,
                    field.name,
                )


@pytest.mark.parametrize("stop", [0, 1, 17, 18, 25])
def test_a_state_goes_on_where_it_was_taken_with_any_number_of_processes(shards: dict[str, TokenShards], stop: int) -> None:
    whole = source(shards)
    for _ in range(stop):
        whole.next_batch()
    state = json.loads(json.dumps(whole.state_dict()))
    rest = list(whole)
    again, half = source(shards), source(shards, rank=1, world_size=2)
    again.load_state_dict(state)
    half.load_state_dict(state)
    assert all(equal(one, other) for one, other in zip(rest, again, strict=True))
    assert all(np.array_equal(one.input_ids[1::2], other.input_ids) for one, other in zip(rest, half, strict=True))


def test_what_has_changed_under_a_state_is_named(shards: dict[str, TokenShards], tmp_path: Path) -> None:
    state = source(shards).state_dict()
    other_data = {**shards, "sql": write_shards(tmp_path / "sql", [6, 9] * 49)}
    for changed, named in (
        (source(shards, seed=4), "seed"),
        (source(shards, batch_tokens=1024), "batch_tokens"),
        (source(shards, single_stage({"web": 1}, 9000, 32)), "curriculum"),
        (source(other_data), "data"),
    ):
        with pytest.raises(UserError, match=f"changed since its checkpoint:.* {named}"):
            changed.load_state_dict(state)
    with pytest.raises(UserError, match="no state of a mixture"):
        source(shards).load_state_dict({"epoch": 3})


def test_seeds_give_other_batches(shards: dict[str, TokenShards]) -> None:
    assert equal(source(shards).next_batch(), source(shards).next_batch())
    assert not equal(source(shards).next_batch(), source(shards, seed=4).next_batch())


def test_long_documents_are_dropped_whole_when_asked(shards: dict[str, TokenShards]) -> None:
    curriculum = single_stage({"web": 1}, 9000, 64, max_epochs=None)
    dropping = source(shards, curriculum, long_documents="drop")
    assert dropping.left_out == {"web": 40}
    tokens = set(np.concatenate([batch.input_ids.ravel() for batch in dropping]).tolist())
    long = [token for start in range(0, 245 * 40, 245) for token in range(start + 39, start + 159)]
    assert tokens == set(range(245 * 40)) - set(long)
    assert source(shards, curriculum).left_out == {"web": 0}


def test_bad_settings_are_told(shards: dict[str, TokenShards], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batches of 500 tokens are no equal number of sequences of 32"):
        source(shards, batch_tokens=500)
    with pytest.raises(UserError, match="for 3 processes"):
        source(shards, world_size=3)
    with pytest.raises(UserError, match="rank 2 of 2"):
        source(shards, rank=2, world_size=2)
    with pytest.raises(UserError, match="no data for sql"):
        source({name: own for name, own in shards.items() if name != "sql"})
    with pytest.raises(UserError, match="web and sql were tokenised by different tokenizers"):
        source({**shards, "sql": write_shards(tmp_path / "sql", [6, 9], tokenizer="another")})
    with pytest.raises(UserError, match="there is no batch 30"):
        source(shards).batch_at(30)


def test_validation_meets_every_held_out_token_once(tmp_path: Path) -> None:
    held_out = write_shards(tmp_path / "web", [10, 20, 5], split=VALIDATION)
    batches = list(validation_batches(held_out, 8, 2, domain=4))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    ids = np.concatenate([batch.input_ids.ravel() for batch in batches])
    labels = np.concatenate([batch.labels.ravel() for batch in batches])
    assert ids[:35].tolist() == list(range(35)) and (labels[35:] == IGNORED).all()
    assert all((batch.domains == 4).all() for batch in batches)
    assert sum(len(batch) for batch in validation_batches(held_out, 8, 2, max_sequences=3)) == 3
