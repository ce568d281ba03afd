"""Presets are the shapes that they are named after."""

from __future__ import annotations

import pytest

from openarctic.planner import PRESETS, parameters


# performance page: "145 M" and "1.36 B" parameters; the file of the larger one in Q8_0 reads 215 MB a token.
@pytest.mark.parametrize(("name", "millions"), [("hybrid-145m", 145), ("hybrid-1.4b", 1366)])
def test_benchmark_shapes_have_the_named_size(name: str, millions: int) -> None:
    assert round(parameters(PRESETS[name]).total / 1e6) == millions


def test_a_token_of_the_large_benchmark_shape_reads_what_was_measured() -> None:
    q8_bytes = parameters(PRESETS["hybrid-1.4b"]).active_matrices * 34 / 32
    assert round(q8_bytes / 1e6) == pytest.approx(215, abs=1)


def test_the_old_export_differs_in_key_value_heads_alone() -> None:
    new, old = PRESETS["arctic-480b"].to_dict(), PRESETS["arctic-480b-kv56"].to_dict()
    differing = {key for key in new if new[key] != old[key]}
    assert differing == {"num_key_value_heads", "bos_token_id", "eos_token_id"}
