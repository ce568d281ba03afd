#!/bin/sh
# The tests of the native code under the address and undefined behaviour sanitizers of GCC:
#
#     scripts/sanitize.sh [FOLDER]        # FOLDER keeps what is built (build/sanitize)
#
# First the program of tests/native, then the Python tests that use C++, with modules built the same way. Any finding ends it.
# Python's own allocations are not watched for leaks.
set -eu

cd "$(dirname "$0")/.."
folder=${1:-build/sanitize}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python="$folder/environment/bin/python"
flags="-g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
[ -x "$folder/environment/bin/ninja" ] || {
  python3 -m venv "$folder/environment"
  "$python" -m pip install -q cmake ninja 'nanobind>=2.4' 'numpy>=1.26' 'tokenizers>=0.20' 'llguidance>=1.0' 'pytest>=8' 'hypothesis>=6' 'gguf>=0.17'
}
PATH="$folder/environment/bin:$PATH"
export UBSAN_OPTIONS=print_stacktrace=1

echo "== program"
cmake -S . -B "$folder/program" -G Ninja -DCMAKE_CXX_COMPILER=g++ -DOPENARCTIC_NATIVE_TEST=ON -DOPENARCTIC_OPTIMIZATION=-O1 -DCMAKE_CXX_FLAGS="$flags" > "$folder/log"
cmake --build "$folder/program"
"$folder/program/kernels_test"

echo "== package"
cmake -S . -B "$folder/modules" -G Ninja -DCMAKE_CXX_COMPILER=g++ -DPython_EXECUTABLE="$python" -DOPENARCTIC_OPTIMIZATION=-O1 \
  -DCMAKE_CXX_FLAGS="$flags -fno-sanitize=vptr" > "$folder/log"
cmake --build "$folder/modules"
rm -rf "$folder/package"
mkdir "$folder/package"
cp -r src/openarctic "$folder/package/"
find "$folder/package" -name '*.so' -delete
cmake --install "$folder/modules" --prefix "$folder/package" > "$folder/log"

echo "== tests"
runtime="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$folder/package" OPENARCTIC_CACHE="$folder/cache" \
  "$python" -B -m pytest -p no:cacheprovider --override-ini=pythonpath=. -x \
  tests/engine/test_kernels.py tests/engine/test_engine.py tests/engine/test_paging.py tests/engine/test_summary.py \
  tests/engine/test_repack.py tests/engine/test_suffix.py tests/formats/test_quants.py -k 'not bytes_that_are_told'  # the sanitizer's malloc has its own
