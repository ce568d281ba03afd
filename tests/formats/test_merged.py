"""The weighted mean of models of one shape, against the mean of their arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from openarctic.cli import main
from openarctic.errors import UserError
from openarctic.formats import read_gguf
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.merged import MergedSource, normalised
from openarctic.formats.quants import dequantize, quantize
from openarctic.formats.sources import open_source
from tests.formats.files import State, raw_state, run, state_of, write_folder
from tests.tiny import tiny_config

CONFIG = tiny_config()


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two models, one tensor of which is the same in both."""
    one, other = (raw_state(CONFIG, "BF16", seed) for seed in (0, 1))
    other["model.embed_tokens.weight"] = one["model.embed_tokens.weight"]
    return [write_folder(tmp_path / name, CONFIG, state) for name, state in (("one", one), ("other", other))]


def merge(sources: Sequence[Path], destination: Path, weights: Sequence[float] | None = None) -> Path:
    merged = MergedSource([open_source(path) for path in sources], weights)
    return convert(merged, destination, ConvertOptions()).paths[0]


def mean(states: Sequence[State], weights: Sequence[float], name: str) -> np.ndarray:
    type_, shape, _ = states[0][name]
    values = sum(w * dequantize(state[name][2], state[name][0], shape) for w, state in zip(weights, states, strict=True))
    return quantize(np.asarray(values, np.float32), type_)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.25, 0.75)])
def test_every_tensor_is_the_mean(folders: list[Path], tmp_path: Path, weights: tuple[float, float]) -> None:
    merge(folders, tmp_path / "merged", weights)
    states, found = [state_of(folder) for folder in folders], state_of(tmp_path / "merged")
    assert found.keys() == states[0].keys()
    for name, (_, _, raw) in found.items():
        assert np.array_equal(raw, mean(states, weights, name)), name
    assert not np.array_equal(found["model.norm.weight"][2], states[0]["model.norm.weight"][2])


def test_a_file_and_a_folder_merge_as_two_folders(folders: list[Path], tmp_path: Path) -> None:
    run(folders[0], tmp_path / "one.gguf")
    merge([tmp_path / "one.gguf", folders[1]], tmp_path / "mixed.gguf")
    merge(folders, tmp_path / "merged")
    run(tmp_path / "mixed.gguf", tmp_path / "back", type="BF16")
    for name, (_, shape, raw) in state_of(tmp_path / "merged").items():
        back = state_of(tmp_path / "back")[name]
        assert np.array_equal(back[2], raw) or np.allclose(*(dequantize(r, "BF16", shape) for r in (back[2], raw)), rtol=1e-2), (
            name
        )


def test_what_is_the_same_keeps_its_bytes(folders: list[Path], tmp_path: Path) -> None:
    files = []
    for folder in folders:  # rounded to few bits: a second rounding would change them
        run(folder, tmp_path / f"{folder.name}.gguf", type="Q4_1", is_pure=True)
        files.append(tmp_path / f"{folder.name}.gguf")
    one, twice, mixed = (
        read_gguf(p) for p in (files[0], merge([files[0]] * 2, tmp_path / "a.gguf"), merge(files, tmp_path / "b.gguf"))
    )
    assert {n: t.type for n, t in mixed.tensors.items()} == {n: t.type for n, t in one.tensors.items()}
    assert all(np.array_equal(t.data, twice.tensors[n].data) for n, t in one.tensors.items())
    assert [n for n, t in one.tensors.items() if np.array_equal(t.data, mixed.tensors[n].data)] == ["token_embd.weight"]


def test_weights() -> None:
    assert normalised(None, 4) == (0.25,) * 4
    assert normalised((3, 1), 2) == (0.75, 0.25)
    for wrong in ((1.0,), (1, -1), (0, 0), (1, float("nan"))):
        with pytest.raises(UserError):
            normalised(wrong, 2)


def test_the_command(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = write_folder(tmp_path / "wide", tiny_config(hidden_size=2 * CONFIG["hidden_size"]))
    out = tmp_path / "merged"
    call = ["model", "merge", *map(str, folders), "--out", str(out), "--threads", "1"]
    assert main([*call, "--weights", "1", "3", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["destination"] == str(out)
    assert json.loads((out / "config.json").read_text())["merged"] == {"models": ["one", "other"], "weights": [0.25, 0.75]}
    for arguments, told in (
        ([str(folders[0]), "--out", str(tmp_path / "x")], "one model was given"),
        ([str(folders[0]), str(wide), "--out", str(tmp_path / "x")], "hidden_size is"),
        ([*map(str, folders), "--out", str(tmp_path / "x"), "--weights", "1"], "1 weights were given for 2 models"),
    ):
        assert main(["model", "merge", *arguments]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
