"""The engine against plain numpy on the same dequantised weights, and against itself in other ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from openarctic.native._native import available_kernels

from openarctic.engine import Engine
from openarctic.engine.reference import reference_logits
from openarctic.engine.sampler import probabilities
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError
from openarctic.formats import HybridConfig, from_gguf, read_gguf, to_gguf, write_gguf
from openarctic.formats.quants import TYPES
from openarctic.generator import Sampling
from openarctic.tokenizer import Tokenizer
from tests.tiny import IDS, LAYOUTS, random_state, tiny_config, write_model

WIDE = tiny_config(hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_local_experts=4)


@pytest.mark.parametrize("type_", TYPES)
def test_vector_kernels_agree_to_the_bit(tmp_path: Path, type_: str) -> None:
    """AVX-512 takes the same sums by fewer instructions; lengths around the tile's steps are covered."""
    path = write_model(tmp_path / "m.gguf", WIDE if "K" in type_ else LAYOUTS["parallel"], type_)
    engines = [Engine.load(path, threads=2, kernels=name) for name in available_kernels() if name != "plain"]
    for length in (1, 5, 8, 9, 23, 64):
        first, *others = [engine.logits((IDS * 4)[:length]) for engine in engines]
        assert all(np.array_equal(first, other) for other in others)


def test_unknown_kernels_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kernels is 'sse9', this processor has"):
        Engine.load(write_model(tmp_path / "m.gguf", tiny_config(), "F32"), kernels="sse9")


@pytest.mark.parametrize("kernels", available_kernels())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("type_", "tolerance"),
    [("F32", 1e-3), ("F16", 1e-3), ("BF16", 1e-3), ("Q8_0", 5e-3), ("Q4_0", 0.6), ("Q4_1", 0.6), ("Q5_0", 0.6), ("Q5_1", 0.6)],
)
def test_logits_are_those_of_the_reference(tmp_path: Path, layout: str, type_: str, tolerance: float, kernels: str) -> None:
    path = write_model(tmp_path / "m.gguf", LAYOUTS[layout], type_)
    engine = Engine.load(path, threads=2, kernels=kernels, cache_type="f32")
    wanted = reference_logits(read_gguf(path), IDS)
    got = engine.logits(IDS)
    if type_.startswith(("Q4", "Q5")):  # 8-bit activations: routing may flip, so the bulk is compared
        assert np.median(np.abs(got - wanted)) < tolerance / 4
    else:
        assert np.abs(got - wanted).max() < tolerance


@pytest.mark.parametrize("kernels", available_kernels())
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("type_", "tolerance"),
    [
        ("Q4_K", 0.05),
        ("Q5_K", 0.05),
        ("Q6_K", 2e-4),
        ("Q8_0", 2e-4),
        ("Q4_0", 0.05),
        ("ffn_gate: Q8_0, ffn_up: Q6_K", 2e-5),
        ("attn_v: Q6_K, ffn_down: Q6_K, weight: Q4_K", 0.05),
    ],
)
def test_types_with_blocks_of_256(tmp_path: Path, type_: str, tolerance: float, tied: bool, kernels: str) -> None:
    """Also matrices of different types that are read together; Q6_K is held to what Q8_0 keeps, Q4_K and Q5_K to Q4_0."""
    config = {**WIDE, "tie_word_embeddings": tied}
    types = dict(pair.split(": ") for pair in type_.split(", ")) if ":" in type_ else {"": type_}

    def typed(name: str, shape: tuple[int, ...]) -> str:
        return next((t for part, t in types.items() if part in name), "F32")

    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), typed, {})
    [path] = write_gguf(tmp_path / "m.gguf", metadata, tensors)
    got = Engine.load(path, threads=2, kernels=kernels, cache_type="f32").logits(IDS)
    assert np.median(np.abs(got - reference_logits(read_gguf(path), IDS))) < tolerance


