"""Bytes that training holds, by part, from a configuration alone; activations are in `planner.activations`."""

from __future__ import annotations

from dataclasses import dataclass

FP32 = 4
# Bytes of state that an optimiser keeps for each parameter in fp32.
OPTIMIZER_STATE = {"adamw": 2 * FP32, "muon": FP32}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingBytes:
    """What training cannot do without, however small its batch."""

    weights: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.gradients + self.moments

    @property
    def checkpoint(self) -> int:
        """Of a checkpoint, which holds what learns and its moments: as many weights as gradients."""
        return self.gradients + self.moments


def training_bytes(parameters: int, trained: int, hidden_matrices: int, optimizer: str) -> TrainingBytes:
    """Of a model of so many parameters in fp32, of which `trained` learn, `hidden_matrices` of these by Muon if that is used."""
    by_muon = hidden_matrices if optimizer == "muon" else 0
    moments = by_muon * OPTIMIZER_STATE["muon"] + (trained - by_muon) * OPTIMIZER_STATE["adamw"]
    return TrainingBytes(weights=FP32 * parameters, gradients=FP32 * trained, moments=moments)
