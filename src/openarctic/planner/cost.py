"""Time and money from counts: the arithmetic behind claims such as "three thousand GPU-weeks"."""

from __future__ import annotations

from openarctic.planner.hardware import Gpu

HOURS_PER_WEEK = 7 * 24


def training_flops(active_parameters: int, tokens: int) -> int:
    """FLOPs of training, attention scores aside: 6 a weight and token (2 forward, 4 backward)."""
    return 6 * active_parameters * tokens


def training_gpu_hours(flops: float, gpu: Gpu, utilisation: float) -> float:
    """GPU-hours of so many FLOPs in bf16 at a share of the peak rate."""
    return flops / (gpu.bf16_flops * utilisation) / 3600


def gpu_hours(gpu_weeks: float) -> float:
    """Hours in so many GPU-weeks."""
    return gpu_weeks * HOURS_PER_WEEK


def dollars_per_gpu_hour(dollars: float, gpu_weeks: float) -> float:
    """The price that a budget pays for one GPU and hour."""
    return dollars / gpu_hours(gpu_weeks)


def dollars_per_million_tokens(dollars_per_hour: float, tokens_per_s: float) -> float:
    """The price of a million tokens on a machine that makes so many a second."""
    return dollars_per_hour / (tokens_per_s * 3600) * 1e6
