"""The optimizer and its parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pipelines.sections import OptimConfig

_FUSED_DEVICES = ("cpu", "cuda")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or LAMB over everything that is trained, for ``set_learning_rate`` to drive; the model is on its device.

    AdamW is torch's fused one, on a CPU too: several times as fast, and the same bits on any number of threads.
    """
    groups = parameter_groups(model, config)
    options: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
    if config.name == "lamb":
        from pipelines.lamb import Lamb  # here, for timm takes a while to import

        return Lamb(groups, **options)
    fused = all(p.device.type in _FUSED_DEVICES for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, fused=fused, **options)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trained parameters by learning rate factor and by whether they decay, in the model's order.

    Matrices decay, vectors, biases, norms and the logit scale do not (as in open_clip). A tower's factor is for all
    that is in it, its projection included; pooling and logit scale belong to neither.
    """
    factors = {"image": config.image_learning_rate_factor, "text": config.text_learning_rate_factor}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor, is_matrix = factors.get(name.partition(".")[0], 1.0), parameter.ndim >= 2
        new = {
            "params": [],
            "lr_factor": factor,
            "weight_decay": config.weight_decay if is_matrix else 0.0,
            "always_adapt": is_matrix,  # for LAMB, which would else adapt only what decays; AdamW does not look at it
        }
        groups.setdefault((factor, is_matrix), new)["params"].append(parameter)
    return list(groups.values())


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Rate of the step that follows ``step`` completed ones: linear warm-up, then a cosine that ends at ``steps``."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    final = config.final_learning_rate_factor
    return config.learning_rate * (final + (1 - final) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
