"""Checkpoint folders: the official plan to the byte, both layouts read alike, and everything that can be wrong named."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats import HybridConfig
from openarctic.formats.checkpoint import INDEX, index_text, layout_shapes, open_checkpoint, shard_plan, stacked_name
from openarctic.formats.quants import quantize
from openarctic.formats.safetensors import write_safetensors
from openarctic.formats.verify import MANIFEST, manifest_text, read_manifest, verify_checkpoint
from tests.formats.files import raw_state, rewrite_shard, shard_of, write_folder
from tests.tiny import tiny_config

# The config.json of the 480B model (spec 1.1).
OFFICIAL = tiny_config(
    vocab_size=32000,
    hidden_size=7168,
    intermediate_size=4864,
    num_hidden_layers=35,
    num_attention_heads=56,
    num_key_value_heads=8,
    num_local_experts=128,
    max_position_embeddings=4096,
)
EXPERT_12 = "model.layers.1.block_sparse_moe.experts.12.w1.weight"


@pytest.mark.parametrize(
    ("kv_heads", "files", "total", "sizes"),
    [
        (8, 194, 957_169_217_536, {9: 4.95, 17: 4.94}),
        (56, 195, 963_334_844_416, {1: 4.99, 6: 4.97, 23: 4.97, 40: 4.99}),
    ],
)
def test_the_official_shard_plan(kv_heads: int, files: int, total: int, sizes: dict[int, float]) -> None:
    shapes = layout_shapes(HybridConfig.from_dict({**OFFICIAL, "num_key_value_heads": kv_heads}), "huggingface")
    plan = shard_plan(shapes, "BF16")
    own = [sum(2 * math.prod(shapes[name]) for name in names) for names in plan.values()]
    assert (len(shapes), len(plan), sum(own)) == (13_828, files, total)
    assert {number: round(own[number - 1] / 1e9, 2) for number in sizes} == sizes
    assert list(plan) == [f"model-{i:05d}-of-{files:05d}.safetensors" for i in range(1, files + 1)]
    assert [name for names in plan.values() for name in names] == list(shapes)
    assert max(own) <= 5_000_000_000


def test_the_training_layout_of_the_official_model() -> None:
    shapes = layout_shapes(HybridConfig.from_dict(OFFICIAL), "training")
    assert len(shapes) == 493 and sum(2 * math.prod(shape) for shape in shapes.values()) == 957_169_217_536
    assert shapes["model.layers.34.block_sparse_moe.experts.w2.weight"] == (128, 7168, 4864)
    assert max(len(names) for file, names in shard_plan(shapes, "BF16").items() if "experts.w1" in str(names)) == 1


def test_a_small_model_is_one_file_and_a_large_tensor_has_its_own() -> None:
    assert shard_plan({"a": (2, 2), "b": (3,)}, "F32") == {"model.safetensors": ["a", "b"]}
    plan = shard_plan({"a": (1,), "b": (9,), "c": (1,)}, "F32", 8)
    assert list(plan.values()) == [["a"], ["b"], ["c"]]


def test_expert_names_are_matched_with_their_dots() -> None:
    assert stacked_name(EXPERT_12) == ("model.layers.1.block_sparse_moe.experts.w1.weight", 12)
    assert stacked_name("model.layers.1.block_sparse_moe.experts.1.w1.weight") != stacked_name(EXPERT_12)
    for name in ("model.norm.weight", EXPERT_12.replace("12", "012"), EXPERT_12 + ".x", EXPERT_12.replace("w1", "w4")):
        assert stacked_name(name) is None


def stack_folder(folder: Path, out: Path) -> Path:
    """The training layout of a Hugging Face folder, made with numpy."""
    config = HybridConfig.from_file(folder)
    with open_checkpoint(folder) as checkpoint:
        tensors: dict[str, Any] = {}
        for name, shape in layout_shapes(config, "training").items():
            experts = [n for n in checkpoint.names if (stacked_name(n) or (n,))[0] == name]
            experts.sort(key=lambda n: (stacked_name(n) or (n, 0))[1])
            tensors[name] = ("BF16", shape, np.concatenate([checkpoint.read(n) for n in experts]))
    out.mkdir()
    shutil.copy(folder / "config.json", out)
    write_safetensors(out / "model.safetensors", tensors, {"format": "pt", "layout": "openarctic.stacked"})
    return out


def test_both_layouts_read_alike(tmp_path: Path) -> None:
    config = tiny_config(num_local_experts=13)
    wanted = raw_state(config)
    official = write_folder(tmp_path / "hf", config)
    training = stack_folder(official, tmp_path / "training")
    for folder, layout in ((official, "huggingface"), (training, "training")):
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.layout == layout and sorted(checkpoint.names) == sorted(wanted)
            for name, (dtype, shape, raw) in wanted.items():
                assert (checkpoint.dtype(name), checkpoint.shape(name)) == (dtype, shape)
                assert np.array_equal(checkpoint.read(name), raw)
            rows = np.empty(2 * 64 * 2, np.uint8)
            assert np.array_equal(checkpoint.read_rows(EXPERT_12, 3, rows), wanted[EXPERT_12][2].reshape(32, -1)[3:5].ravel())
            stacked = "model.layers.1.block_sparse_moe.experts.w2.weight"
            assert checkpoint.shape(stacked) == (13, 64, 32)
            out = np.empty(13 * 64 * 32 * 2, np.uint8)
            assert checkpoint.read(stacked, out) is out
            each = [wanted[f"model.layers.1.block_sparse_moe.experts.{e}.w2.weight"][2] for e in range(13)]
            assert np.array_equal(out, np.concatenate(each))
            for unknown in ("x", "model.layers.1.block_sparse_moe.experts.13.w1.weight", stacked.replace("1", "9")):
                with pytest.raises(MissingError, match="no tensor"):
                    checkpoint.read(unknown)
            with pytest.raises(UserError, match="the buffer 4"):
                checkpoint.read(EXPERT_12, np.empty(4, np.uint8))


def test_names_come_shard_by_shard(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    files = [weight_map[name] for name in open_checkpoint(folder).names]
    assert len(set(files)) > 5 and files == sorted(files)


def test_transformers_would_shard_alike(tmp_path: Path) -> None:
    """The plan beside that of the library which wrote the official files."""
    hub = pytest.importorskip("huggingface_hub")
    shapes = layout_shapes(HybridConfig.from_dict(OFFICIAL), "huggingface")
    split = hub.split_state_dict_into_shards_factory(
        shapes,
        get_storage_size=lambda shape: 2 * math.prod(shape),
        filename_pattern="model{suffix}.safetensors",
        get_storage_id=lambda shape: None,
        max_shard_size=5_000_000_000,
    )
    assert {file: sorted(names) for file, names in split.filename_to_tensors.items()} == {
        file: sorted(names) for file, names in shard_plan(shapes, "BF16").items()
    }


NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / INDEX).read_text())
    change(values)
    (folder / INDEX).write_text(json.dumps(values))


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        values = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return edit


def drop_tensor(folder: Path) -> None:
    rewrite_shard(shard_of(folder, NORM), lambda tensors: tensors.pop(NORM))


def drop_tensor_and_entry(folder: Path) -> None:
    drop_tensor(folder)
    edit_index(folder, lambda index: index["weight_map"].pop(NORM))


def rename_expert(folder: Path) -> None:
    """Expert 1 of a layer as expert 12, of which 1 is a prefix."""
    old = EXPERT_12.replace("12", "1")
    rewrite_shard(shard_of(folder, old), lambda tensors: tensors.update({EXPERT_12: tensors.pop(old)}))
    edit_index(folder, lambda index: index["weight_map"].update({EXPERT_12: index["weight_map"].pop(old)}))


def double_tensor(folder: Path) -> None:
    other = shard_of(folder, NORM)
    rewrite_shard(shard_of(folder, QUERY), lambda tensors: tensors.update({NORM: ("BF16", (64,), np.zeros(128, np.uint8))}))
    assert other != shard_of(folder, QUERY)


def retype(dtype: str, names: tuple[str, ...] | None = None) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for path in sorted(folder.glob("*.safetensors")):
            rewrite_shard(path, change)

    def change(tensors: dict[str, Any]) -> None:
        for name in tensors if names is None else set(names) & set(tensors):
            shape = tensors[name][1]
            size = {"F8_E4M3": 1, "F64": 8, "F32": 4}[dtype]
            tensors[name] = (dtype, shape, np.zeros(math.prod(shape) * size, np.uint8))

    return edit


def reshape(folder: Path) -> None:
    rewrite_shard(shard_of(folder, QUERY), lambda tensors: tensors.update({QUERY: ("BF16", (32, 128), tensors[QUERY][2])}))


def cut_short(folder: Path) -> None:
    path = shard_of(folder, QUERY)
    path.write_bytes(path.read_bytes()[:-100])


def pickled(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for path in folder.glob("model*"):
            path.unlink()
        (folder / name).write_bytes(b"\x80\x02")

    return edit


def add_single(folder: Path) -> None:
    shutil.copy(shard_of(folder, NORM), folder / "model.safetensors")


def quantised(folder: Path) -> None:
    edit_config(quantization_config={"quant_method": "bitsandbytes"})(folder)
    rewrite_shard(shard_of(folder, QUERY), lambda t: t.update({QUERY: ("U8", (2048, 1), np.zeros(2048, np.uint8))}))


BAD: dict[str, tuple[Callable[[Path], Any], type[OpenArcticError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), MissingError, "no config"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), CorruptError, "not JSON"),
    "unknown architecture": (edit_config(model_type="gpt2"), UserError, "'gpt2' is not supported"),
    "contradicting flags": (edit_config(use_residual=False), UserError, "contradict"),
    "missing key": (edit_config(rope_theta=None), MissingError, "rope_theta"),
    "heads not divisible": (edit_config(num_attention_heads=5), UserError, "not divisible"),
    "missing shard": (lambda f: shard_of(f, QUERY).unlink(), MissingError, "lacks 1 of .* shards: model-00001"),
    "missing tensor": (drop_tensor, MissingError, f"{NORM} is not in .*model-"),
    "missing everywhere": (drop_tensor_and_entry, MissingError, f"lacks 1 of .* tensors: {NORM}"),
    "expert 1 named 12": (rename_expert, MissingError, r"experts\.1\.w1"),
    "tensor twice": (double_tensor, CorruptError, f"{NORM} stands"),
    "extra layer": (edit_config(num_hidden_layers=2), CorruptError, r"does not know: model\.layers\.2"),
    "wrong shape": (reshape, CorruptError, r"q_proj.weight has shape \(32, 128\), the config says \(64, 64\)"),
    "kv heads disagree": (edit_config(num_key_value_heads=4), CorruptError, r"k_proj.weight has shape \(32, 64\)"),
    "float8": (retype("F8_E4M3"), UserError, "float8 checkpoints are not supported yet"),
    "some float8": (retype("F8_E4M3", (EXPERT_12.replace("12", "2"),)), UserError, "float8 .* not supported yet"),
    "float64": (retype("F64"), UserError, "weights must be F32, F16 or BF16"),
    "mixed": (retype("F32", (QUERY,)), UserError, "mixes dtypes.*q_proj"),
    "cut short": (cut_short, CorruptError, "cut short"),
    "broken index": (lambda f: (f / INDEX).write_text("{}"), CorruptError, "index.json is damaged"),
    "index leads outside": (
        lambda f: edit_index(f, lambda i: i["weight_map"].update(x="../x.safetensors")),
        CorruptError,
        "damaged",
    ),
    "index and shard disagree": (
        lambda f: edit_index(f, lambda i: i["weight_map"].update({QUERY: i["weight_map"][NORM]})),
        CorruptError,
        "q_proj.weight stands in model-00001",
    ),
    "one file and an index": (add_single, UserError, "has both model.safetensors and model.safetensors.index.json"),
    "quantised": (quantised, UserError, r"quantised by bitsandbytes \(U8\)"),
    "no index": (lambda f: (f / INDEX).unlink(), MissingError, "shards and no model.safetensors.index.json"),
    "no weights": (lambda f: [p.unlink() for p in f.glob("model*")], MissingError, "holds no weights"),
    "pytorch_model.bin": (pickled("pytorch_model-00001-of-00002.bin"), UserError, "pickled checkpoint.*refused"),
    "x.pt": (pickled("x.pt"), UserError, "pickled checkpoint.*refused"),
    "consolidated.pth": (pickled("consolidated.00.pth"), UserError, "pickled checkpoint.*refused"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_before_any_tensor_is_read(tmp_path: Path, case: str) -> None:
    folder = write_folder(tmp_path / "hf")
    open_checkpoint(folder).close()
    damage, error, told = BAD[case]
    damage(folder)
    with pytest.raises(error, match=told) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is error
    if "pickled" in told:
        assert caught.value.hint and "safetensors" in caught.value.hint


def test_the_hint_of_surplus_tensors_says_something_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    edit_config(num_hidden_layers=2)(folder)
    with pytest.raises(CorruptError) as caught:
        open_checkpoint(folder)
    assert caught.value.hint == "config.json and weights must be of one model"


def test_the_only_file_may_have_an_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", shard_bytes=10**9)
    plan = {"model.safetensors": list(raw_state(tiny_config()))}
    (folder / INDEX).write_text(index_text(plan, 0, "huggingface"))
    open_checkpoint(folder).close()


def test_a_quantisation_that_was_not_applied_is_no_obstacle(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    edit_config(quantization_config={"quant_method": "bitsandbytes"})(folder)
    open_checkpoint(folder).close()


def test_shards_of_two_layouts_are_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    path = shard_of(folder, NORM)
    write_safetensors(path, {NORM: ("BF16", (64,), np.zeros(128, np.uint8))}, {"format": "pt", "layout": "openarctic.stacked"})
    with pytest.raises(CorruptError, match="different layouts"):
        open_checkpoint(folder)


def test_a_manifest_is_that_of_sha256sum(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    files = sorted(folder.iterdir())
    text = manifest_text(files)
    told = subprocess.run(["sha256sum", *(f.name for f in files)], cwd=folder, capture_output=True, text=True, check=True)
    assert text == told.stdout
    (folder / MANIFEST).write_text(text)
    assert set(read_manifest(folder)) == {f.name for f in files}
    (folder / MANIFEST).write_text(text + "nonsense\n")
    with pytest.raises(CorruptError, match="'nonsense'"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["model-00003-of-", "tokenizer.json"])
def test_a_flipped_bit_is_found_by_its_sum(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "hf")
    (folder / "tokenizer.json").write_text("a tokenizer")
    (folder / MANIFEST).write_text(manifest_text(sorted(folder.iterdir())))
    read: list[int] = []
    verify_checkpoint(open_checkpoint(folder), read.append)
    assert sum(read) == sum(raw.size for *_, raw in raw_state(tiny_config()).values())
    path = next(p for p in folder.iterdir() if p.name.startswith(name))
    damaged = bytearray(path.read_bytes())
    damaged[-2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptError, match=f"{path.name} does not match its sha256"):
        verify_checkpoint(open_checkpoint(folder))


def test_a_listed_file_that_is_missing_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    (folder / MANIFEST).write_text(f"{'0' * 64}  tokenizer.json\n")
    with pytest.raises(MissingError, match=r"lacks tokenizer\.json"):
        verify_checkpoint(open_checkpoint(folder))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_name_their_tensor(tmp_path: Path, dtype: str, value: float) -> None:
    tensors = raw_state(tiny_config(), dtype)
    values = np.full((64, 64), 1e-3, np.float32)
    values[40, 7] = value
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = (dtype, values.shape, quantize(values, dtype))
    folder = write_folder(tmp_path / "hf", tensors=tensors, dtype=dtype)
    with open_checkpoint(folder) as checkpoint, pytest.raises(CorruptError, match=f"{name} has values that are NaN or infinite"):
        verify_checkpoint(checkpoint)
