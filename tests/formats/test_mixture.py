"""The mixture of types in a file: llama.cpp's rules by example, and against llama.cpp itself (peer)."""

from __future__ import annotations

import ctypes
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.errors import UserError
from openarctic.formats import GGUFFile, HybridConfig, read_gguf, to_gguf, write_gguf
from openarctic.formats.mixture import FILE_TYPES, choose_types, file_type_named
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import byte_size, encode
from tests.tiny import LAYOUTS, random_state, tiny_config

WIDE = tiny_config(hidden_size=256, intermediate_size=256)
LLAMA = {"num_local_experts": 0, "num_experts_per_tok": 0, "parallel_attn_mlp_res": False}
SHAPES: dict[str, dict[str, Any]] = {
    "parallel": {**WIDE, "num_local_experts": 4, "num_hidden_layers": 9},
    "eight experts": {**WIDE, "num_hidden_layers": 2},
    "one expert": {**WIDE, "num_local_experts": 1, "num_experts_per_tok": 1, "num_hidden_layers": 8},
    "rows of 160 and 96": tiny_config(hidden_size=160, intermediate_size=96, num_local_experts=4),
    "rows of 160 and 96, tied": tiny_config(hidden_size=160, intermediate_size=96, tie_word_embeddings=True),
    "eight layers": {**WIDE, "num_local_experts": 3, "num_hidden_layers": 8},
    "sequential": {**WIDE, "parallel_attn_mlp_res": False, "num_local_experts": 4},
    "llama, tied": {**WIDE, **LLAMA, "num_hidden_layers": 17, "tie_word_embeddings": True},
    "llama of 80 layers": tiny_config(**LLAMA, hidden_size=32, intermediate_size=32, num_hidden_layers=80),
    "llama of 80 layers, own kv heads": tiny_config(
        **LLAMA, hidden_size=32, intermediate_size=32, num_hidden_layers=80, num_key_value_heads=4
    ),
}


def config_of(name: str) -> HybridConfig:
    return HybridConfig.from_dict(SHAPES[name])


@pytest.mark.parametrize("file_type", FILE_TYPES)
@pytest.mark.parametrize("layout", [*LAYOUTS.values(), *SHAPES.values()])
def test_every_tensor_gets_a_type_that_fits(layout: dict[str, Any], file_type: str) -> None:
    config = HybridConfig.from_dict(layout)
    for pure in (False, True):
        types = choose_types(config, file_type, pure=pure)
        specs = list(tensor_table(config))
        assert list(types) == [spec.gguf for spec in specs]
        for spec in specs:
            byte_size(types[spec.gguf], spec.gguf_shape)
            assert types[spec.gguf] == "F32" or not spec.is_kept_f32


def test_a_mixture_gives_more_bits_to_some() -> None:
    types = choose_types(config_of("parallel"), "Q4_K_M")
    more = {int(n.split(".")[1]) for n, t in types.items() if n.endswith("ffn_down_exps.weight") and t == "Q6_K"}
    assert more == {0, 3, 6, 7, 8}
    assert more == {int(n.split(".")[1]) for n, t in types.items() if n.endswith("attn_v.weight") and t == "Q6_K"}
    assert types["output.weight"] == "Q6_K" and types["token_embd.weight"] == "Q4_K"
    assert types["blk.0.ffn_gate_inp.weight"] == types["blk.0.ffn_norm_exps.weight"] == "F32"
    assert set(Counter(choose_types(config_of("parallel"), "Q4_K_M", pure=True).values())) == {"F32", "Q4_K"}


def test_importance_changes_the_first_down_projections() -> None:
    config = config_of("parallel")
    plain, weighted = (choose_types(config, "Q4_0", has_importance=flag) for flag in (False, True))
    assert {n: t for n, t in weighted.items() if plain[n] != t} == {
        f"blk.0.{part}.weight": "Q4_1" for part in ("ffn_down", "ffn_down_exps")
    }


def test_rows_that_are_no_whole_blocks() -> None:
    types = choose_types(config_of("rows of 160 and 96"), "Q4_K_S")
    assert set(types.values()) == {"F32", "Q5_0", "Q5_1", "Q8_0"}
    odd = HybridConfig.from_dict(tiny_config(hidden_size=40, intermediate_size=48))
    assert set(choose_types(odd, "Q6_K").values()) == {"F32", "F16"}
    with pytest.raises(UserError, match=r"token_embd.weight with rows of 40 values cannot be Q4_0: not a multiple of 32"):
        choose_types(odd, "Q4_0")


