"""A machine without any compiler builds the package all the same (slow: it installs; pytest -m slow)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TREE = Path(__file__).parent.parent
COMPILER = re.compile(r"(.*-)?(c\+\+|g\+\+|clang|clang\+\+|gcc|cc|cpp|c89|c99|cl|zig|nvcc|icx|icpx)(-[\d.]+)?(-.*)?")


def path_without_compilers(folder: Path) -> Path:
    """A folder of links to every program of the PATH that is no compiler."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*"):
            if not COMPILER.fullmatch(program.name):
                link = folder / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return folder


def test_no_compiler_is_needed(tmp_path: Path) -> None:
    programs = path_without_compilers(tmp_path / "bin")
    clean = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "PYTHONPATH", "CMAKE_ARGS")}
    environment = {**clean, "PATH": f"{tmp_path}/venv/bin:{programs}", "OPENARCTIC_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    assert subprocess.run(["sh", "-c", "command -v c++ g++ cc gcc clang"], env=environment, check=False).returncode
    tree = tmp_path / "tree"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, files):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(TREE / name)
    log = run(f"{tmp_path}/venv/bin/python", "-m", "pip", "install", "-v", str(tree))
    assert "ziglang" in log
    assert "ok    model" in run("openarctic", "doctor")
