"""What are the experts worth? Writes a copy of a hybrid whose experts' output matrices are zero, to be evaluated beside it.

python benchmarks/experts_off.py src/openarctic/assets/arctic-nano-00001-of-00002.gguf experts-off.gguf
openarctic eval spider --questions dev.jsonl --databases database/ --model experts-off.gguf
"""

from __future__ import annotations

import sys

import numpy as np

from openarctic.formats import read_gguf, write_gguf


def main(source: str, target: str) -> None:
    """Copy all tensors; zero bytes are zeros in plain types and in blocks whose scale and minimum they are."""
    file = read_gguf(source)
    tensors = {}
    for name, tensor in file.tensors.items():
        is_output = "ffn_down_exps" in name
        if is_output and tensor.type not in ("F32", "F16", "Q8_0", "Q5_1", "Q4_1"):
            raise SystemExit(f"{name} is {tensor.type}: zero bytes would not be zeros")
        tensors[name] = (tensor.type, tensor.shape, np.zeros_like(tensor.data) if is_output else tensor.data)
    metadata = {k: v for k, v in file.metadata.items() if not k.startswith(("split.", "openarctic.tensors"))}
    write_gguf(target, {**metadata, "general.name": "arctic-nano, experts off"}, tensors)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
