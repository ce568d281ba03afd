"""Conversions: every way there and back gives the same bytes, interrupted or not, and what is wrong is said before work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.errors import CapacityError, CorruptError, UserError
from openarctic.formats import HybridConfig, read_gguf, to_gguf, write_gguf
from openarctic.formats.checkpoint import INDEX
from openarctic.formats.convert import ConvertOptions, Progress, convert
from openarctic.formats.mixture import choose_types
from openarctic.formats.quants import dequantize, quantize
from openarctic.formats.sources import CollapsedSource, FolderSource, open_source
from openarctic.formats.verify import MANIFEST
from tests.formats.files import assert_same, contents, raw_state, run, state_of, write_folder
from tests.tiny import LAYOUTS, random_state, tiny_config


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_there_and_back(tmp_path: Path, layout: str, dtype: str) -> None:
    config = LAYOUTS[layout]
    wanted = raw_state(config, dtype)
    official = write_folder(tmp_path / "hf", config, wanted, dtype=dtype)
    run(official, tmp_path / "training", layout="training")
    run(tmp_path / "training", tmp_path / "from training")
    assert_same(state_of(tmp_path / "from training"), wanted)
    assert_same(state_of(tmp_path / "training"), wanted)
    for type_ in {"F32", dtype}:
        run(official, tmp_path / f"{type_}.gguf", type=type_)
        run(tmp_path / f"{type_}.gguf", tmp_path / f"from {type_}", type=dtype)
        run(tmp_path / f"{type_}.gguf", tmp_path / f"stacked from {type_}", type=dtype, layout="training")
        assert_same(state_of(tmp_path / f"from {type_}"), wanted)
        assert_same(state_of(tmp_path / f"stacked from {type_}"), wanted)
    if not config["num_local_experts"]:  # nothing is parallel then, and GGUF does not say what would be
        config = {**config, "parallel_attn_mlp_res": False}
    assert HybridConfig.from_file(tmp_path / f"from {dtype}") == HybridConfig.from_dict(config)
    assert not list(tmp_path.glob("*.partial"))


def test_all_ways_back_write_the_same_files(tmp_path: Path) -> None:
    """The official form is one: files, shards and index do not depend on where a model comes from."""
    official = write_folder(tmp_path / "hf")
    run(official, tmp_path / "one")
    run(official, tmp_path / "training", layout="training")
    run(tmp_path / "training", tmp_path / "two")
    run(official, tmp_path / "x.gguf", type="F32")
    run(tmp_path / "x.gguf", tmp_path / "three", type="BF16")
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert INDEX in one and len([name for name in one if name.endswith(".safetensors")]) > 3
    assert one == two
    assert {n for n in one if one[n] != three[n]} <= {"config.json", MANIFEST} and set(one) == set(three)
    done = subprocess.run(["sha256sum", "--quiet", "-c", MANIFEST], cwd=tmp_path / "one", check=True)
    assert done.returncode == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("type_", ["Q8_0", "Q4_0", "F16"])
def test_a_gguf_file_is_that_of_the_whole_model_in_memory(tmp_path: Path, layout: str, type_: str) -> None:
    config = LAYOUTS[layout]
    folder = write_folder(tmp_path / "hf", config, dtype="F32")
    run(folder, tmp_path / "m.gguf", type=type_, is_pure=True)
    _, wanted = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: type_, {})
    found = read_gguf(tmp_path / "m.gguf", verify=True).tensors
    assert list(found) == list(wanted)
    for name, (type_name, shape, raw) in wanted.items():
        assert (found[name].type, found[name].shape) == (type_name, shape)
        assert np.array_equal(found[name].data, raw), name


def test_mixtures_and_keys(tmp_path: Path) -> None:
    config = tiny_config(hidden_size=256, intermediate_size=256)
    folder = write_folder(tmp_path / "hf", config)
    converted = run(folder, tmp_path / "m.gguf", type="q4_k_m")
    file = read_gguf(tmp_path / "m.gguf", verify=True)
    wanted = choose_types(HybridConfig.from_dict(config), "Q4_K_M")
    assert {name: tensor.type for name, tensor in file.tensors.items()} == wanted
    assert {"Q4_K", "Q6_K", "F32"} <= set(wanted.values()) and set(converted.types) == set(wanted.values())
    assert (file.metadata["general.file_type"], file.metadata["general.quantization_version"]) == (15, 2)
    assert file.metadata["general.name"] == "hf"


def test_splits_hold_the_same(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "whole.gguf", type="Q8_0")
    converted = run(folder, tmp_path / "m.gguf", type="Q8_0", max_file_bytes=100_000)
    assert len(converted.paths) > 2 and all(path.stat().st_size <= 100_000 for path in converted.paths)
    one, many = read_gguf(tmp_path / "whole.gguf", verify=True), read_gguf(converted.paths[0], verify=True)
    assert one.metadata == many.metadata
    assert all(np.array_equal(one.tensors[name].data, many.tensors[name].data) for name in one.tensors)
    run(converted.paths[0], tmp_path / "joined.gguf")
    joined = read_gguf(tmp_path / "joined.gguf", verify=True)
    assert joined.metadata == one.metadata  # the checksum of all tensors among it


def test_quantising_again(tmp_path: Path) -> None:
    metadata = {"general.name": "nano", "general.license": "apache-2.0", "openarctic.steps": 7}
    _, tensors = to_gguf(HybridConfig.from_dict(tiny_config()), random_state(tiny_config()), lambda *_: "Q8_0", {})
    _, keys = to_gguf(HybridConfig.from_dict(tiny_config()), random_state(tiny_config()), lambda *_: "Q8_0", {})[::-1]
    write_gguf(tmp_path / "a.gguf", {**keys, **metadata}, tensors)
    run(tmp_path / "a.gguf", tmp_path / "b.gguf", type="Q4_1", is_pure=True)
    file = read_gguf(tmp_path / "b.gguf", verify=True)
    assert {key: file.metadata[key] for key in metadata} == metadata
    for name, (type_, shape, raw) in tensors.items():
        wanted = raw if type_ == "F32" else quantize(dequantize(raw, type_, shape), "Q4_1")
        assert np.array_equal(file.tensors[name].data, wanted), name


# What is in the way, and what does not fit.


def test_destinations_are_not_overwritten(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    for name in ("m.gguf", "folder"):
        run(folder, tmp_path / name)
        before = contents(tmp_path / name)
        with pytest.raises(UserError, match="exists already"):
            run(folder, tmp_path / name, type="F32")
        assert contents(tmp_path / name) == before
        run(folder, tmp_path / name, type="F32", force=True)
        assert contents(tmp_path / name) != before
    (tmp_path / "folder" / "thesis.doc").write_text("years of work")
    with pytest.raises(UserError, match=r"more than a checkpoint: thesis\.doc"):
        run(folder, tmp_path / "folder", force=True)
    with pytest.raises(UserError, match="is or contains the source"):
        run(folder, folder, force=True)
    with pytest.raises(UserError, match="is or contains the source"):
        run(folder, tmp_path, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(folder, tmp_path / "file", force=True)
    assert not list(tmp_path.glob("*.replaced"))


@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, destination: str) -> None:
    folder, path = write_folder(tmp_path / "hf"), tmp_path / destination
    mine = path if destination == "m.gguf" else path / "config.json"

    def appears(progress: Progress) -> None:
        if not mine.exists():
            mine.parent.mkdir(exist_ok=True)
            mine.write_text("mine")

    with pytest.raises(UserError, match="exists already"):
        convert(open_source(folder), path, ConvertOptions(), on_progress=appears)
    assert mine.read_text() == "mine"
    again = run(folder, path, force=True)  # nothing is converted twice
    assert again.bytes_read == 0 and open_source(path).names


def test_a_full_folder_of_an_earlier_replacement_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "out")
    (tmp_path / "out.replaced").mkdir()
    (tmp_path / "out.replaced" / "mine.txt").write_text("mine")
    run(folder, tmp_path / "out", type="F32", force=True)
    assert open_source(tmp_path / "out").type_of("lm_head.weight") == "F32"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "out", "out.replaced"]
    assert (tmp_path / "out.replaced" / "mine.txt").read_text() == "mine"


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    run(folder, tmp_path / "link")
    run(folder, tmp_path / "link", type="F32", force=True)
    assert (tmp_path / "link").is_symlink() and open_source(tmp_path / "disk").type_of("lm_head.weight") == "F32"


@pytest.mark.parametrize(
    "names", [("diary.txt", "my.json"), ("config.json", "my.json"), ("config.json", "notes.md"), ("LICENSE",)]
)
def test_only_checkpoints_are_replaced(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "mine").mkdir()
    for name in names:
        (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(UserError, match=r"is no checkpoint|holds more than a checkpoint"):
        run(write_folder(tmp_path / "hf"), tmp_path / "mine", force=True)
    assert contents(tmp_path / "mine") == dict.fromkeys(names, b"mine")


def test_old_splits_go_with_what_replaces_them(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    old = run(folder, tmp_path / "s.gguf", type="Q8_0", max_file_bytes=60_000).paths
    other = run(folder, tmp_path / "s2.gguf", type="Q8_0", max_file_bytes=60_000).paths
    with pytest.raises(UserError, match="exists already"):
        run(folder, tmp_path / "s.gguf", type="Q8_0", max_file_bytes=100_000)
    assert all(path.exists() for path in old)
    new = run(folder, tmp_path / "s.gguf", type="Q8_0", max_file_bytes=100_000, force=True).paths
    assert len(new) != len(old) and set(tmp_path.glob("*.gguf")) == {*new, *other}


@pytest.mark.parametrize("limit", [60_000, 100_000])
def test_splits_are_not_written_over_themselves(tmp_path: Path, limit: int) -> None:
    first = run(write_folder(tmp_path / "hf"), tmp_path / "s.gguf", type="Q8_0", max_file_bytes=60_000).paths[0]
    before = contents(first.with_name("s.gguf"))
    with pytest.raises(UserError, match="is read, and would be replaced"):
        run(first, tmp_path / "s.gguf", max_file_bytes=limit, force=True)
    assert contents(first.with_name("s.gguf")) == before and before


@pytest.mark.parametrize("name", ["m.gguf", "m.GGUF"])
def test_the_suffix_in_any_case(tmp_path: Path, name: str) -> None:
    assert run(write_folder(tmp_path / "hf"), tmp_path / name).paths == (tmp_path / name,)
    assert read_gguf(tmp_path / name).tensors


def test_a_destination_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in ("m.gguf", "folder", "a/b"):
        with pytest.raises(UserError, match=r"file is a file, .* cannot be below it"):
            run(write_folder(tmp_path / f"hf {name[0]}"), tmp_path / "file" / name)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"type": "Q9"}, "no file type"), ({}, "exists already"), ({"force": True}, "0\\.0 GB free")],
)
def test_cheap_checks_come_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: str
) -> None:
    folder, path = write_folder(tmp_path / "hf"), tmp_path / "m.gguf"
    path.write_text("there")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    monkeypatch.setattr(FolderSource, "verify", lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr(CollapsedSource, "prove", lambda *_: pytest.fail("it was read"))
    for heads in ("keep", 1):
        with pytest.raises((UserError, CapacityError), match=error):
            run(folder, path, is_verified=True, kv_heads=heads, **options)


def test_verifying_without_checksums_is_told(tmp_path: Path) -> None:
    def notes_of(source: Path, name: str) -> list[str]:
        notes: list[str] = []
        convert(open_source(source), tmp_path / name, ConvertOptions(is_verified=True), note=notes.append)
        return [note for note in notes if "no checksums" in note]

    plain = write_folder(tmp_path / "hf")
    assert len(notes_of(plain, "summed")) == 1 and notes_of(tmp_path / "summed", "a.gguf") == []
    assert notes_of(tmp_path / "a.gguf", "b.gguf") == []


@pytest.mark.parametrize(
    ("destination", "options", "told"),
    [
        ("m.gguf", {"layout": "training"}, "layout training is one of folders"),
        ("m.gguf", {"type": "Q9_9"}, "no file type 'Q9_9'"),
        ("m.gguf", {"max_file_bytes": 9000}, "does not fit a file"),
        ("folder", {"type": "Q8_0"}, "cannot hold Q8_0"),
        ("folder", {"is_pure": True}, "are for GGUF files"),
        ("folder", {"max_file_bytes": 10**9}, "are for GGUF files"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, destination: str, options: dict[str, Any], told: str) -> None:
    folder = write_folder(tmp_path / "hf")
    with pytest.raises(UserError, match=told):
        run(folder, tmp_path / destination, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]


def test_a_model_that_stock_runtimes_cannot_run(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", LAYOUTS["top-3, wide residual MLP"])
    with pytest.raises(UserError, match="residual_intermediate_size is 160"):
        run(folder, tmp_path / "m.gguf", is_stock=True)
    notes: list[str] = []
    convert(open_source(folder), tmp_path / "m.gguf", ConvertOptions(), note=notes.append)
    assert any("only our own runtimes" in note and "residual_intermediate_size is 160" in note for note in notes)
    run(write_folder(tmp_path / "stock"), tmp_path / "s.gguf", is_stock=True)


def spoiled(tmp_path: Path, value: float, dtype: str = "BF16") -> tuple[Path, str]:
    name = "model.layers.1.block_sparse_moe.experts.5.w2.weight"
    tensors = raw_state(tiny_config(), dtype)
    values = np.full((64, 32), 0.01, np.float32)
    values[63, 31] = value
    tensors[name] = (dtype, values.shape, quantize(values, dtype))
    return write_folder(tmp_path / "hf", tensors=tensors, dtype=dtype), name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_names_its_tensor(tmp_path: Path, value: float) -> None:
    folder, name = spoiled(tmp_path, value)
    for options in ({"type": "Q8_0"}, {}, {"is_verified": True}):
        with pytest.raises(CorruptError, match=f"tensor {name} has values that are NaN or infinite"):
            run(folder, tmp_path / "m.gguf", **options)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("type_", ["F16", "Q8_0"])
def test_what_a_type_cannot_hold_names_its_tensor(tmp_path: Path, type_: str) -> None:
    folder, name = spoiled(tmp_path, 1e30)
    with pytest.raises(UserError, match=f"tensor {name} has values too large for {type_}"):
        run(folder, tmp_path / "m.gguf", type=type_)


def test_verifying_reads_a_gguf_file_too(tmp_path: Path) -> None:
    run(write_folder(tmp_path / "hf"), tmp_path / "a.gguf")
    whole = bytearray((tmp_path / "a.gguf").read_bytes())
    whole[-100] ^= 1
    (tmp_path / "a.gguf").write_bytes(whole)
    run(tmp_path / "a.gguf", tmp_path / "b.gguf")
    with pytest.raises(CorruptError, match="does not match its checksum"):
        run(tmp_path / "a.gguf", tmp_path / "c.gguf", is_verified=True)


# Tokenizers.


@pytest.mark.parametrize("form", ["model", "json"])
def test_the_tokenizer_goes_along(tmp_path: Path, form: str) -> None:
    from openarctic.tokenizer import Tokenizer
    from tests.tokenizer.folders import arctic

    config = tiny_config(vocab_size=704, num_local_experts=2, bos_token_id=638, eos_token_id=639)
    folder = write_folder(tmp_path / "hf", config)
    arctic(folder, form=form, size=640)
    text = "How many singers are there?"
    ids = Tokenizer.from_huggingface(folder).encode(text)
    run(folder, tmp_path / "m.gguf")
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    assert len(metadata["tokenizer.ggml.tokens"]) == 704
    assert Tokenizer.from_gguf_metadata(metadata).encode(text) == ids
    run(folder, tmp_path / "copy")
    for name in ("tokenizer_config.json", f"tokenizer.{form}"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    run(tmp_path / "m.gguf", tmp_path / "back")
    assert Tokenizer.from_huggingface(tmp_path / "back").encode(text) == ids


@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_a_vocabulary_larger_than_the_model_names_both(tmp_path: Path, destination: str) -> None:
    from tests.tokenizer.folders import arctic

    folder = write_folder(tmp_path / "hf", tiny_config(vocab_size=600))
    arctic(folder, size=640)
    with pytest.raises(UserError, match=r"640 tokens.* vocab_size is 600"):
        run(folder, tmp_path / destination)


def test_without_a_tokenizer_there_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    convert(open_source(write_folder(tmp_path / "hf")), tmp_path / "m.gguf", ConvertOptions(), note=notes.append)
    assert any("no tokenizer" in note for note in notes)


def test_a_file_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    """llama.cpp loads no file that does not say which vocabulary it has."""
    run(write_folder(tmp_path / "hf"), tmp_path / "a.gguf")
    run(tmp_path / "a.gguf", tmp_path / "b.gguf", type="Q8_0")
    file = read_gguf(tmp_path / "a.gguf")
    raws = {name: (t.type, t.shape, np.array(t.data)) for name, t in file.tensors.items()}
    write_gguf(tmp_path / "c.gguf", {k: v for k, v in file.metadata.items() if not k.startswith("tokenizer.")}, raws)
    run(tmp_path / "c.gguf", tmp_path / "d.gguf")
    for name in ("a.gguf", "b.gguf", "d.gguf"):
        metadata = read_gguf(tmp_path / name).metadata
        assert {k: v for k, v in metadata.items() if k.startswith("tokenizer.")} == {"tokenizer.ggml.model": "no_vocab"}


def test_config_keeps_what_else_it_says(tmp_path: Path) -> None:
    config = tiny_config(auto_map={"AutoConfig": "configuration.X"}, attention_dropout=0, torch_dtype="bfloat16")
    run(write_folder(tmp_path / "hf", config), tmp_path / "out", type="F32")

    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["attention_dropout"] == 0 and values["torch_dtype"] == "float32" and "auto_map" not in values


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """600 MB of F32 to Q8_0, in a process of its own that may not hold half of it."""
    config = tiny_config(vocab_size=40_000, hidden_size=1024, num_attention_heads=8, intermediate_size=1024, num_local_experts=4)
    folder = write_folder(tmp_path / "hf", {**config, "num_hidden_layers": 4}, dtype="F32", shard_bytes=300_000_000)
    code = (
        "import re, sys\nfrom pathlib import Path\n"
        "from openarctic.formats.convert import ConvertOptions, convert\nfrom openarctic.formats.sources import open_source\n"
        "converted = convert(open_source(Path(sys.argv[1])), Path(sys.argv[2]), ConvertOptions(type='Q8_0'))\n"
        "print(converted.bytes_read, 1024 * int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, tmp_path / "m.gguf"], capture_output=True, text=True, check=True)
    read, peak = map(int, done.stdout.split())
    assert read > 500_000_000 and peak < 250_000_000
