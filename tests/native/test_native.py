"""The C++ test program of the kernels (slow: it is compiled first). CONTRIBUTING.md has its other two ways to run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TREE = Path(__file__).parent.parent.parent


def test_the_program_of_all_kernels_passes(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if not cmake or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no CMake or no C++ compiler")
    subprocess.run([cmake, "-S", TREE, "-B", tmp_path, "-DOPENARCTIC_NATIVE_TEST=ON"], check=True)
    subprocess.run([cmake, "--build", tmp_path, "--parallel", "2"], check=True)
    done = subprocess.run([tmp_path / "kernels_test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " checks, 0 failures" in done.stdout
