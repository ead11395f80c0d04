"""Whether a run is well: steps that were skipped, weights that went back, losses out of the ordinary, patch tokens."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from clippy.vision import ImageTokens

_MEMORY = 0.98
"""Share of the running mean that one more loss leaves: about the last fifty."""
_SETTLED = 50
"""Losses before one of them can be called a spike."""


class HealthError(RuntimeError):
    """A run that goes wrong again from its last good weights: starting it once more would not help."""


@dataclass
class Health:
    """What went wrong so far; part of a checkpoint."""

    skipped_steps: int = 0
    """Steps whose loss or gradient was not finite, and which therefore changed nothing."""
    skipped_in_row: int = 0
    rollbacks: int = 0
    """How often the weights went back to an earlier checkpoint."""
    undone_steps: int = 0
    """Steps whose work those rollbacks threw away."""
    spikes: int = 0
    losses: int = 0
    loss_mean: float = 0.0
    loss_variance: float = 0.0

    def see_loss(self, loss: float, deviations: float) -> bool:
        """Take a finite loss into the running mean; True if it lies so many standard deviations above it."""
        difference = loss - self.loss_mean
        settled = self.losses >= _SETTLED
        spike = settled and difference > deviations * max(math.sqrt(self.loss_variance), 1e-3)
        self.spikes += spike
        self.losses += 1
        weight = max(1 - _MEMORY, 1 / self.losses)
        self.loss_mean += weight * difference
        self.loss_variance = (1 - weight) * (self.loss_variance + weight * difference * difference)
        return spike

    def as_dict(self) -> dict[str, Any]:
        """For ``state.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What ``as_dict`` gave, of this version or an older one."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


class PatchStatistics:
    """What an image tower's patch tokens are like, looked at when asked: a tower that collapses shows here first."""

    def __init__(self, tower: nn.Module) -> None:
        self._wanted = False
        self._figures: dict[str, torch.Tensor] = {}
        tower.register_forward_hook(self._look)

    def ask(self) -> None:
        """Look at the next tokens."""
        self._wanted = True

    def take(self) -> dict[str, float]:
        """``patch_norm``, its relative spread, and the mean cosine between patches of an image; then forget them."""
        figures = {name: value.item() for name, value in self._figures.items()}
        self._figures = {}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    @torch.no_grad()
    def _look(self, tower: nn.Module, arguments: Any, tokens: ImageTokens) -> None:
        if not self._wanted:
            return
        self._wanted = False
        patches_BND = tokens.patches_BND.detach().float()
        norm_BN = patches_BND.norm(dim=-1)
        count = patches_BND.shape[1]
        of_sum_B = F.normalize(patches_BND, dim=-1).sum(dim=1).square().sum(dim=-1)  # of N unit vectors: N + all pairs
        self._figures = {
            "patch_norm": norm_BN.mean(),
            "patch_norm_spread": (norm_BN.std() / norm_BN.mean()),
            "patch_similarity": ((of_sum_B - count) / max(1, count * (count - 1))).mean(),
        }
