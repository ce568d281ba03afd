"""The engine on models of every family: biases, norms of queries and keys, heads of any width, both ways to rotate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from openarctic.native._native import available_kernels

from openarctic.engine import Engine
from openarctic.engine.reference import reference_logits
from openarctic.errors import CorruptError
from openarctic.formats import HybridConfig, read_gguf, to_gguf, write_gguf
from tests.tiny import FAMILIES, IDS, random_state, write_model


@pytest.mark.parametrize("kernels", available_kernels())
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("type_", "tolerance"), [("F32", 1e-4), ("BF16", 1e-4), ("Q8_0", 5e-3)])
def test_logits_are_those_of_the_reference(tmp_path: Path, family: str, type_: str, tolerance: float, kernels: str) -> None:
    path = write_model(tmp_path / "m.gguf", FAMILIES[family], type_)
    got = Engine.load(path, threads=2, kernels=kernels, cache_type="f32").logits(IDS)
    difference = np.abs(got - reference_logits(read_gguf(path), IDS))
    assert (np.median(difference) if type_ == "Q8_0" else difference.max()) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_goes_on_as_the_logits_of_the_whole_say(tmp_path: Path, family: str) -> None:
    engine = Engine.load(write_model(tmp_path / "m.gguf", FAMILIES[family], "F32"), threads=1, cache_type="f32")
    made = engine.generate(IDS, max_tokens=12)[0].ids
    logits = engine.logits([*IDS, *made])
    assert made == logits[len(IDS) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize(
    ("family", "tensor"),
    [("qwen2", "blk.1.attn_q.bias"), ("qwen3", "blk.0.attn_k_norm.weight"), ("olmoe", "blk.2.attn_q_norm.weight")],
)
def test_every_vector_counts(tmp_path: Path, family: str, tensor: str) -> None:
    config = FAMILIES[family]
    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: "F32", {})
    before = Engine.load(write_gguf(tmp_path / "a.gguf", metadata, tensors)[0], threads=1).logits(IDS)
    type_, shape, _ = tensors[tensor]
    other = np.linspace(0.5, 2, shape[0], dtype=np.float32)
    tensors[tensor] = (type_, shape, other.view(np.uint8))
    assert np.abs(Engine.load(write_gguf(tmp_path / "b.gguf", metadata, tensors)[0], threads=1).logits(IDS) - before).max() > 0.05
    tensors[tensor] = (type_, shape, np.full_like(other, np.nan).view(np.uint8))
    with pytest.raises(CorruptError, match=f"{tensor} holds values that are not finite"):
        Engine.load(write_gguf(tmp_path / "c.gguf", metadata, tensors)[0], threads=1)
