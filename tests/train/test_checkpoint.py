"""Checkpoints: whole or not there, damage is found, N writers and M readers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import CapacityError, CorruptError, MissingError, UserError  # noqa: E402
from openarctic.train import checkpoint as checkpoints  # noqa: E402
from openarctic.train.checkpoint import latest_checkpoint, open_checkpoint, remove_old, save_checkpoint, saved_steps  # noqa: E402

TENSORS = {
    "matrix": torch.arange(24, dtype=torch.float64).view(4, 6),
    "half": torch.arange(6).bfloat16(),
    "scalar": torch.tensor(7.0),
}


def save(out: Path, step: int) -> Path:
    return save_checkpoint(out, step, TENSORS, {"progress": {"step": step, "share": 0.1 + 0.2}}, {"rank": 0})


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    save(tmp_path, 3)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 3 and set(found.names) == set(TENSORS)
    assert found.manifest["progress"] == {"step": 3, "share": 0.1 + 0.2} and found.own == [{"rank": 0}]
    for name, tensor in TENSORS.items():
        assert torch.equal(found.read(name), tensor) and found.read(name).dtype == tensor.dtype
        into = torch.empty_like(tensor)
        found.read_into(name, into)
        assert torch.equal(into, tensor)


@pytest.mark.parametrize("file", ["manifest.json", "state-00001-of-00001.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_never_loaded_and_the_one_before_is(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    path, data = folder / file, (folder / file).read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] if damage == "cut" else data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    told: list[str] = []
    found = latest_checkpoint(tmp_path, told.append)
    assert found is not None and found.step == 1
    if (file, damage) == ("manifest.json", "remove"):
        assert saved_steps(tmp_path) == [1] and not told  # without a manifest it never was one
    else:
        assert len(told) == 1 and "step-2" in told[0]
        with pytest.raises(CorruptError, match="step-2"):
            open_checkpoint(tmp_path, 2)


def test_damage_everywhere_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "state-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(CorruptError, match="every checkpoint"):
        latest_checkpoint(tmp_path)


def test_an_older_format_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-5"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "step": 5}))
    with pytest.raises(UserError, match="has format 1"):
        latest_checkpoint(tmp_path)


def test_an_absent_step_is_told_with_those_there_are(tmp_path: Path) -> None:
    save(tmp_path, 2)
    with pytest.raises(MissingError, match="no checkpoint of step 4") as caught:
        open_checkpoint(tmp_path, 4)
    assert caught.value.hint == "there are: 2"


def test_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"model.embed_tokens.weight": torch.zeros(8, 4)}, {}, {})
    with pytest.raises(UserError, match=r"embed_tokens\.weight has shape") as caught:
        open_checkpoint(tmp_path, 1).read_into("model.embed_tokens.weight", torch.zeros(9, 4))
    assert "vocabulary" in str(caught.value.hint)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "_sync", full)
    with pytest.raises(CapacityError, match="No space left"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-1"]
    assert open_checkpoint(tmp_path, 1).step == 1


def test_the_last_ones_and_every_nth_stay(tmp_path: Path) -> None:
    for step in range(9):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-9.partial").mkdir()
    remove_old(tmp_path, keep_last=2, keep_every=3)
    assert saved_steps(tmp_path) == [3, 6, 7, 8]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


class Shard:
    """Rows of a tensor, with the two names by which a DTensor is known."""

    def __init__(self, whole: Any, start: int, stop: int) -> None:
        self.shape, self.ndim, self.start = whole.shape, whole.ndim, start
        self.local = whole[start:stop].clone()

    def to_local(self) -> Any:
        return self.local


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_rows_written_by_several_are_read_by_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: int) -> None:
    whole = torch.randn(7, 5)
    monkeypatch.setattr(
        checkpoints,
        "box_of",
        lambda t: ((t.start, 0), tuple(t.local.shape)) if isinstance(t, Shard) else ((0,) * t.ndim, tuple(t.shape)),
    )
    # Written in one process, as if two had: their files and pieces, then a manifest of both.
    folder = tmp_path / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    parts = []
    for rank, (start, stop) in enumerate([(0, 4), (4, 7)]):
        file = f"state-{rank + 1:05d}-of-00002.safetensors"
        entry = checkpoints._write(folder / file, {"w": whole[start:stop]})
        piece = {"dtype": "float32", "shape": [7, 5], "box": ((start, 0), (stop - start, 5))}
        parts.append({"file": file, "entry": entry, "pieces": {"w": piece}, "own": {"rank": rank}})
    checkpoints._write_manifest(folder, {"format": checkpoints.FORMAT, "step": 1}, parts)

    found = open_checkpoint(tmp_path, 1)
    assert torch.equal(found.read("w"), whole) and found.own == [{"rank": 0}, {"rank": 1}]
    edges = [7 * i // readers for i in range(readers + 1)]
    for start, stop in pairwise(edges):
        shard = Shard(torch.zeros(7, 5), start, stop)
        found.read_into("w", shard)  # type: ignore[arg-type]
        assert torch.equal(shard.local, whole[start:stop])
