#!/bin/sh
# Builds the native code for arm64 and runs its tests there, in an emulator of one process (a Debian or Ubuntu machine):
#
#     apt-get install g++-aarch64-linux-gnu qemu-user-static
#     scripts/test_arm64.sh [FOLDER]                           # FOLDER keeps what is built and downloaded (build/arm64)
#
# First the program of tests/native: on a processor with dot products, and on one without, which must take the plain kernels.
# Then the tests of tests/engine and tests/formats that use C++, under Debian's Python for arm64. That is unpacked into FOLDER
# from packages which apt downloads with lists of its own there: nothing is installed, and no rights are needed. The emulated
# tests take tens of minutes.
set -eu

cd "$(dirname "$0")/.."
folder=${1:-build/arm64}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
root="$folder/root"                          # a Debian tree
python="$folder/python"                      # its Python, as a program of this machine
version=3.11                                 # of Debian 12
cross="-G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"
PATH="$folder/tools/bin:$PATH"
[ -x "$folder/tools/bin/ninja" ] || { python3 -m venv "$folder/tools" && "$folder/tools/bin/pip" install -q cmake ninja; }

echo "== program"
# shellcheck disable=SC2086
cmake -S . -B "$folder/program" $cross -DOPENARCTIC_NATIVE_TEST=ON > "$folder/log"
cmake --build "$folder/program"
for processor in max cortex-a53; do
  echo "== program on $processor"
  qemu-aarch64-static -cpu $processor -L /usr/aarch64-linux-gnu "$folder/program/kernels_test" | tee "$folder/said"
  case $processor in
    max) grep -q '^neon: ' "$folder/said" ;;
    *) ! grep -q '^neon: ' "$folder/said" ;;
  esac
done

if [ ! -x "$python" ]; then
  echo "== Python for arm64"
  mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" "$root"
  : > "$folder/apt/status"
  apt="-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State=$folder/apt -o Dir::State::status=$folder/apt/status -o Dir::Cache=$folder/apt"
  # shellcheck disable=SC2086
  apt-get $apt update
  # shellcheck disable=SC2086
  apt-get $apt install --download-only -y --no-install-recommends "python$version" "libpython$version-dev" libstdc++6
  for package in "$folder"/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
  "$folder/tools/bin/pip" install -q --target "$folder/site" --only-binary=:all: --implementation cp --python-version $version \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 \
    'numpy>=1.26' 'tokenizers>=0.20' 'llguidance>=1.0' 'nanobind>=2.4' 'pytest>=8' 'hypothesis>=6' 'gguf>=0.17'
  cat > "$python" <<SCRIPT
#!/bin/sh
PYTHONPATH="$folder/package:$folder/site\${PYTHONPATH:+:\$PYTHONPATH}" exec qemu-aarch64-static -L "$root" "$root/usr/bin/python$version" "\$@"
SCRIPT
  chmod +x "$python"
fi

echo "== package"
# The headers of the tree come before those of this machine, where CMake would look.
# shellcheck disable=SC2086
cmake -S . -B "$folder/modules" $cross -DPython_EXECUTABLE="$python" -DPython_INCLUDE_DIR="$root/usr/include/python$version" \
  -DCMAKE_CXX_FLAGS="-isystem $root/usr/include" > "$folder/log"
cmake --build "$folder/modules"
rm -rf "$folder/package"
mkdir "$folder/package"
cp -r src/openarctic "$folder/package/"
find "$folder/package" -name '*.so' -delete
cmake --install "$folder/modules" --prefix "$folder/package" > "$folder/log"

echo "== tests"
"$python" -c "from openarctic.native._native import available_kernels as k; print(*k()); assert k() == ['neon', 'plain']"
# A process for each file, as many at a time as there are processors; each says which of its tests took longest.
for file in engine/test_kernels engine/test_repack formats/test_quants engine/test_engine engine/test_paging engine/test_suffix engine/test_summary; do
  echo "tests/$file.py"
done | OPENARCTIC_CACHE="$folder/cache" xargs -P "$(nproc)" -n 1 \
  "$python" -B -m pytest -q -p no:cacheprovider --override-ini=pythonpath=. --durations=5
