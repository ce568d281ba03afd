"""`openarctic model describe` as its user meets it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openarctic.cli import main
from openarctic.formats import HybridConfig
from openarctic.formats.names import stock_obstacles
from openarctic.planner import PRESETS, parameters
from tests.tiny import LAYOUTS, tiny_config


def run(*arguments: str) -> int:
    """The exit code, also where argparse ends the program."""
    try:
        return main(("model", "describe", *arguments))
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    return tmp_path


def test_the_480b_to_the_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("arctic-480b", "--format", "json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["parameters"]["total"] == 478_584_608_768
    assert body["parameters"]["active"] == 17_318_647_808
    assert body["parameters"]["expert"] == 3_660_840_960
    assert body["parameters"]["dense"] == 9_996_965_888
    assert body["weight_bytes"]["bf16"] == 957_169_217_536
    assert body["kv_bytes_per_token"]["bf16"] == 143_360


@pytest.mark.parametrize("arguments", [("arctic-480b",), ("arctic-480b-kv56", "--gpu", "RTX-4090"), ("arctic-nano",)])
def test_the_page_is_readable_at_100_columns(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert printed.err == ""
    for heading in ("PARAMETERS", "PER TOKEN", "WEIGHTS"):
        assert heading in lines


def test_table_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    run("arctic-480b", "--format", "json")
    body = json.loads(capsys.readouterr().out)
    run("arctic-480b")
    page = capsys.readouterr().out
    sizes = [*body["parameters"].values(), *body["weight_bytes"].values(), *body["gguf_bytes"].values()]
    for number in (*sizes, body["flops_per_token"]["prefill"], body["flops_per_token"]["decode"]):
        assert f"{number:,}" in page
    fit = next(f for f in body["fits"] if (f["gpu"], f["precision"]) == ("H200", "bf16"))
    assert f"{fit['gpus']}: {fit['context']:,} x {fit['sequences']:,}" in page


def test_csv_is_the_json_flattened(capsys: pytest.CaptureFixture[str]) -> None:
    run("tiny", "--format", "json", "--gpu", "L4")
    body = json.loads(capsys.readouterr().out)
    run("tiny", "--format", "csv", "--gpu", "L4")
    rows = dict(list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:])
    assert rows["parameters.total"] == str(body["parameters"]["total"])
    assert rows["gguf_bytes.Q8_0"] == ""
    fit: dict[str, Any] = body["fits"][0]
    assert rows[f"fits.L4.{fit['precision']}.{fit['gpus']}.sequences"] == str(fit["sequences"])
    assert sum(1 for key in rows if key.endswith(".sequences")) == len(body["fits"])


def test_markdown_has_one_table_under_each_heading(capsys: pytest.CaptureFixture[str]) -> None:
    run("arctic-480b", "--format", "md")
    text = capsys.readouterr().out
    assert text.startswith("# arctic-480b")
    assert text.count("\n## ") == text.count("| --- |\n") == 4
    assert "| total | 478,584,608,768 | " in text


def test_a_folder_and_a_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(checkpoint)) == 0
    assert run(str(checkpoint / "config.json"), "--context", "16", "--batch", "2") == 0
    assert "mean of 16 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_a_page(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LAYOUTS[layout]))
    assert run(str(tmp_path), "--gpu", "B200") == 0
    page = capsys.readouterr().out
    assert f"{parameters(HybridConfig.from_dict(LAYOUTS[layout])).total:,}" in page
    assert ("stock runtimes cannot" in page) is bool(stock_obstacles(HybridConfig.from_dict(LAYOUTS[layout])))


def test_what_nothing_holds_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**PRESETS["arctic-480b"].to_dict(), "num_local_experts": 1280}))
    assert run(str(tmp_path), "--gpu", "L4") == 0
    assert "NONE HOLDS IT" in capsys.readouterr().out
    assert run(str(tmp_path)) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("L4 "))
    assert row.split() == ["L4", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["arctic-480"], 2, "hint: did you mean arctic-480b?"),
        (["/no/such/model"], 2, "no model at /no/such/model"),
        (["/no/such/model.gguf"], 2, "no model file"),
        (["arctic-480b", "--context", "5000"], 2, "4096"),
        (["arctic-480b", "--context", "0"], 2, "context is 0"),
        (["arctic-480b", "--batch", "-1"], 2, "batch is -1"),
        (["arctic-480b", "--gpu", "H20"], 2, "no GPU named 'H20'"),
        (["arctic-480b", "--context", "many"], 2, "invalid int"),
        (["arctic-480b", "--format", "xml"], 2, "invalid choice"),
        ([], 2, "NAME_OR_PATH"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_arguments_are_told(arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == code
    printed = capsys.readouterr()
    assert text in printed.err and printed.out == "" and "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("config", "code", "text"),
    [
        ("{", 6, "not JSON"),
        ("[]", 6, "not a JSON object"),
        ("{}", 2, "config lacks"),
        (json.dumps({**tiny_config(), "use_residual": False}), 2, "contradict"),
        (json.dumps({**tiny_config(), "model_type": "mixtral"}), 2, "mixtral"),
        (json.dumps({**tiny_config(), "num_attention_heads": 5}), 2, "not divisible"),
        (json.dumps({**tiny_config(), "hidden_size": "64"}), 2, "hidden_size"),
        (json.dumps({**tiny_config(), "num_hidden_layers": 0}), 2, "num_hidden_layers"),
        (json.dumps({k: v for k, v in tiny_config().items() if k != "moe_layer_frequency"}), 2, "moe_layer_frequency"),
    ],
)
def test_a_wrong_config_is_told(config: str, code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(config)
    assert run(str(tmp_path), "--format", "json") == code
    printed = capsys.readouterr()
    assert text in printed.err
    assert text in json.loads(printed.out)["error"]["message"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\nfrom openarctic.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    main(['model', 'describe', '--help'])\n"
        "assert 'NAME_OR_PATH' in out.getvalue()\n"
        "print([m for m in ('numpy', 'torch', 'duckdb', 'openarctic.engine', 'openarctic.planner') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_describing_loads_no_torch() -> None:
    code = (
        "import sys\nfrom openarctic.cli import main\nassert main(['model', 'describe', 'arctic-nano']) == 0\n"
        "assert 'torch' not in sys.modules and 'duckdb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
