"""Conversions: every way there and back gives the same bytes, interrupted or not, and what is wrong is said before work."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.errors import CapacityError, CorruptError, OpenArcticError, UserError
from openarctic.formats import HybridConfig, planned, read_gguf, targets, to_gguf, write_gguf
from openarctic.formats import convert as convert_module
from openarctic.formats.checkpoint import INDEX, open_checkpoint
from openarctic.formats.convert import Converted, ConvertOptions, Progress, convert
from openarctic.formats.mixture import choose_types
from openarctic.formats.quants import dequantize, quantize
from openarctic.formats.resume import PartialOutput
from openarctic.formats.sources import open_source
from openarctic.formats.verify import MANIFEST
from tests.formats.files import raw_state, write_folder
from tests.tiny import LAYOUTS, random_state, tiny_config

State = dict[str, tuple[str, tuple[int, ...], np.ndarray]]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models in many pieces and shards; and as no test cuts the power, nobody need wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(convert_module, "PIECE_VALUES", 1500)
    monkeypatch.setattr(targets, "SHARD_BYTES", 60_000)


def run(source: Path, destination: Path, **options: Any) -> Converted:
    return convert(open_source(source), destination, ConvertOptions(**options))


def state_of(folder: Path) -> State:
    with open_checkpoint(folder) as checkpoint:
        return {name: (checkpoint.dtype(name), checkpoint.shape(name), checkpoint.read(name)) for name in checkpoint.names}


def assert_same(found: State, wanted: State) -> None:
    assert set(found) == set(wanted)
    for name, (dtype, shape, raw) in wanted.items():
        assert found[name][:2] == (dtype, shape), name
        assert np.array_equal(found[name][2], raw), name


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a folder; of a GGUF file its splits."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.stem}*.gguf")
    return {file.name: file.read_bytes() for file in files}


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


# Key and value heads.


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


# Interruption.


class Stopped(Exception):
    """Stands for whatever stops a run."""


def stop_after(pieces: int) -> Callable[[Progress], None]:
    left = pieces

    def on_progress(progress: Progress) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stopped

    return on_progress


@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_a_stopped_run_goes_on(tmp_path: Path, destination: str) -> None:
    folder = write_folder(tmp_path / "hf")
    type_ = "Q8_0" if destination.endswith(".gguf") else "F32"
    wanted = tmp_path / "wanted" / destination
    whole = run(folder, wanted, type=type_)
    path = tmp_path / destination
    done = []
    for pieces in (3, 1, 50, 20):
        with pytest.raises(Stopped):
            convert(open_source(folder), path, ConvertOptions(type=type_), on_progress=stop_after(pieces))
        assert not path.exists()
        done.append((tmp_path / f"{destination}.partial" / "journal").read_text().split("\n")[-2])
    notes: list[str] = []
    converted = convert(open_source(folder), path, ConvertOptions(type=type_), note=notes.append)
    assert contents(path) == contents(wanted)
    assert [int(n) for n in done] == sorted(int(n) for n in done) and int(done[0]) >= 2
    assert converted.bytes_read + converted.resumed_bytes == whole.bytes_read and converted.resumed_bytes > 0
    assert any("going on at" in note for note in notes)
    assert not (tmp_path / f"{destination}.partial").exists()


KILLED = """
import os, sys, time
from pathlib import Path
from openarctic.formats import convert as module, targets
from openarctic.formats.sources import open_source
module.PIECE_VALUES, targets.SHARD_BYTES, os.fsync = 1500, 60_000, lambda descriptor: None
def slowly(progress):
    time.sleep(0.001)
    print(progress.phase, flush=True)
