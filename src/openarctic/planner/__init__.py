"""Arithmetic of a model's sizes and costs from its configuration alone: parameters, FLOPs, bytes, GPUs, time. No torch."""

from openarctic.planner.describe import describe
from openarctic.planner.fit import Fit, fit
from openarctic.planner.flops import Flops, flops_per_token
from openarctic.planner.hardware import GPUS, Gpu, find_gpu
from openarctic.planner.memory import PRECISIONS, gguf_bytes, kv_bytes_per_token, weight_bytes
from openarctic.planner.parameters import Parameters, parameters
from openarctic.planner.presets import PRESETS
from openarctic.planner.source import Source, find

__all__ = [
    "GPUS",
    "PRECISIONS",
    "PRESETS",
    "Fit",
    "Flops",
    "Gpu",
    "Parameters",
    "Source",
    "describe",
    "find",
    "find_gpu",
    "fit",
    "flops_per_token",
    "gguf_bytes",
    "kv_bytes_per_token",
    "parameters",
    "weight_bytes",
]
