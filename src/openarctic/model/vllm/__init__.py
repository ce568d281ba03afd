"""Arctic in vLLM: the plugin that gives current vLLM back a model which it dropped after 0.28.

vLLM finds `register` through the entry point group `vllm.general_plugins` and calls it in each of its processes. The model
is named, not imported: vLLM loads it where it is needed.
"""

from __future__ import annotations

# Where the tests of this package pass (docs/vllm.md); vLLM changes its layers in every minor release.
TESTED_VERSIONS = ("0.32.0",)


def register() -> None:
    """Tell vLLM who computes `ArcticForCausalLM`; importing this room has told transformers of the config already.

    On a vLLM that was never tested the name belongs to a class that says so when it is built: a server of another model is
    not disturbed by this package being installed.
    """
    import vllm
    from vllm import ModelRegistry

    model = "hybrid:ArcticForCausalLM" if is_tested(vllm.__version__) else "unsupported:UntestedVersion"
    ModelRegistry.register_model("ArcticForCausalLM", f"{__name__}.{model}")


def is_tested(version: str) -> bool:
    """Whether `version` is of a tested minor release: patch releases keep the interface of the layers."""
    return _minor(version) in {_minor(tested) for tested in TESTED_VERSIONS}


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
