"""The log's numbers as TensorBoard event files too, for those who watch many runs with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openarctic.errors import MissingError


class TensorBoard:
    """Writes into `out/tensorboard`. Raises MissingError without the package `tensorboard`."""

    def __init__(self, out: Path, purge_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingError(
                "TensorBoard is not installed", "pip install 'openarctic[tensorboard]', or leave it off"
            ) from error
        # Steps that a resumed run takes back disappear from the curves.
        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=purge_step + 1)

    def step(self, record: dict[str, Any]) -> None:
        """Every number of a step's object; lists (a value a layer) as their mean and each layer's."""
        for name, value in _numbers(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what is waiting."""
        self._writer.close()


def _numbers(record: dict[str, Any]) -> list[tuple[str, float]]:
    found = [(name, float(value)) for name, value in record.items() if isinstance(value, int | float) and name != "step"]
    found += [(f"validation/{name}", value) for name, value in record.get("validation", {}).items()]
    layers = record.get("moe_layers", ())
    for name in ("entropy", "dropped", "dead_experts"):
        found += [(f"{name}/layer {layer}", float(value)) for layer, value in zip(layers, record.get(name, ()), strict=False)]
    # The busiest expert's tokens over the even share: 1 is perfect balance.
    loads = zip(layers, record.get("expert_load", ()), strict=False)
    return found + [(f"busiest_expert/layer {layer}", max(load) * len(load)) for layer, load in loads]
