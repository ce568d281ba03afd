"""Sources of conversions: one file open at a time, and repeated key and value heads collapsed after proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.errors import CorruptError, UserError
from openarctic.formats import HybridConfig, checkpoint
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.sources import is_deepspeed, open_source
from tests.formats.files import State, assert_same, raw_state, run, state_of, write_folder
from tests.tiny import tiny_config


def test_one_shard_is_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "hf")
    source = open_source(folder)
    opened: list[str] = []
    real = checkpoint.SafetensorsFile
    monkeypatch.setattr(checkpoint, "SafetensorsFile", lambda path: opened.append(path.name) or real(path))
    convert(source, tmp_path / "m.gguf", ConvertOptions(type="Q8_0"))
    assert opened == sorted(path.name for path in folder.glob("*.safetensors"))


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled checkpoint"):
        open_source(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="one file of a checkpoint"):
        open_source(next(write_folder(tmp_path / "hf").glob("*.safetensors")))
    with pytest.raises(UserError, match="no model at"):
        open_source(tmp_path / "none")


def test_a_later_split_names_the_first(tmp_path: Path) -> None:
    paths = run(write_folder(tmp_path / "hf"), tmp_path / "m.gguf", max_file_bytes=200_000).paths
    with pytest.raises(UserError, match=f"is split 2 of {len(paths)}") as caught:
        open_source(paths[1])
    assert str(paths[0]) in str(caught.value.hint)


def test_texts_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latest").write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptError, match="not UTF-8"):
        is_deepspeed(tmp_path)
    folder = write_folder(tmp_path / "hf")
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptError, match="not UTF-8"):
        run(folder, tmp_path / "m.gguf", is_verified=True)


def repeated(config: dict[str, Any], copies: int) -> tuple[dict[str, Any], State]:
    """A model's export with every kv head `copies` times."""
    state = raw_state(config)
    heads = config["num_key_value_heads"]
    for name, (dtype, shape, raw) in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            many = np.repeat(raw.reshape(heads, -1), copies, axis=0)
            state[name] = (dtype, (shape[0] * copies, shape[1]), many.reshape(-1))
    return {**config, "num_key_value_heads": heads * copies}, state


SMALL_KV = tiny_config(hidden_size=192, num_attention_heads=12, num_key_value_heads=2, num_local_experts=2)


@pytest.mark.parametrize("kv_heads", ["auto", 2])
@pytest.mark.parametrize("way", ["huggingface", "training", "gguf"])
def test_repeated_kv_heads_are_collapsed(tmp_path: Path, kv_heads: Any, way: str) -> None:
    config, state = repeated(SMALL_KV, 6)
    source = write_folder(tmp_path / "many", config, state, shard_bytes=100_000)
    if way == "gguf":
        run(source, tmp_path / "many.gguf")
        source = tmp_path / "many.gguf"
    elif way == "training":
        run(source, tmp_path / "many t", layout="training")
        source = tmp_path / "many t"
    run(source, tmp_path / "few", kv_heads=kv_heads, type="BF16")
    run(source, tmp_path / "few.gguf", kv_heads=kv_heads, type="BF16")
    run(tmp_path / "few.gguf", tmp_path / "few again")
    assert HybridConfig.from_file(tmp_path / "few").num_key_value_heads == 2
    assert_same(state_of(tmp_path / "few"), raw_state(SMALL_KV))
    assert_same(state_of(tmp_path / "few again"), raw_state(SMALL_KV))


def test_heads_that_differ_in_one_bit_are_not_collapsed(tmp_path: Path) -> None:
    config, state = repeated(SMALL_KV, 6)
    name = "model.layers.2.self_attn.v_proj.weight"
    state[name][2].reshape(12, -1)[9, 41] ^= 1
    folder = write_folder(tmp_path / "many", config, state, shard_bytes=100_000)
    with pytest.raises(UserError, match=rf"{name}: head 9 is no copy of head 6, they differ by up to \d") as caught:
        run(folder, tmp_path / "few", kv_heads="auto")
    assert "without collapsing" in str(caught.value.hint)
    assert not (tmp_path / "few").exists() and not (tmp_path / "few.partial").exists()


def test_collapsing_what_is_not_repeated(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    with pytest.raises(UserError, match=r"has 2 kv heads, .* nothing to collapse"):
        run(folder, tmp_path / "x", kv_heads="auto")
    with pytest.raises(UserError, match=r"k_proj\.weight: head 1 is no copy of head 0"):
        run(folder, tmp_path / "x", kv_heads=1)
    with pytest.raises(UserError, match="2 kv heads cannot be collapsed to 3"):
        run(folder, tmp_path / "x", kv_heads=3)


def test_repeated_heads_are_hinted_at(tmp_path: Path) -> None:
    config, state = repeated(SMALL_KV, 6)
    folder = write_folder(tmp_path / "many", config, state, shard_bytes=100_000)
    notes: list[str] = []
    convert(open_source(folder), tmp_path / "x.gguf", ConvertOptions(), note=notes.append)
    assert any("each key and value head 6 times: --collapse-kv would keep 2 of 12" in note for note in notes)
