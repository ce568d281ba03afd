"""Torch models from every form that a model is stored in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import MissingError, UserError  # noqa: E402
from openarctic.formats.sources import open_source  # noqa: E402
from openarctic.formats.state import read_state  # noqa: E402
from openarctic.model import load_model  # noqa: E402
from tests.model.test_transformers import write_checkpoint  # noqa: E402
from tests.plain_hybrid import PlainHybrid  # noqa: E402
from tests.tiny import IDS, LAYOUTS, random_state, write_model  # noqa: E402


@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_and_folder_give_the_same_model(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout]
    wanted = PlainHybrid(config, random_state(config)).logits(IDS)
    for path in (write_model(tmp_path / "m.gguf", config, "F32"), write_checkpoint(tmp_path / "folder", config)):
        with torch.no_grad():
            got = load_model(path)(torch.tensor([IDS])).logits[0].numpy()
        assert np.abs(got - wanted).max() < 1e-5
        shape, state = read_state(path)
        assert shape.num_hidden_layers == 3
        assert all(np.array_equal(state[name], values) for name, values in random_state(config).items())


def test_dtype_and_absence(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, LAYOUTS["parallel"])
    assert {p.dtype for p in load_model(folder, torch.bfloat16).parameters()} == {torch.bfloat16}
    with pytest.raises(MissingError):
        load_model(tmp_path / "none.gguf")


def test_what_is_no_model_has_the_same_refusals_as_a_conversion(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, LAYOUTS["parallel"])
    (tmp_path / "x.bin").write_bytes(b"x")
    for path, told in ((tmp_path / "x.bin", "pickled"), (folder / "model.safetensors", "one file of a checkpoint")):
        with pytest.raises(UserError, match=told) as loaded:
            load_model(path)
        with pytest.raises(UserError) as opened:
            open_source(path)
        assert (loaded.value.message, loaded.value.hint) == (opened.value.message, opened.value.hint)
