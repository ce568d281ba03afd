"""scikit-build-core, plus a compiler where the machine has none.

A fresh machine with Python and pip alone can build the package: when no C++ compiler is on the PATH, the build asks for the
`ziglang` wheel, which carries clang, and points CMake at it through two small scripts.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from scikit_build_core import build as _backend
from scikit_build_core.build import *  # noqa: F403

COMPILERS = ("c++", "g++", "clang++", "cl")


def has_compiler() -> bool:
    """Whether CMake will find a C++ compiler by itself."""
    return bool(os.environ.get("CXX")) or any(shutil.which(name) for name in COMPILERS)


def _requirements(base: list[str]) -> list[str]:
    return base if has_compiler() else [*base, "ziglang>=0.13"]


def get_requires_for_build_wheel(config_settings=None):
    return _requirements(_backend.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _requirements(_backend.get_requires_for_build_editable(config_settings))


def _use_zig() -> None:
    """Scripts named cc and c++ that run zig's compilers, named to CMake through the environment."""
    if has_compiler():
        return
    folder = Path(tempfile.mkdtemp(prefix="openarctic-zig-"))
    for variable, name in (("CC", "cc"), ("CXX", "c++"), ("AR", "ar"), ("RANLIB", "ranlib")):
        script = folder / f"zig-{name}"
        target = " -mcpu=baseline" if name in ("cc", "c++") else ""  # zig's default is the processor that it runs on
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {name}{target} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
        os.environ[variable] = str(script)
    extra = f"-DCMAKE_AR={folder}/zig-ar -DCMAKE_CXX_COMPILER_AR={folder}/zig-ar -DCMAKE_RANLIB={folder}/zig-ranlib"
    os.environ["CMAKE_ARGS"] = f"{os.environ.get('CMAKE_ARGS', '')} {extra}".strip()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _use_zig()
    return _backend.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _use_zig()
    return _backend.build_editable(wheel_directory, config_settings, metadata_directory)
