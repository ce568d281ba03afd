"""Models are found by name and path; what is no model is told, with the nearest name."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats import HybridConfig, read_gguf, write_gguf
from openarctic.formats.names import state_dict_shapes
from openarctic.planner import PRESETS, find, weight_bytes
from tests.tiny import LAYOUTS, tiny_config, write_model


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "config.json"


def test_a_preset_by_name() -> None:
    source = find("arctic-480b")
    assert (source.kind, source.config, source.stored) == ("preset", PRESETS["arctic-480b"], None)


def test_the_bundled_model_by_name() -> None:
    source = find("arctic-nano")
    assert source.kind == "gguf" and source.name == "arctic-nano"
    assert source.stored is not None and set(source.stored.types) == {"F32", "Q4_1", "Q5_1", "Q8_0"}
    assert source.config.num_local_experts == 8


def test_a_config_file_and_the_folder_that_holds_it(tmp_path: Path) -> None:
    path = write_config(tmp_path, PRESETS["arctic-480b"].to_dict())
    assert find(str(path)).config == find(str(tmp_path)).config == PRESETS["arctic-480b"]
    assert (find(str(path)).kind, find(str(tmp_path)).kind) == ("config", "checkpoint")


def write_checkpoint(folder: Path, dtype: str = "BF16") -> dict[str, tuple[int, ...]]:
    """A folder with one file of zeros, by the specification of safetensors: length, JSON header, bytes."""
    write_config(folder, tiny_config())
    shapes = state_dict_shapes(HybridConfig.from_dict(tiny_config()))
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + prod(shape) * (1 if dtype.startswith("F8") else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
    return shapes


def test_a_checkpoint_is_counted_as_it_is_stored(tmp_path: Path) -> None:
    shapes = write_checkpoint(tmp_path)
    stored = find(str(tmp_path)).stored
    assert stored is not None and set(stored.types) == {"BF16"}
    share = stored.types["BF16"]
    assert (share.tensors, share.parameters) == (len(shapes), sum(map(prod, shapes.values())))
    assert stored.tensor_bytes == 2 * share.parameters == weight_bytes(HybridConfig.from_dict(tiny_config()), "bf16")
    assert stored.file_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_a_float8_checkpoint_is_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "F8_E4M3")
    with pytest.raises(UserError, match="float8"):
        find(str(tmp_path))


def test_a_checkpoint_that_is_cut_short_is_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptError):
        find(str(tmp_path))


def test_names_go_before_folders_and_a_path_reaches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    write_config(tmp_path / "tiny", tiny_config())
    monkeypatch.chdir(tmp_path)
    assert find("tiny").kind == "preset"
    assert find("./tiny").kind == "checkpoint"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gguf_file_gives_the_config_it_was_written_from(layout: str, tmp_path: Path) -> None:
    source = find(str(write_model(tmp_path / "m.gguf", LAYOUTS[layout], "F32")))
    assert source.kind == "gguf"
    original = LAYOUTS[layout]
    for key in ("hidden_size", "num_hidden_layers", "num_local_experts", "tie_word_embeddings"):
        assert getattr(source.config, key) == original[key]


def test_the_nearest_name_is_the_hint() -> None:
    with pytest.raises(MissingError, match="'arctic-480'") as caught:
        find("arctic-480")
    assert caught.value.hint == "did you mean arctic-480b?"
    with pytest.raises(MissingError) as caught:
        find("llama")
    assert "arctic-nano" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["/no/such/folder", "./config.json", "no/such.gguf", "x" * 5000, "a\0b", ""])
def test_what_does_not_exist_is_told(name: str) -> None:
    with pytest.raises(MissingError):
        find(name)


def test_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="not a model"):
        find(str(tmp_path / "model.bin"))
    with pytest.raises(MissingError, match="no config"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("blk.1.ffn_up_exps.weight", None), ("blk.1.ffn_up_exps.weight", (4, 32, 64)), ("output_norm.weight", (32,))],
)
def test_a_gguf_file_that_differs_from_its_config_is_told(name: str, tensor: Any, tmp_path: Path) -> None:
    file = read_gguf(write_model(tmp_path / "m.gguf", LAYOUTS["parallel"], "F32"))
    tensors = {n: (t.type, t.shape, t.data) for n, t in file.tensors.items()}
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = ("F32", tensor, tensors[name][2][: 4 * prod(tensor)])
    write_gguf(tmp_path / "bad.gguf", {k: v for k, v in file.metadata.items() if not k.startswith("openarctic")}, tensors)
    with pytest.raises(CorruptError, match=name):
        find(str(tmp_path / "bad.gguf"))
