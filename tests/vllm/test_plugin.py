"""What vLLM is told by the plugin, with and without a real vLLM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from openarctic.model.vllm import TESTED_VERSIONS, is_tested, register


def registered(monkeypatch: pytest.MonkeyPatch, version: str) -> dict[str, str]:
    names: dict[str, str] = {}
    fake = SimpleNamespace(__version__=version, ModelRegistry=SimpleNamespace(register_model=names.__setitem__))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    register()
    return names


def test_a_tested_version_gets_the_model_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registered(monkeypatch, TESTED_VERSIONS[0]) == {"ArcticForCausalLM": "openarctic.model.vllm.hybrid:ArcticForCausalLM"}


def test_another_version_gets_a_class_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registered(monkeypatch, "0.99.0") == {"ArcticForCausalLM": "openarctic.model.vllm.unsupported:UntestedVersion"}


@pytest.mark.parametrize(("version", "expected"), [("0.32.1", True), ("0.32.0+cpu", True), ("0.3.2", False), ("0.33.0", False)])
def test_patch_releases_count_as_tested(version: str, expected: bool) -> None:
    assert is_tested(version) is expected


def test_importing_the_plugin_imports_no_vllm() -> None:
    code = "import sys, openarctic.model.vllm; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.vllm
def test_an_untested_vllm_says_so_and_serves_others(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import LAYOUTS
    from tests.vllm.engines import run_jobs, write_folder

    arctic = write_folder(tmp_path / "arctic", {**LAYOUTS["dense"], "hidden_size": 128})
    llama = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
    )
    LlamaForCausalLM(llama).save_pretrained(tmp_path / "llama")
    job = {"prompts": [[1, 2, 3]], "max_tokens": 4, "vllm_version": "0.99.0", "options": {"max_model_len": 64}}
    refused, served = run_jobs(tmp_path / "run", [{**job, "model": str(arctic)}, {**job, "model": str(tmp_path / "llama")}])
    assert "Arctic does not run on vLLM 0.99.0" in refused["error"] and TESTED_VERSIONS[0] in refused["error"]
    assert len(served["tokens"][0]) == 4, served
