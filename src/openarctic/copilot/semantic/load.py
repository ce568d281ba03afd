"""Reading a semantic model from a file of either form."""

from __future__ import annotations

from pathlib import Path

from openarctic.copilot.semantic.cortex import Loaded, cortex_model
from openarctic.copilot.semantic.ossie import is_ossie, ossie_model
from openarctic.copilot.yaml_file import read_yaml


def load_semantic_model(path: Path) -> Loaded:
    """The model in a Cortex Analyst or Apache Ossie YAML file, and warnings.

    Raises MissingError, UserError (with line and key) or CapacityError.
    """
    root = read_yaml(path)
    return ossie_model(root) if is_ossie(root) else cortex_model(root)
