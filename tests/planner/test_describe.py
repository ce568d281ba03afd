"""The one object: its keys, that it is JSON, and that its parts agree with each other and with files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from openarctic.errors import UserError
from openarctic.formats import HybridConfig, read_gguf
from openarctic.planner import GPUS, PRESETS, describe, find, find_gpu, parameters
from tests.tiny import LAYOUTS, write_model

PARTS = ("embedding", "attention", "residual_mlp", "dense_mlp", "router", "experts", "norms", "head")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name: str) -> None:
    body = json.loads(json.dumps(describe(find(name))))
    assert sum(body["parameters"][part] for part in PARTS) == body["parameters"]["total"]
    assert HybridConfig.from_dict(body["config"]) == PRESETS[name]
    assert {fit["gpu"] for fit in body["fits"]} == set(GPUS)
    assert body["stored"] is None and body["error"] is None and body["status"] == "ok"


def test_the_keys_are_those_of_the_docstring() -> None:
    body = describe(find("tiny"))
    text = sys.modules[describe.__module__].__doc__ or ""
    for key in (*body, *body["parameters"], *body["assumptions"], *body["flops_per_token"], *body["fits"][0]):
        assert key in text, key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_described_as_it_is_stored(layout: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", LAYOUTS[layout], "Q8_0")
    body = describe(find(str(path)))
    stored = body["stored"]
    assert stored["file_bytes"] == path.stat().st_size
    assert stored["tensor_bytes"] == body["gguf_bytes"]["Q8_0"] == sum(t["bytes"] for t in stored["types"].values())
    assert sum(t["parameters"] for t in stored["types"].values()) == body["parameters"]["total"]
    assert sum(t["tensors"] for t in stored["types"].values()) == len(read_gguf(path).tensors)
    assert set(stored["types"]) == {"F32", "Q8_0"}


def test_the_bundled_model_adds_up() -> None:
    body = describe(find("arctic-nano"))
    stored = body["stored"]["types"]
    assert sum(t["parameters"] for t in stored.values()) == body["parameters"]["total"]
    assert body["stock_obstacles"]


def test_a_type_that_cannot_hold_the_model_is_null() -> None:
    body = describe(find("tiny"))
    assert body["gguf_bytes"]["Q8_0"] is None
    assert body["gguf_bytes"]["F32"] == 4 * parameters(PRESETS["tiny"]).total


def test_context_and_batch_reach_every_part() -> None:
    body = describe(find("arctic-480b"), context=100, batch=7, gpus=[find_gpu("H200")])
    assert body["flops_per_token"]["context"] == 100
    assert body["assumptions"]["batch"] == 7
    assert {fit["context"] for fit in body["fits"]} == {100}
    assert {fit["gpu"] for fit in body["fits"]} == {"H200"}


@pytest.mark.parametrize(("context", "batch"), [(0, 1), (5000, 1), (1, 0)])
def test_senseless_sizes_are_told(context: int, batch: int) -> None:
    with pytest.raises(UserError):
        describe(find("arctic-480b"), context=context, batch=batch)
