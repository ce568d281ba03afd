"""What stands in for the model on a vLLM that was never tested."""

from __future__ import annotations

from typing import Any, NoReturn

import vllm
from torch import nn

from openarctic.errors import UserError
from openarctic.model.vllm import TESTED_VERSIONS


class UntestedVersion(nn.Module):
    """Has the methods by which vLLM knows a text generator, and cannot be built."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        tested = ", ".join(TESTED_VERSIONS)
        raise UserError(
            f"Arctic does not run on vLLM {vllm.__version__}: openarctic was tested with {tested}. Install one of those.",
            f"pip install vllm=={TESTED_VERSIONS[-1]}",
        )

    def embed_input_ids(self, input_ids: Any) -> NoReturn:
        """Never reached."""
        raise NotImplementedError

    def forward(self, input_ids: Any, positions: Any, intermediate_tensors: Any = None, inputs_embeds: Any = None) -> NoReturn:
        """Never reached."""
        raise NotImplementedError

    def compute_logits(self, hidden_states: Any) -> NoReturn:
        """Never reached."""
        raise NotImplementedError