@pytest.mark.parametrize("type_", TYPES)
def test_a_model_takes_about_its_own_size(tmp_path: Path, type_: str) -> None:
    path = write_model(tmp_path / "m.gguf", WIDE, type_)
    matrices = sum(len(t.data) for t in read_gguf(path).tensors.values() if len(t.shape) > 1)
    held = Engine.load(path, threads=1)._model.weight_bytes
    assert 0.97 < held / matrices < 1.12


def test_the_torch_model_agrees(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from openarctic.model import ArcticConfig, ArcticForCausalLM

    for layout in LAYOUTS.values():
        path = write_model(tmp_path / "m.gguf", layout, "F32")
        config, state = from_gguf(read_gguf(path))
        model = ArcticForCausalLM(ArcticConfig.from_dict(config.to_dict()))
        model.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()})
        with torch.no_grad():
            wanted = model(torch.tensor([IDS])).logits[0].numpy()
        assert np.abs(Engine.load(path, cache_type="f32").logits(IDS) - wanted).max() < 1e-3


@pytest.mark.parametrize("type_", ["F32", "Q8_0", "Q4_1"])
def test_step_by_step_is_all_at_once(tmp_path: Path, type_: str) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), type_)
    one, two = Engine.load(path, threads=1), Engine.load(path, threads=2)
    whole = one.logits(IDS)
    table = np.array([[3]], np.int32)
    steps = np.concatenate([two.step([t], [0], [i], table, [0]).copy() for i, t in enumerate(IDS)])
    assert np.array_equal(whole, steps)


def test_candidates_together_are_candidates_alone(tmp_path: Path) -> None:
    engine = Engine.load(write_model(tmp_path / "m.gguf", tiny_config(), "F32"))
    settings = [Sampling(), *(Sampling(temperature=0.8, seed=s) for s in range(1, 6))]
    together = engine.generate(IDS, sampling=settings, max_tokens=12)
    alone = [engine.generate(IDS, sampling=s, max_tokens=12)[0] for s in settings]
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert [c.logprob for c in together] == pytest.approx([c.logprob for c in alone], abs=1e-3)


def test_a_kept_prefix_changes_nothing(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "F32")
    fresh, used = Engine.load(path), Engine.load(path)
    used.generate([*IDS, 7, 7, 7], max_tokens=5)
    assert used.generate([*IDS, 9], max_tokens=8)[0].ids == fresh.generate([*IDS, 9], max_tokens=8)[0].ids


@pytest.mark.parametrize("name", ["eos", "eot"])
def test_every_stop_token_ends_a_text(tmp_path: Path, name: str) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "F32")
    ids = Engine.load(path).generate(IDS, max_tokens=8)[0].ids
    keys = {"model": "gpt2", "tokens": [f"t{i}" for i in range(64)], "merges": [], f"{name}_token_id": ids[3]}
    tokenizer = Tokenizer.from_gguf_metadata({f"tokenizer.ggml.{key}": value for key, value in keys.items()})
    [stopped] = Engine.load(path, tokenizer=tokenizer).generate(IDS, max_tokens=8)
    assert (stopped.ids, stopped.finish_reason) == (ids[: ids.index(ids[3])], "stop")


def test_sampling_follows_its_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert probabilities(logits, Sampling(temperature=1)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-6)
    assert probabilities(logits, Sampling(temperature=1, top_k=2)) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)
    assert probabilities(logits, Sampling(temperature=1, top_p=0.6)) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)


def test_limits_and_bad_files(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "F32")
    engine = Engine.load(path)
    with pytest.raises(CapacityError, match="128"):
        engine.generate(list(range(60)) * 3)
    with pytest.raises(UserError, match="tokenizer"):
        engine.generate("text")
    with pytest.raises(IndexError):
        engine.logits([64])
    with pytest.raises(UserError, match="holds token 64, the vocabulary has 0 to 63"):
        engine.generate([64])
    with pytest.raises(MissingError):
        Engine.load(tmp_path / "none.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CorruptError):
        Engine.load(path)
