"""Every workload runs on a tiny model and gives cells that say what they measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.bench import random_models, special
from openarctic.bench.estimate import estimate_seconds
from openarctic.bench.measure import measure
from openarctic.bench.plan import FIRST_ONLY, WORKLOADS, Options
from openarctic.bench.results import COLUMNS, table
from openarctic.bench.special import errors_of
from openarctic.errors import CapacityError
from tests.bench.conftest import LIMITS
from tests.tiny import tiny_config


def run(names: list[str], options: Options) -> dict[str, Any]:
    body = measure(names, options, lambda text: None)
    json.dumps(body)
    assert all(len(row) == len(COLUMNS) for row in table(body))
    return body


@pytest.mark.usefixtures("known_limits")
@pytest.mark.parametrize(
    ("name", "cells"),
    [("decode", 1), ("prefill", 1), ("batch", 2), ("prefix", 2), ("long", 4), ("contention", 1), ("load", 1)],
)
def test_workloads(name: str, cells: int, options: Options) -> None:
    body = run([name], options)
    assert len(body["results"]) == cells
    for cell in body["results"]:
        assert cell["model"] == "tiny"
        assert all(side and side["median"] > 0 for side in cell["sides"].values())
        assert cell["repetitions"] == (1 if cell["workload"] == "prefill between" else 2)
    if name in ("decode", "batch", "long"):
        assert any(cell["shares"]["bandwidth"] > 0 for cell in body["results"] if "shares" in cell)


@pytest.mark.usefixtures("known_limits")
def test_runs_add_to_the_same_cells(options: Options) -> None:
    body = run(["batch"], replace(options, protocol=replace(options.protocol, runs=3)))
    assert [cell["settings"]["batch"] for cell in body["results"]] == [1, 3]
    for cell in body["results"]:
        assert len(cell["sides"]["openarctic"]["runs"]) == 3 and cell["repetitions"] == 6


@pytest.mark.usefixtures("known_limits")
def test_only_the_first_model_runs_what_is_for_one(options: Options, dense: Path) -> None:
    two = replace(options, models=(*options.models, dense), first_only=FIRST_ONLY)
    body = run(["decode", "prefix"], two)
    assert [(cell["workload"], cell["model"]) for cell in body["results"]] == [
        ("decode", "tiny"),
        ("prefix", "tiny"),
        ("prefix, ours alone", "tiny"),
        ("decode", "dense"),
    ]
    assert set(body["models"]) == {"tiny", "dense"}


@pytest.mark.usefixtures("known_limits")
def test_contexts_beyond_the_model_are_left_out_and_noted(options: Options) -> None:
    body = run(["long"], replace(options, lengths=(16, 100000)))
    assert [cell["settings"].get("to", 16) for cell in body["results"]] == [16, 16]
    assert any("100000" in note for note in body["notes"])


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random model with a tokenizer."""
    monkeypatch.setattr(random_models, "SHAPES", {"T": tiny_config(vocab_size=320, max_position_embeddings=512)})
    monkeypatch.setattr(random_models, "POOL_VALUES", 1 << 14)
    return random_models.random_model(tmp_path, "T", "Q8_0")


@pytest.mark.usefixtures("known_limits")
def test_speculation_writes_the_same(options: Options, writer: Path) -> None:
    body = run(["speculation"], replace(options, text_models=(writer,)))
    (cell,) = body["results"]
    assert list(cell["sides"]) == ["suffix", "plain"] and cell["identical"]
    assert cell["settings"] == {"trace": "free text"}


@pytest.mark.usefixtures("known_limits")
def test_whole_requests_beside_bare_steps(options: Options) -> None:
    body = run(["submit"], options)
    assert [(cell["settings"]["requests"], list(cell["sides"])) for cell in body["results"]] == [
        (1, ["submit", "openarctic steps"])
    ]


@pytest.mark.usefixtures("known_limits")
def test_numbers_of_experts(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_models, "SHAPES", {f"E{n}": tiny_config(vocab_size=320, num_local_experts=n) for n in (2, 4)})
    monkeypatch.setattr(random_models, "POOL_VALUES", 1 << 14)
    body = run(["experts"], replace(options, experts=(2, 4)))
    assert list(body["results"][0]["sides"]) == ["4 experts", "2 experts"]


@pytest.mark.usefixtures("known_limits")
def test_accuracy_of_the_engine_is_good_and_a_large_model_is_refused(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    body = run(["accuracy"], options)
    assert 0 < body["results"][0]["errors"]["openarctic"]["relative"] < 0.01
    monkeypatch.setattr(special, "MAX_REFERENCE_PARAMETERS", 10)
    with pytest.raises(CapacityError, match="accuracy takes 10"):
        run(["accuracy"], options)


def test_errors_by_hand() -> None:
    truth = np.array([[3.0, 4.0], [0.0, 5.0]])
    got = errors_of(np.array([[3.0, 4.0], [5.5, 5.0]]), truth)
    assert got["relative"] == pytest.approx(5.5 / 50**0.5)
    assert (got["max"], got["argmax_agreement"]) == (5.5, 0.5)


def test_the_estimate_grows_with_what_is_asked(options: Options) -> None:
    times = [estimate_seconds(list(WORKLOADS)[:n], options, LIMITS) for n in range(1, len(WORKLOADS))]
    assert times == sorted(set(times))
    assert estimate_seconds(["decode"], replace(options, against="llama.cpp"), LIMITS) > times[0]
