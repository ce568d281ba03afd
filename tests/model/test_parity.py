"""The comparison of runtimes: ours agree on every layout, and a wrong one is found out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.cli import main  # noqa: E402
from openarctic.engine.reference import PlainModel  # noqa: E402
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError  # noqa: E402
from openarctic.formats.state import read_state  # noqa: E402
from openarctic.model.parity import compare  # noqa: E402
from openarctic.model.parity.report import judge  # noqa: E402
from openarctic.model.parity.runtimes import RUNTIMES, Answer, Runtime, Task  # noqa: E402
from tests.model.test_transformers import write_checkpoint  # noqa: E402
from tests.tiny import LAYOUTS, tiny_config, write_model  # noqa: E402

OURS = ["openarctic", "torch", "transformers"]


@pytest.mark.slow
def test_our_runtimes_agree_and_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", LAYOUTS["every second layer, top-1, tied"])
    arguments = ["model", "parity", str(folder), "--runtimes", ",".join(OURS), "--max-tokens", "6", "--format", "json"]
    assert main([*arguments, "--threads", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reference"] == "plain numpy, float64" and report["ok"]
    assert [r["name"] for r in report["runtimes"]] == OURS
    for runtime in report["runtimes"]:
        assert runtime["version"] and runtime["max_logit_diff"] < 1e-4 and runtime["mean_logit_diff"] < 1e-5
        assert runtime["greedy_agreement"] == 1.0 and runtime["first_divergence"] is None


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_runtimes_agree_on_every_layout(layout: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", LAYOUTS[layout], "F32")
    report = compare(path, runtimes=OURS, max_tokens=16, threads=1)
    assert report.is_ok, report
    assert all(r.greedy_agreement == 1.0 for r in report.runtimes)


def task_and_truth(tmp_path: Path) -> tuple[Task, list[np.ndarray], Answer]:
    """A task whose answer is right in every number."""
    model = PlainModel(*read_state(write_model(tmp_path / "m.gguf", tiny_config(), "F32")))
    prompts, sequences = [[1, 2, 3], [9, 8, 7, 6]], []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(5):
            ids.append(int(model.logits(ids)[-1].argmax()))
        sequences.append(ids)
    wanted = [model.logits(s) for s in sequences]
    tokens = [s[len(p) :] for s, p in zip(sequences, prompts, strict=True)]
    return Task(prompts, 5, 1, sequences), wanted, Answer(tokens, [w.astype(np.float32) for w in wanted])


def test_a_wrong_token_and_a_wrong_logit_are_found(tmp_path: Path) -> None:
    task, wanted, right = task_and_truth(tmp_path)
    good = judge("x", "1", task, wanted, right)
    assert good.greedy_agreement == 1.0 and good.first_divergence is None and good.max_logit_diff < 1e-5
    other = (right.tokens[1][2] + 1) % 64
    wrong = replace(right, tokens=[right.tokens[0], [*right.tokens[1][:2], other, *right.tokens[1][3:]]])
    found = judge("x", "1", task, wanted, wrong)
    assert found.first_divergence == 2 and found.greedy_agreement == pytest.approx(7 / 10)
    best = np.sort(wanted[1][len(task.prompts[1]) - 1 + 2])
    assert found.divergence_margin == pytest.approx(best[-1] - best[-2])
    shifted = [right.logits[0] + 0.5, right.logits[1]]
    assert judge("x", "1", task, wanted, replace(right, logits=shifted)).max_logit_diff == pytest.approx(0.5, abs=1e-4)
    # A runtime that tells only some logits is judged by those.
    sparse = [np.where(np.arange(64) % 2, logits, np.nan) for logits in right.logits]
    few = replace(right, logits=sparse)
    assert judge("x", "1", task, wanted, few, is_sparse=True).max_logit_diff < 1e-5
    with pytest.raises(CorruptError, match="8 positions"):
        judge("x", "1", task, wanted, replace(few, logits=[sparse[0], right.logits[1]]))
    silent = [np.full_like(right.logits[0], np.nan), right.logits[1]]
    with pytest.raises(CorruptError, match="not a number"):
        judge("x", "1", task, wanted, replace(right, logits=silent), is_sparse=True)
    with pytest.raises(CorruptError, match="shape"):
        judge("x", "1", task, wanted, replace(right, logits=[a[:, :-1] for a in right.logits]))


def test_a_divergence_is_forgiven_only_where_the_logits_leave_it_open(tmp_path: Path) -> None:
    task, wanted, right = task_and_truth(tmp_path)
    position = len(task.prompts[0]) - 1
    order = wanted[0][position].argsort()
    gap = wanted[0][position][order[-1]] - wanted[0][position][order[-2]]
    wrong = replace(right, tokens=[[int(order[-2]), *right.tokens[0][1:]], right.tokens[1]])
    assert judge("x", "1", task, wanted, wrong).ties is False, "its logits are right, so its token is a bug"
    off = right.logits[0].copy()
    off[position, order[-2]] += 1.1 * gap
    assert judge("x", "1", task, wanted, replace(wrong, logits=[off, right.logits[1]])).ties is True
    assert judge("x", "1", task, wanted, right).ties is None


def test_failures_and_absent_runtimes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf", LAYOUTS["top-3, wide residual MLP"], "F32")
    with pytest.raises(MissingError, match="sglang"):
        compare(path, runtimes=["sglang"])
    monkeypatch.setitem(RUNTIMES, "nowhere", Runtime("nowhere", "no_such_package", RUNTIMES["torch"].run))
    with pytest.raises(MissingError, match="not installed"):
        compare(path, runtimes=["nowhere"])
    monkeypatch.setitem(RUNTIMES, "llama.cpp", Runtime("llama.cpp", "openarctic", RUNTIMES["torch"].run, needs_stock_gguf=True))
    with pytest.raises(UserError, match="residual_intermediate_size"):
        compare(path, runtimes=["llama.cpp"])
    with pytest.raises(UserError, match="context of 128"):
        compare(path, runtimes=["openarctic"], max_tokens=200)
    assert main(["model", "parity", str(tmp_path / "none"), "--runtimes", "openarctic"]) == 2
    assert main(["model", "parity", str(path), "--max-tokens", "0"]) == 2


def test_a_model_that_does_not_fit_is_told_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openarctic.machine.available_bytes", lambda *_: 1)
    with pytest.raises(CapacityError, match=r"0\.00 GB are available"):
        compare(write_model(tmp_path / "m.gguf", tiny_config(), "F32"), runtimes=["openarctic"])
