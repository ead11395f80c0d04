"""The towers' blocks as ``torch.compile`` translates them, for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clippy.model import CLIPpy

_OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Dropout draws the numbers that it draws when nothing is compiled."""


class CompilationError(ValueError):
    """Nothing can be compiled on this machine."""


def compile_towers(model: CLIPpy) -> None:
    """Have the blocks of both towers compiled when they first run; parameters, their names and files stay as they are.

    Blocks rather than towers: those of one kind share one translation, so it takes seconds and not minutes, and what is
    around them works as without: patch dropout, activation checkpointing, hooks, data parallelism. An image tower that
    is no row of equal blocks, such as a convolutional one, is compiled as a whole. It is translated for the one size it
    is trained on, the text tower for captions of any number and length.

    Raises CompilationError where no compiler is found for the model's device.
    """
    import torch._dynamo  # here, for it takes a while

    _try_compiler(model.log_logit_scale.device)
    torch._dynamo.config.optimize_ddp = False  # would cut blocks in two, to send gradients off before a block is done
    torch._dynamo.config.recompile_limit = 32  # kinds of shapes are few, but more than the 8 after which torch gives up
    trunk: Any = model.image.trunk
    blocks = getattr(trunk, "blocks", [])
    if len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.Sequential):
        for block in blocks:
            block.forward = torch.compile(block.forward, dynamic=False, options=_OPTIONS)
    else:
        trunk.forward_features = torch.compile(trunk.forward_features, dynamic=False, options=_OPTIONS)
    for block in model.text.encoder.encoder.block:
        for layer in block.layer:  # in the block's own forward transformers checkpoints its activations
            layer.forward = torch.compile(layer.forward, dynamic=True, options=_OPTIONS)


def _try_compiler(device: torch.device) -> None:
    """Compile something small: only that shows whether all is there."""
    try:
        torch.compile(_increment)(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompilationError(
            f"train.compile: torch.compile finds no working compiler for this machine's {device.type} ({reason}); "
            "install g++ and Python's headers, or set train.compile=false"
        ) from None


def _increment(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + 1
