"""Packed weights in a file: the same logits, never from a damaged file, whatever else happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openarctic.native._native import Model, checksum

from openarctic.engine import panels
from openarctic.engine.loader import load_model
from openarctic.engine.panels import PanelCache, budget_bytes, content_digest, is_wanted
from openarctic.errors import UserError
from openarctic.formats import config_from_gguf, read_gguf
from tests.tiny import LAYOUTS, tiny_config, write_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "cache"))
    for name in (panels.SWITCH, panels.BUDGET):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "panels"


def load(path: Path, repack_cache: bool | None = True) -> Model:
    file = read_gguf(path)
    return load_model(file, config_from_gguf(file), pages=2, threads=2, cache_type="f16", repack_cache=repack_cache)


def logits(model: Model) -> NDArray[np.float32]:
    out = np.empty((5, model.padded_vocab), np.float32)
    tokens, rows, positions = (np.asarray(a, np.int32) for a in ([1, 7, 3, 2, 9], [0] * 5, range(5)))
    model.step(tokens, rows, positions, np.zeros((1, 1), np.int32), list(range(5)), out)
    return out


def held(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.panels"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("type_", ["Q8_0", "Q4_0"])
def test_logits_from_the_file_are_the_same(tmp_path: Path, cache: Path, layout: str, type_: str) -> None:
    path = write_model(tmp_path / "m.gguf", LAYOUTS[layout], type_)
    plain = load(path, False)
    assert not cache.exists()
    first, [stored] = load(path), held(cache)
    size = stored.stat().st_mtime_ns
    second = load(path)
    assert stored.stat().st_size > second.weight_bytes / 2 and held(cache) == [stored]
    assert size <= stored.stat().st_mtime_ns and plain.weight_bytes == first.weight_bytes == second.weight_bytes
    assert np.array_equal(logits(first), logits(plain)) and np.array_equal(logits(second), logits(plain))


def test_a_mapped_file_may_be_removed(tmp_path: Path, cache: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0")
    load(path)
    model = load(path)
    wanted = logits(model)
    [stored] = held(cache)
    stored.unlink()
    assert np.array_equal(logits(model), wanted)


def test_every_damage_is_found_and_mended(tmp_path: Path, cache: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0")
    wanted = logits(load(path))
    [stored] = held(cache)
    sound, rng = stored.read_bytes(), np.random.default_rng(0)
    opened = PanelCache([path], 1)
    table = int.from_bytes(sound[-16:-8], "little")
    spots = [0, 64, len(sound) - 1, len(sound) - 12, len(sound) - 30, len(sound) - 48 - table // 2]
    for at in (*spots, *rng.integers(64, len(sound) - 48 - table - 64, 30)):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(8))
        is_padding = damaged[at] and sound[at] == 0 and at not in spots
        stored.write_bytes(damaged)
        assert opened.open() is None or is_padding, at
    for size in (0, 7, 47, 64, 200, len(sound) // 2, len(sound) - 1):
        stored.write_bytes(sound[:size])
        assert opened.open() is None and not stored.exists()
        assert np.array_equal(logits(load(path)), wanted) and stored.read_bytes() == sound


def test_the_key_is_what_the_file_holds(tmp_path: Path, cache: Path) -> None:
    """Not its name; and a file that changed is seen, even with the same size and time."""
    path = write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0", seed=1)
    other = write_model(tmp_path / "other.gguf", tiny_config(), "Q8_0", seed=2)
    old = time.time_ns() - 10**10
    os.utime(path, ns=(old, old))
    load(path)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    load(copy)
    assert len(held(cache)) == 1 and len(list(cache.glob("*.digest"))) == 1  # the copy is too new to be remembered
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(old, old))
    assert np.array_equal(logits(load(path)), logits(load(other, False)))
    assert len(held(cache)) == 2


def test_digests_are_those_of_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "_CHUNK", 1000)
    path = tmp_path / "x"
    path.write_bytes(os.urandom(10_500))
    assert content_digest(path, 1) == content_digest(path, 4)
    with path.open("r+b") as file:
        file.truncate(10_499)
    first = content_digest(path, 2)
    monkeypatch.setattr(panels, "_CHUNK", 1001)
    assert content_digest(path, 2) != first


def test_a_killed_process_leaves_nothing_that_is_read(tmp_path: Path, cache: Path) -> None:
    """Killed while it writes, many times; then two at once."""
    path = write_model(tmp_path / "m.gguf", tiny_config(vocab_size=256, hidden_size=256, intermediate_size=512), "F32")
    wanted = logits(load(path, False))
    code = f"""
