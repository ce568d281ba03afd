"""Every tensor of a checkpoint is used and every parameter filled, or the load fails with a name.

vLLM's own check looks at its fused parameters and so takes one expert of 128 for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from openarctic.errors import CorruptError
from openarctic.formats import HybridConfig
from openarctic.formats.names import state_dict_shapes


class CheckedNames:
    """Watches the tensors of one load go by.

    A quantised checkpoint holds other tensors beside or instead of `weight`: there only the modules are checked, and vLLM
    refuses what it does not know.
    """

    def __init__(self, shape: HybridConfig, is_quantized: bool) -> None:
        self.shapes = state_dict_shapes(shape)
        self.is_quantized = is_quantized
        self.is_tied = shape.tie_word_embeddings
        self.seen: set[str] = set()

    def check(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same tensors. Raises CorruptError at one that the model does not have."""
        for name, tensor in weights:
            if not self.is_quantized and not (self.is_tied and name == "lm_head.weight"):
                self._check_shape(name, tuple(tensor.shape))
            self.seen.add(_module(name))
            yield name, tensor

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        wanted = self.shapes.get(name)
        if wanted is None:
            raise CorruptError(f"the checkpoint has a tensor {name}, which this configuration has no place for")
        if shape != wanted:
            raise CorruptError(f"tensor {name} has shape {list(shape)}, the configuration says {list(wanted)}")

    def check_complete(self, is_read_here: Callable[[int, int], bool]) -> None:
        """Raises CorruptError for modules of which no tensor came; `is_read_here(layer, expert)` excuses experts."""
        missing = [n for n in self.shapes if _module(n) not in self.seen and not self._is_elsewhere(n, is_read_here)]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise CorruptError(f"the checkpoint lacks {', '.join(missing[:3])}{more}", "is a shard missing from the folder?")

    def _is_elsewhere(self, name: str, is_read_here: Callable[[int, int], bool]) -> bool:
        parts = name.split(".")
        return ".experts." in name and not is_read_here(int(parts[2]), int(parts[5]))


def _module(name: str) -> str:
    """`model.norm.weight` -> `model.norm`."""
    return name.rpartition(".")[0]
