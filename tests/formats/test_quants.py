"""Number types: every C++ path gives the bits of plain numpy, from every source type, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import UserError
from openarctic.formats import _quants
from openarctic.formats.quants import TYPES, byte_size, dequantize, encode, first_not_finite, quantize
from openarctic.formats.quants_reference import dequantize_reference, quantize_reference

BLOCKS = [name for name, kind in TYPES.items() if kind.block_values > 1]
WEIGHTED = [name for name in BLOCKS if name != "Q8_0"]
COLUMNS = 512


def samples() -> dict[str, np.ndarray]:
    """Rows of every kind that a quantiser may meet, [rows, COLUMNS] float32."""
    rng = np.random.default_rng(0)

    def normal(rows: int = 7) -> np.ndarray:
        return rng.standard_normal((rows, COLUMNS))

    zeros = normal(11)
    zeros[:, ::3] = 0
    zeros[1], zeros[2, :256], zeros[3, :40], zeros[4], zeros[5, ::2] = 0, 0, 0, -0.0, -0.0
    zeros[6, 32:] *= 1e-5
    rows = {
        "normal": normal(),
        "one row": normal(1),
        "scales": normal(23) * 10.0 ** rng.integers(-6, 4, (23, 1)),
        "wild": normal(23) * 10.0 ** rng.integers(-6, 4, (23, COLUMNS)),
        "negative": -np.abs(normal()),
        "positive": np.abs(normal()),
        "nearly constant": -1 + 1e-7 * normal(),
        "constant": np.full((3, COLUMNS), -0.7),
        "zeros": zeros,
        "sparse": normal(32) * (rng.random((32, COLUMNS)) < 0.05),
        "whole": rng.integers(-8, 8, (9, COLUMNS)),
        "subnormal": normal() * 1e-40,
        "smallest": rng.integers(-9, 9, (9, COLUMNS)) * 1.4e-45,
        "huge": normal() * 1e37,
        "beyond f16": normal() * 1e6,
    }
    return {name: values.astype(np.float32) for name, values in rows.items()}


def importances() -> dict[str, np.ndarray | None]:
    """Weights of columns: as measured ones are, all alike, and mostly zero."""
    rng = np.random.default_rng(1)
    skewed = rng.random(COLUMNS) ** 4
    weights = {"skewed": skewed, "equal": np.ones(COLUMNS), "sparse": skewed * (rng.random(COLUMNS) < 0.3)}
    return {"none": None, **{name: w.astype(np.float32) for name, w in weights.items()}}


def encoded(values: np.ndarray, type_: str, weights: np.ndarray | None, coder: str) -> np.ndarray:
    out = np.zeros(byte_size(type_, values.shape), np.uint8)
    rows = None if weights is None else weights[None]
    _quants.encode(values.reshape(-1).view(np.uint8), 0, out, TYPES[type_].code, rows, 1, coder)
    return out


@pytest.mark.parametrize("type_", TYPES)
def test_every_coder_writes_what_numpy_writes(type_: str) -> None:
    for name, values in samples().items():
        for kind, weights in importances().items():
            if type_ in WEIGHTED or weights is None:
                wanted = quantize_reference(values, type_, weights)
                for coder in _quants.coders():
                    assert np.array_equal(encoded(values, type_, weights, coder), wanted), (name, kind, coder)


@pytest.mark.parametrize("type_", TYPES)
def test_every_coder_reads_what_numpy_reads(type_: str) -> None:
    """Also bytes that no quantiser wrote."""
    kind = TYPES[type_]
    noise = np.random.default_rng(2).integers(0, 256, (37, kind.block_bytes), dtype=np.uint8)
    with_noise = {"noise": noise.reshape(-1), **{name: quantize(values, type_) for name, values in samples().items()}}
    for name, raw in with_noise.items():
        wanted = dequantize_reference(raw, type_)
        for coder in _quants.coders():
            got = np.zeros(wanted.size, np.float32)
            _quants.encode(raw, kind.code, got.view(np.uint8), 0, None, 1, coder)
            assert np.array_equal(got, wanted, equal_nan=True), (name, coder)


def test_coders_are_named() -> None:
    assert {"plain", "vectors"} <= set(_quants.coders())
    with pytest.raises(ValueError, match="no coder named sse9"):
        encoded(samples()["normal"], "Q8_0", None, "sse9")


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_encoding_is_reading_and_writing(source: str, type_: str) -> None:
    rng = np.random.default_rng(3)
    shape = (3, 19, 768)  # no multiple of what a thread takes at once
    values = rng.standard_normal(shape).astype(np.float32)
    raw = quantize(values, source)
    wanted = raw if source == type_ else quantize_reference(dequantize_reference(raw, source).reshape(-1, 768), type_)
    padded = np.zeros(raw.size + 1, np.uint8)
    padded[1:] = raw
    for threads in (1, 2, 5):
        out = np.zeros(byte_size(type_, shape), np.uint8)
        assert encode(padded[1:], source, type_, shape, threads=threads, out=out) is out
        assert np.array_equal(out, wanted)
    assert np.array_equal(encode(raw, source, type_, shape), wanted)


@pytest.mark.parametrize("type_", WEIGHTED)
def test_importance_of_stacked_experts_and_long_rows(type_: str) -> None:
    rng = np.random.default_rng(4)
    experts = rng.standard_normal((2, 2, 9472)).astype(np.float32)
    weights = rng.random((2, 9472)).astype(np.float32)
    wanted = [quantize_reference(e, type_, w) for e, w in zip(experts, weights, strict=True)]
    assert np.array_equal(quantize(experts, type_, importance=weights, threads=2), np.concatenate(wanted))
    assert np.array_equal(quantize(experts[0], type_, importance=weights[0]), wanted[0])


@pytest.mark.parametrize("type_", WEIGHTED)
def test_importance_of_rows_of_any_width(type_: str) -> None:
    rng = np.random.default_rng(10)
    for columns in (32, 64, 96, 256, 288, 768):
        if columns % TYPES[type_].block_values == 0:
            values, weights = rng.standard_normal((9, columns)).astype(np.float32), rng.random(columns).astype(np.float32)
            wanted = quantize_reference(values, type_, weights)
            assert np.array_equal(quantize(values, type_, importance=weights), wanted), columns


@pytest.mark.parametrize("type_", TYPES)
def test_importance_lowers_the_weighted_error(type_: str) -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((64, 512)).astype(np.float32)
    weights = (rng.random(512) ** 6).astype(np.float32)

    def error(raw: np.ndarray) -> float:
        return float((weights * (dequantize(raw, type_, values.shape) - values) ** 2).mean())

    with_weights, without = error(quantize(values, type_, importance=weights)), error(quantize(values, type_))
    assert with_weights < 0.9 * without if type_ in WEIGHTED else with_weights == without


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(TYPES)), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_quantising_is_close(type_: str, seed: int, scale: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((2, 256)) * scale).astype(np.float32)
    steps = {"F32": 1e9, "F16": 2000, "BF16": 250, "Q8_0": 250, "Q6_K": 50}.get(type_, 28 if type_.startswith("Q5") else 13)
    error = np.abs(dequantize(quantize(values, type_), type_, values.shape) - values).max()
    assert error <= np.ptp(values) / steps + np.abs(values).max() / 1000


@pytest.mark.parametrize("type_", TYPES)
def test_numbers_are_those_of_the_gguf_package(type_: str) -> None:
    gguf = pytest.importorskip("gguf")
    code = getattr(gguf.GGMLQuantizationType, type_)
    rng = np.random.default_rng(6)
    values = (rng.standard_normal((16, 768)) * rng.choice([1e-4, 1, 300], (16, 1))).astype(np.float32)
    values[3] = 0
    raw = quantize(values, type_)
    if not type_.endswith("K"):  # which it only reads
        assert np.array_equal(raw, np.ascontiguousarray(gguf.quants.quantize(values, code)).view(np.uint8).reshape(-1))
    wanted = gguf.quants.dequantize(raw.view(np.float32) if type_ == "F32" else raw, code)
    assert np.array_equal(dequantize(raw, type_, values.shape), wanted.reshape(values.shape))


@pytest.mark.parametrize("type_", TYPES)
def test_what_is_not_finite_is_found(type_: str) -> None:
    values = np.random.default_rng(7).standard_normal((40, 768)).astype(np.float32)
    kind = TYPES[type_]
    raw = quantize(values, type_)
    assert first_not_finite(raw, type_) is None
    at = 17 * 768 + 300
    where = at // kind.block_values * kind.block_values
    if kind.block_values == 1:
        for bad in (np.inf, -np.inf, np.nan):
            values.reshape(-1)[at] = bad
            with np.errstate(invalid="ignore"):
                assert first_not_finite(quantize_reference(values, type_), type_) == at
    else:
        values.reshape(-1)[at] = 1e9
        assert first_not_finite(quantize(values, type_), type_) == where


def test_what_does_not_fit_is_told() -> None:
    values = np.zeros((2, 96), np.float32)
    with pytest.raises(UserError, match="96 values cannot be Q4_K"):
        quantize(values, "Q4_K")
    with pytest.raises(UserError, match="has 768 bytes, not 767"):
        encode(values.reshape(-1).view(np.uint8)[1:], "F32", "Q8_0", (2, 96))
    with pytest.raises(UserError, match="has 204 bytes, not 203"):
        encode(values.reshape(-1).view(np.uint8), "F32", "Q8_0", (2, 96), out=np.zeros(203, np.uint8))
    for weights, message in (
        (np.ones(95), "does not fit"),
        (np.ones((2, 96)), "does not fit"),
        (np.full(96, -1), "negative"),
        (np.full(96, np.nan), "negative or not finite"),
    ):
        with pytest.raises(UserError, match=message):
            quantize(values, "Q4_0", importance=weights.astype(np.float32))


def test_a_tensor_without_values() -> None:
    assert quantize(np.zeros((0, 256), np.float32), "Q4_K").size == 0
