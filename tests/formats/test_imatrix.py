"""Importance of columns: read from llama.cpp's file, each expert's own, and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.errors import OpenArcticError, UserError
from openarctic.formats import read_gguf, write_gguf
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.quants import quantize
from openarctic.formats.sources import open_source
from tests.formats.files import run, write_folder
from tests.tiny import random_state, tiny_config


def test_importance_of_columns(tmp_path: Path) -> None:
    config = tiny_config(num_hidden_layers=1, hidden_size=256, intermediate_size=256, num_local_experts=4)
    folder = write_folder(tmp_path / "hf", config, dtype="F32")
    rng = np.random.default_rng(3)
    sums = rng.uniform(0.1, 9, (4, 256)).astype(np.float32)
    counts = np.array([[3], [5], [0], [2]], np.float32)
    name = "blk.0.ffn_up_exps.weight"
    entries = {f"{name}.in_sum2": sums, f"{name}.counts": counts, "blk.0.attn_q.weight.in_sum2": sums[:1]}
    entries["blk.0.attn_q.weight.counts"] = counts[:1]
    raws = {n: ("F32", v.shape, v.reshape(-1).view(np.uint8)) for n, v in entries.items()}
    write_gguf(tmp_path / "imatrix.gguf", {"general.type": "imatrix"}, raws)
    run(folder, tmp_path / "m.gguf", type="Q4_K_S", is_pure=True, imatrix=tmp_path / "imatrix.gguf")
    run(folder, tmp_path / "plain.gguf", type="Q4_K_S", is_pure=True)
    found, plain = (read_gguf(tmp_path / n).tensors for n in ("m.gguf", "plain.gguf"))
    experts = [f"model.layers.0.block_sparse_moe.experts.{e}.w3.weight" for e in range(4)]
    weights = [sums[0] / 3, sums[1] / 5, np.ones(256, np.float32), sums[3] / 2]
    state = random_state(config)
    wanted = [quantize(state[n], "Q4_K", importance=w) for n, w in zip(experts, weights, strict=True)]
    assert np.array_equal(found[name].data, np.concatenate(wanted))
    changed = {n for n in found if not np.array_equal(found[n].data, plain[n].data)}
    assert changed == {name, "blk.0.attn_q.weight"}


@pytest.mark.parametrize(
    ("metadata", "tensors", "told"),
    [
        ({"general.type": "model"}, {"a.in_sum2": (1, 64)}, "no importance matrix"),
        ({"general.type": "imatrix"}, {"a.in_sum2": (1, 64)}, "of another model"),
        ({"general.type": "imatrix"}, {"output.weight.in_sum2": (1, 64)}, "lacks output.weight.counts"),
        ({"general.type": "imatrix"}, {"output.weight.in_sum2": (1, 65), "output.weight.counts": (1, 1)}, "of another model"),
        ({"general.type": "imatrix"}, {"x": (1, 65)}, "no sums"),
    ],
)
def test_importance_that_does_not_fit(tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any], told: str) -> None:
    folder = write_folder(tmp_path / "hf")
    raws = {n: ("F32", s, np.ones(s, np.float32).reshape(-1).view(np.uint8)) for n, s in tensors.items()}
    write_gguf(tmp_path / "i.gguf", metadata, raws)
    with pytest.raises(OpenArcticError, match=told):
        run(folder, tmp_path / "m.gguf", type="Q4_0", imatrix=tmp_path / "i.gguf")


def imatrix(path: Path, names: tuple[str, ...]) -> Path:
    """Of columns that all count alike."""
    sums = {f"{name}.in_sum2": (1, 64) for name in names}
    shapes = {**sums, **{f"{name}.counts": (1, 1) for name in names}}
    raws = {n: ("F32", s, np.ones(s, np.float32).reshape(-1).view(np.uint8)) for n, s in shapes.items()}
    write_gguf(path, {"general.type": "imatrix"}, raws)
    return path


@pytest.mark.parametrize("type_", ["F16", "F32", "BF16", "Q8_0"])
def test_importance_that_nothing_uses_is_refused(tmp_path: Path, type_: str) -> None:
    path = imatrix(tmp_path / "i.gguf", ("output.weight",))
    with pytest.raises(UserError, match="importance changes nothing"):
        run(write_folder(tmp_path / "hf"), tmp_path / "m.gguf", type=type_, imatrix=path)
    with pytest.raises(UserError, match="for GGUF files"):
        run(tmp_path / "hf", tmp_path / "folder", imatrix=path)


def test_tensors_without_importance_are_counted(tmp_path: Path) -> None:
    config = tiny_config(num_hidden_layers=1, num_local_experts=0)
    path = imatrix(tmp_path / "i.gguf", ("output.weight", "blk.0.attn_q.weight"))
    notes: list[str] = []
    options = ConvertOptions(type="Q4_0", is_pure=True, imatrix=path)
    convert(open_source(write_folder(tmp_path / "hf", config)), tmp_path / "m.gguf", options, note=notes.append)
    assert any("lacks 6 of 8 tensors (" in note for note in notes)
