"""Number types are ggml's own to the last bit (pip install llama-cpp-python; pytest -m peer)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from openarctic.formats.quants import TYPES, byte_size, dequantize, quantize
from tests.formats.test_quants import BLOCKS, WEIGHTED, importances, samples

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    llama_cpp = pytest.importorskip("llama_cpp")
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


@pytest.mark.parametrize("type_", TYPES)
def test_writing(ggml: ctypes.CDLL, type_: str) -> None:
    for name, values in samples().items():
        for kind, weights in importances().items():
            if weights is not None and type_ not in BLOCKS:
                continue
            wanted = np.zeros(byte_size(type_, values.shape), np.uint8)
            pointer = None if weights is None else weights.ctypes.data
            done = ggml.ggml_quantize_chunk(TYPES[type_].code, values.ctypes.data, wanted.ctypes.data, 0, *values.shape, pointer)
            assert done == wanted.size
            assert np.array_equal(quantize(values, type_, importance=weights), wanted), (name, kind)


@pytest.mark.parametrize("type_", [*WEIGHTED, "Q8_0"])
def test_reading(ggml: ctypes.CDLL, type_: str) -> None:
    read = getattr(ggml, f"dequantize_row_{type_.lower().replace('_k', '_K')}")
    read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    noise = np.random.default_rng(8).integers(0, 256, (50, TYPES[type_].block_bytes), dtype=np.uint8).reshape(-1)
    for raw in (noise, *(quantize(values, type_) for values in samples().values())):
        shape = (raw.size // TYPES[type_].block_bytes * TYPES[type_].block_values,)
        wanted = np.zeros(shape, np.float32)
        read(raw.ctypes.data, wanted.ctypes.data, wanted.size)
        assert np.array_equal(dequantize(raw, type_, shape), wanted, equal_nan=True)