def test_names() -> None:
    assert [file_type_named(n) for n in ("Q4_K", "q5_k", "bf16", "Q4_K_S")] == ["Q4_K_M", "Q5_K_M", "BF16", "Q4_K_S"]
    with pytest.raises(UserError, match="no file type 'Q4K_M'") as error:
        choose_types(config_of("parallel"), "Q4K_M")
    assert error.value.hint == "did you mean Q4_K_M?"


@pytest.mark.peer
@pytest.mark.parametrize("shape", SHAPES)
def test_files_are_those_of_llama_quantize(tmp_path: Path, shape: str) -> None:
    """Type and bytes of every tensor, for each file type, as a mixture and pure."""
    peer = Peer(tmp_path, shape)
    for file_type in FILE_TYPES:
        for pure in (False, True):
            peer.compare(file_type, pure=pure)


@pytest.mark.peer
def test_files_with_importance_are_those_of_llama_quantize(tmp_path: Path) -> None:
    peer = Peer(tmp_path, "eight layers")
    rng = np.random.default_rng(9)
    importance = {
        spec.gguf: rng.random((*spec.gguf_shape[:-2], spec.shape[-1])).astype(np.float32) ** 4
        for spec in tensor_table(peer.config)
        if spec.part not in ("norms", "router", "embedding", "head")
    }
    for file_type in FILE_TYPES:
        peer.compare(file_type, importance=importance)


class Peer:
    """A random model as an F32 file, and llama.cpp to make others of it."""

    def __init__(self, folder: Path, shape: str) -> None:
        self.llama = pytest.importorskip("llama_cpp.llama_cpp")
        self.config, self.state = config_of(shape), random_state(SHAPES[shape])
        self.target = folder / "theirs.gguf"
        metadata, tensors = to_gguf(self.config, self.state, lambda *_: "F32", {})
        [self.source] = write_gguf(folder / "f32.gguf", metadata, tensors)

    def compare(self, file_type: str, *, pure: bool = False, importance: dict[str, np.ndarray] | None = None) -> None:
        """Every tensor's type and bytes."""
        theirs = self.quantized(FILE_TYPES[file_type], pure, importance or {})
        assert theirs.metadata["general.file_type"] == FILE_TYPES[file_type]
        types = choose_types(self.config, file_type, pure=pure, has_importance=importance is not None)
        assert {name: tensor.type for name, tensor in theirs.tensors.items()} == types, (file_type, pure)
        _, exact = to_gguf(self.config, self.state, lambda *_: "F32", {})
        for name, (_, shape, raw) in exact.items():
            ours = encode(raw, "F32", types[name], shape, importance=(importance or {}).get(name))
            assert np.array_equal(ours, theirs.tensors[name].data), (file_type, pure, name)

    def quantized(self, number: int, pure: bool, importance: dict[str, np.ndarray]) -> GGUFFile:
        """What llama.cpp writes."""
        llama = self.llama
        _quieten(llama)
        entry = llama.llama_model_imatrix_data
        pointer = ctypes.POINTER(ctypes.c_float)
        entries = [entry(n.encode(), w.ctypes.data_as(pointer), w.size) for n, w in importance.items()]
        table = (entry * (len(entries) + 1))(*entries)  # the last one's name is null
        parameters = llama.llama_model_quantize_default_params()
        parameters.ftype, parameters.pure, parameters.nthread = number, pure, 1
        if importance:
            parameters.imatrix = ctypes.cast(table, ctypes.POINTER(entry))
        paths = str(self.source).encode(), str(self.target).encode()
        assert llama.llama_model_quantize(*paths, ctypes.byref(parameters)) == 0
        return read_gguf(self.target)


# llama.cpp keeps the address for as long as it is loaded, so somebody must keep the function.
_QUIET: list[Any] = []


def _quieten(llama: Any) -> None:
    if not _QUIET:
        _QUIET.append(llama.llama_log_callback(lambda *_: None))
        llama.llama_log_set(_QUIET[0], ctypes.c_void_p(0))
