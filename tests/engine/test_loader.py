"""Loading: what it takes is known before, damage costs no memory, and no memory is an error that one can live with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openarctic.engine.loader import load_model, weight_bytes
from openarctic.errors import UserError
from openarctic.formats import HybridConfig, config_from_gguf, read_gguf, write_gguf
from openarctic.formats.names import gguf_metadata, tensor_table
from openarctic.formats.quants import TYPES, byte_size
from tests.tiny import LAYOUTS, tiny_config, write_model

LARGE = tiny_config(vocab_size=1000, hidden_size=1024, intermediate_size=1024, num_local_experts=4)


def write_zeros(path: Path, type_: str = "F16") -> Path:
    """A model of some 100 MB at 16 bits, of zeros."""
    config = HybridConfig.from_dict(LARGE)
    tensors = {}
    for spec in tensor_table(config):
        shape, kind = spec.gguf_shape, "F32" if len(spec.shape) == 1 or "ffn_gate_inp" in spec.gguf else type_
        raw = np.zeros(byte_size(kind, shape), np.uint8)
        if len(spec.shape) == 1:
            raw = np.ones(shape, np.float32).view(np.uint8)
        tensors[spec.gguf] = (kind, shape, raw)
    return write_gguf(path, gguf_metadata(config), tensors)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_of_weights_are_known_before(tmp_path: Path, layout: str) -> None:
    for type_ in ("F32", "Q8_0", "Q4_1"):
        file = read_gguf(write_model(tmp_path / f"{type_}.gguf", LAYOUTS[layout], type_))
        config = config_from_gguf(file)
        told: list[tuple[int, int]] = []
        say = told.append
        model = load_model(file, config, pages=2, threads=2, cache_type="f16", on_progress=lambda *now, say=say: say(now))
        assert weight_bytes(file, config) == model.weight_bytes
        assert told == sorted(told) and len(told) == config.num_hidden_layers + 1
        assert told[0][0] > 0 and told[-1] == (told[0][1],) * 2


@pytest.mark.parametrize("type_", sorted(TYPES))
def test_bytes_of_every_type(tmp_path: Path, type_: str) -> None:
    shape = tiny_config(vocab_size=61, hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    file = read_gguf(write_model(tmp_path / "m.gguf", shape, type_))
    config = config_from_gguf(file)
    model = load_model(file, config, pages=2, threads=1, cache_type="f16")
    assert weight_bytes(file, config) == model.weight_bytes


def test_threads_are_checked(tmp_path: Path) -> None:
    file = read_gguf(write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0"))
    with pytest.raises(UserError, match="threads is 0"):
        load_model(file, config_from_gguf(file), pages=2, threads=0, cache_type="f16")


HEAD = """
import resource, sys
from openarctic import machine
from openarctic.engine import loader
from openarctic.engine.loader import load_model
from openarctic.errors import CapacityError, OpenArcticError
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.formats.names import check_tensors

def load(path):
    file = read_gguf(path)
    config = config_from_gguf(file)
    check_tensors(config, file)
    return load_model(file, config, pages=4, threads=2, cache_type="f16")

def held(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
"""


def child(body: str, *arguments: str | Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", HEAD + body, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def patch(path: Path, at: int, data: bytes) -> bytes:
    """Writes `data`, returns what stood there."""
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(len(data))
        file.seek(at)
        file.write(data)
    return old


def test_damage_is_found_before_memory_is_spent(tmp_path: Path) -> None:
    """With another shape, with a number of the last layer that is none, and cut short."""
    path = write_zeros(tmp_path / "m.gguf")
    key = b"arctic.feed_forward_length"
    with path.open("rb") as file:
        width = file.read(4096).index(key) + len(key) + 4
    norm = read_gguf(path).tensors["blk.2.ffn_norm.weight"].offset + 400
    size = path.stat().st_size
    for damage, told in (("width", "shape"), ("norm", "not finite"), ("size", "outside the file")):
        at, data = (width, (2048).to_bytes(4, "little")) if damage == "width" else (norm, b"\xff\xff\xff\x7f")
        old = patch(path, at, data)
        if damage == "size":
            os.truncate(path, size - 4096)
        out = child(
            """
before = held("VmHWM")
try:
    load(sys.argv[1])
except OpenArcticError as error:
    print(type(error).__name__, error.message, "|", held("VmHWM") - before)
""",
            path,
        )
        message, spent = out.rsplit("|", 1)
        assert message.startswith("CorruptError") and told in message
        assert int(spent) < size // 8, (damage, int(spent))
        patch(path, at, old)


REFUSED = """
resource.setrlimit(resource.RLIMIT_AS, (held("VmSize") + {room}, resource.RLIM_INFINITY))
if {is_blind}:
    loader.check_memory = lambda *_: None
try:
    load(sys.argv[1])
except CapacityError as error:
    print(error.message)
    print(error.hint)
model = load(sys.argv[2])
print(model.weight_bytes)
"""


@pytest.mark.parametrize("is_blind", [False, True], ids=["told beforehand", "found on the way"])
def test_too_little_memory_is_an_error_that_leaves_the_process_usable(tmp_path: Path, is_blind: bool) -> None:
    large, small = write_zeros(tmp_path / "large.gguf"), write_model(tmp_path / "small.gguf", tiny_config(), "Q8_0")
    room = large.stat().st_size + (80 << 20)  # the mapped file, and not all of its panels
    message, hint, weights = child(REFUSED.format(room=room, is_blind=is_blind), large, small).splitlines()
    needed = weight_bytes(read_gguf(large), HybridConfig.from_dict(LARGE)) / 1e9
    assert message.startswith(f"loading large.gguf takes {needed:.2f} GB of memory") and "GB are available" in message
    assert "fewer bits" in hint and int(weights) > 0


def test_an_idle_model_uses_no_processor(tmp_path: Path) -> None:
    """Workers sleep between steps."""
    out = child(
        """
import time
import numpy as np
model = load(sys.argv[1])
out = np.empty((1, model.padded_vocab), np.float32)
one = np.zeros(1, np.int32)
model.step(one, one, one, np.arange(4, dtype=np.int32).reshape(1, 4), [0], out)
time.sleep(0.05)
start = time.process_time()
time.sleep(2)
print(time.process_time() - start)
""",
        write_model(tmp_path / "m.gguf", tiny_config(), "Q8_0"),
    )
    assert float(out) < 0.02
