"""`openarctic model overlap` as its user meets it."""

from __future__ import annotations

import json

import pytest

from openarctic.cli import main


def test_table_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "overlap", "arctic-480b", "--format", "json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert main(["model", "overlap", "arctic-480b"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert max(map(len, lines)) <= 100
    for line, step in zip(lines, body["steps"], strict=True):
        assert line.split()[0] == f"{step['network_gb_s']:g}"
        assert line.split()[-1] == f"{step['saving']:.1%}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--network", "0"), "network is 0"), (("--utilisation", "2"), "utilisation is 2"), (("--chunks", "0"), "in 0 chunks")],
)
def test_assumptions_that_make_no_sense_are_refused(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "overlap", "arctic-480b", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_gpus_that_cannot_share_the_experts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "overlap", "arctic-480b", "--expert-parallel", "48"]) == 2
    assert "48 GPUs cannot share 128 experts" in capsys.readouterr().err
