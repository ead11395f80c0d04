"""LAMB (You et al. 2019, arXiv 1904.00962): timm's, with a state that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from clippy.torchvision_cpu import ensure_torchvision

ensure_torchvision()
from timm.optim import Lamb as TimmLamb  # noqa: E402


class Lamb(TimmLamb):
    """timm counts steps in its groups; here each parameter's state holds the count, as AdamW's does, and rules.

    A group with ``always_adapt`` scales its updates by the trust ratio of each tensor whether or not it decays them.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, max_grad_norm=None, **options)  # the step clips, for all optimizers alike

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            counts = (self.state[p]["step"] for p in group["params"] if p in self.state)
            group["step"] = next(counts, torch.zeros(())).clone()
        loss: float | None = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.state:
                    self.state[p]["step"] = group["step"].clone()  # safetensors refuses shared memory
        return loss