source, destination, type_ = sys.argv[1:]
options = module.ConvertOptions(type=type_, commit_bytes=20_000)
module.convert(open_source(Path(source)), Path(destination), options, on_progress=slowly)
"""


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("destination", ["m.gguf", "folder"])
def test_a_process_killed_at_random_moments(tmp_path: Path, destination: str, signal_: signal.Signals) -> None:
    folder = write_folder(tmp_path / "hf")
    type_ = "Q8_0" if destination.endswith(".gguf") else "F32"
    run(folder, tmp_path / "wanted" / destination, type=type_)
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / destination), type_]
    rng = random.Random(str((destination, signal_)))
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        if kills < 4:
            process.stdout.readline()  # it has begun
            time.sleep(rng.uniform(0, 0.12))
            process.send_signal(signal_)
        process.communicate()
        if process.returncode == 0:
            break
        kills += 1
        assert not (tmp_path / destination).exists()
    assert process.returncode == 0 and kills >= 2
    assert contents(tmp_path / destination) == contents(tmp_path / "wanted" / destination)


def test_another_source_or_option_begins_anew(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    path = tmp_path / "m.gguf"

    def stopped(**options: Any) -> list[str]:
        notes: list[str] = []
        with pytest.raises(Stopped):
            convert(open_source(folder), path, ConvertOptions(**options), on_progress=stop_after(9), note=notes.append)
        return [note for note in notes if "tokenizer" not in note]

    assert stopped(type="Q8_0") == []
    assert "going on" in stopped(type="Q8_0")[0]
    assert "from other input or options: starting anew" in stopped(type="Q4_0")[0]
    assert "starting anew" in stopped(type="Q4_0", restart=True)[0]
    shard = sorted(folder.glob("*.safetensors"))[2]
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    assert "starting anew" in stopped(type="Q4_0")[0]
    (tmp_path / "m.gguf.partial" / "m.gguf").unlink()
    assert "starting anew" in stopped(type="Q4_0")[0]


def test_a_torn_journal_line_is_not_believed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "wanted.gguf", type="Q8_0")
    path = tmp_path / "m.gguf"
    with pytest.raises(Stopped):
        convert(open_source(folder), path, ConvertOptions(type="Q8_0"), on_progress=stop_after(9))
    with (tmp_path / "m.gguf.partial" / "journal").open("a") as journal:
        journal.write("99")  # of 991, say
    run(folder, path, type="Q8_0")
    assert path.read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "hf")
    run(folder, tmp_path / "wanted.gguf", type="Q8_0")
    real, calls = os.pwrite, 0

    def full(descriptor: int, data: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(planned.os, "pwrite", full)
    with pytest.raises(CapacityError, match="no space left") as caught:
        run(folder, tmp_path / "m.gguf", type="Q8_0")
    assert "it goes on" in str(caught.value.hint) and not (tmp_path / "m.gguf").exists()
    monkeypatch.setattr(planned.os, "pwrite", real)
    assert run(folder, tmp_path / "m.gguf", type="Q8_0").resumed_bytes > 0
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


def test_too_little_space_is_said_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "hf")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(CapacityError, match=r"0\.0 GB free, 0\.\d GB are still to be written"):
        run(folder, tmp_path / "m.gguf")


def test_two_conversions_do_not_mix(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    plan = planned.Plan((), {})
    first = PartialOutput(tmp_path / "m.gguf", plan, "a", note=lambda text: None)
    with pytest.raises(UserError, match="another process is writing"):
        run(folder, tmp_path / "m.gguf")
    first.close()
    run(folder, tmp_path / "m.gguf")
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no conversion made it"):
        run(folder, tmp_path / "x")
    assert (tmp_path / "x.partial" / "mine.txt").read_text() == "mine"


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


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled checkpoint"):
        open_source(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="one file of a checkpoint"):
        open_source(next(write_folder(tmp_path / "hf").glob("*.safetensors")))
    with pytest.raises(UserError, match="no model at"):
        open_source(tmp_path / "none")


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


def test_config_keeps_what_else_it_says(tmp_path: Path) -> None:
    config = tiny_config(auto_map={"AutoConfig": "configuration.X"}, attention_dropout=0, torch_dtype="bfloat16")
    run(write_folder(tmp_path / "hf", config), tmp_path / "out", type="F32")
    import json

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
