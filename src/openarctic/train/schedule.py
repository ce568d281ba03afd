"""Learning rates over a run, as shares of the peak. No torch.

Warm-up multiplies every schedule: a line from 0 over `warmup_steps`. What follows depends on the share of the run that is done:

    wsd       constant, then a line over the last `decay_share` (warmup-stable-decay: Hu et al. 2024, MiniCPM)
    linear    a line from the end of warm-up to the end of the run
    cosine    half a cosine from the end of warm-up to the end of the run (Loshchilov and Hutter 2017)
    constant  1

All but the last end at `final_rate`.
"""

from __future__ import annotations

import math

from openarctic.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, share: float) -> float:
    """Share of the peak rate of 0-based `step`, before which `share` (0 to 1) of the run is done."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return warmup * (config.final_rate + (1 - config.final_rate) * _height(config, min(1.0, share)))


def _height(config: TrainConfig, share: float) -> float:
    """The schedule between 1 and 0."""
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "wsd":
        return min(1.0, (1 - share) / config.decay_share) if config.decay_share else 1.0
    # Where the run ends by its minutes nobody knows when warm-up ends; it then counts as a point.
    warm = min(1.0, config.warmup_steps / config.steps) if config.steps else 0.0
    done = max(0.0, share - warm) / (1 - warm) if warm < 1 else 0.0
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