import sys
from pathlib import Path
from tests.engine.test_panels import load
from openarctic.engine import panels
print("ready", flush=True)
for _ in range(1000):
    for stored in panels.cache_folder().glob("panels/*.panels"):
        stored.unlink()
    load(Path({str(path)!r}))
"""
    for delay in (0.0, 0.03, 0.06):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert child.stdout and child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert np.array_equal(logits(load(path)), wanted)
    load(path)
    assert len(held(cache)) == 1 and not list(cache.glob("*.partial"))


def test_one_of_two_processes_writes(tmp_path: Path, cache: Path) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0")
    opened = PanelCache([path], 1)
    with panels._locked(opened.path.with_suffix(".lock")) as is_ours:
        assert is_ours
        load(path)
        assert not held(cache)
    load(path)
    assert held(cache) == [opened.path]


def test_what_was_not_used_for_longest_goes(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_model(tmp_path / f"{i}.gguf", tiny_config(), "Q8_0", seed=i) for i in range(3)]
    names = [PanelCache([path], 1).path for path in paths]
    for i, path in enumerate(paths[:2]):
        load(path)
        os.utime(names[i], (i, i))
    load(paths[0])  # now 1 is the older
    size = names[0].stat().st_size
    monkeypatch.setattr(panels, "BUDGET_BYTES", int(2.5 * size))
    load(paths[2])
    assert held(cache) == sorted([names[0], names[2]])
    monkeypatch.setattr(panels, "BUDGET_BYTES", size // 2)
    load(paths[1])
    assert not held(cache)  # nothing fits, and so nothing is kept


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "file"))
    assert np.array_equal(logits(load(path)), logits(load(path, False)))


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_wanted(None, panels.MIN_BYTES) and not is_wanted(None, panels.MIN_BYTES - 1)
    assert is_wanted(True, 0) and not is_wanted(False, 1 << 40)
    monkeypatch.setenv(panels.SWITCH, "0")
    assert not is_wanted(None, 1 << 40) and is_wanted(True, 0)
    monkeypatch.setenv(panels.SWITCH, "1")
    assert is_wanted(None, 0)
    monkeypatch.setenv(panels.SWITCH, "yes")
    with pytest.raises(UserError, match="OPENARCTIC_REPACK_CACHE is 'yes'"):
        is_wanted(None, 0)
    monkeypatch.setenv(panels.BUDGET, "3")
    assert budget_bytes() == 3 * 10**9
    monkeypatch.setenv(panels.BUDGET, "-3")
    with pytest.raises(UserError, match="OPENARCTIC_REPACK_CACHE_GB"):
        budget_bytes()


def test_any_changed_bit_changes_the_checksum() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 63, 64, 65, 1000, (1 << 20) + 77, 3 << 20):
        data = rng.integers(0, 256, size, np.uint8)
        first = checksum(data, 1)
        assert checksum(data, 3) == first and checksum(data.copy(), 2) == first
        for at in {0, size - 1, size // 2, *rng.integers(0, size, 20).tolist()}:
            for bit in range(8):
                data[at] ^= 1 << bit
                assert checksum(data, 1) != first
                data[at] ^= 1 << bit
        assert checksum(data[:-1], 1) != first and checksum(np.append(data, np.uint8(0)), 1) != first


def test_panels_of_another_shape_are_refused(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0"), False)
    form, rows, cols, data = model.packed(0, "q")
    model.lend_matrix(0, "q", form, rows, cols, np.array(data))
    for wrong in ((form, rows + 8, cols), (form, rows, cols + 32), (99, rows, cols), (form, rows - 1, cols), (form, -8, cols)):
        with pytest.raises(ValueError, match="panels have"):
            model.lend_matrix(0, "q", *wrong, np.array(data))
