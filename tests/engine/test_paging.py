"""Keys and values in pages: the same bits wherever the pages lie, however a prompt is cut, whatever else is in the step."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openarctic.native._native import PAGE_SIZE, Model, available_kernels

from openarctic.engine.loader import load_model
from openarctic.formats import config_from_gguf, read_gguf
from tests.tiny import tiny_config, write_model

CONFIG = tiny_config(max_position_embeddings=1024, hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
PAGES = 60
TOKENS = np.random.default_rng(0).integers(0, 64, 600).tolist()  # longer than the 256 positions that one thread takes
IN_ORDER = np.arange(PAGES // 3, dtype=np.int32)

F32 = NDArray[np.float32]


def load(path: Path, cache_type: str = "f16", kernels: str = "", threads: int = 2) -> Model:
    file = read_gguf(path)
    return load_model(file, config_from_gguf(file), pages=PAGES, threads=threads, cache_type=cache_type, kernels=kernels)


def step(model: Model, parts: list[tuple[list[int], int, NDArray[np.int32]]]) -> list[F32]:
    """Logits of every token of each (tokens, first position, table)."""
    tokens = [t for part, _, _ in parts for t in part]
    sequences = [i for i, (part, _, _) in enumerate(parts) for _ in part]
    positions = [start + i for part, start, _ in parts for i in range(len(part))]
    out = np.empty((len(tokens), model.padded_vocab), np.float32)
    arrays = (np.asarray(a, np.int32) for a in (tokens, sequences, positions))
    model.step(*arrays, np.stack([table for *_, table in parts]), list(range(len(tokens))), out)
    return np.split(out, np.cumsum([len(part) for part, _, _ in parts])[:-1])


def run(model: Model, tokens: list[int], cuts: list[int], table: NDArray[np.int32]) -> F32:
    """Logits of all positions, computed in the chunks between `cuts`."""
    edges = [0, *cuts, len(tokens)]
    return np.concatenate([step(model, [(tokens[a:b], a, table)])[0] for a, b in itertools.pairwise(edges)])


@pytest.fixture(scope="module", params=["F32", "Q8_0", "Q4_1"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m.gguf", CONFIG, request.param)


@pytest.mark.parametrize("kernels", available_kernels())
@pytest.mark.parametrize("cache_type", ["f32", "f16", "q8_0"])
def test_pages_cuts_and_company_change_no_bit(path: Path, cache_type: str, kernels: str) -> None:
    model, rng = load(path, cache_type, kernels), np.random.default_rng(1)
    tokens = TOKENS[:330]
    whole = run(model, tokens, [], IN_ORDER)
    shuffled = rng.permutation(PAGES).astype(np.int32)
    assert np.array_equal(run(model, tokens, [1, 2, 31, 32, 33, 63, 200, 257, 320], shuffled[:20]), whole)
    assert np.array_equal(run(load(path, cache_type, kernels, threads=1), tokens, [130, 322], IN_ORDER), whole)
    others = [(TOKENS[i : i + n], 0, shuffled[20 + i * 2 :][:12]) for i, n in enumerate((40, 1, 7, 17))]
    run(model, tokens[:320], [], shuffled[:12])
    together = step(model, [others[0], (tokens[320:], 320, shuffled[:12]), *others[1:]])
    assert np.array_equal(together[1], whole[320:])


def test_what_lay_in_a_page_before_is_never_read(path: Path) -> None:
    """Not even numbers that are none: they stand behind the positions that a token sees."""
    model = load(path)
    whole = run(model, TOKENS[:70], [], IN_ORDER)
    for page in range(PAGES):
        model.write_page(page, np.full(model.page_bytes, 255, np.uint8))  # f16: not a number
    assert np.array_equal(run(model, TOKENS[:70], [3, 40], IN_ORDER[::-1].copy()), whole)


def test_pages_are_copied_read_and_written(path: Path) -> None:
    model = load(path)
    whole = run(model, TOKENS[:70], [], IN_ORDER)
    model.copy_page(1, 50)
    held = np.empty(model.page_bytes, np.uint8)
    model.read_page(0, held)
    other = load(path)
    other.write_page(7, held)
    model.read_page(50, held)
    other.write_page(3, held)
    table = np.array([7, 3, 9, 0], np.int32)
    assert np.array_equal(step(other, [(TOKENS[64:70], 64, table)])[0], whole[64:])


def test_a_cache_of_8_bits_is_near(path: Path) -> None:
    wide, narrow = (run(load(path, cache), TOKENS[:100], [], IN_ORDER) for cache in ("f32", "q8_0"))
    assert 0 < np.median(np.abs(wide - narrow)) < 0.02 * np.abs(wide).max()


def test_what_is_out_of_bounds_is_refused(path: Path) -> None:
    model = load(path)
    with pytest.raises(IndexError, match="beyond the table"):
        step(model, [([1], 2 * PAGE_SIZE, IN_ORDER[:2])])
    with pytest.raises(IndexError, match="page 60 does not exist"):
        step(model, [([1], 40, np.array([0, PAGES], np.int32))])
    with pytest.raises(IndexError, match="page -1 does not exist"):
        model.copy_page(-1, 0)
    with pytest.raises(ValueError, match="a page has"):
        model.write_page(0, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no cache type q4"):
        load(path, "q4")
