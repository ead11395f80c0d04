"""What a training step costs, measured so that others on the machine do not decide it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from pipelines.optim import build_optimizer
from pipelines.recipe import Recipe
from pipelines.state import TrainState
from pipelines.step import Stepper
from pipelines.timing import StepTimer


class _Batch(NamedTuple):
    pixels: np.ndarray
    ids: np.ndarray
    valid: np.ndarray


def measure_steps(recipes: dict[str, Recipe], rounds: int = 9) -> dict[str, float]:
    """Median processor seconds of a training step of each recipe, taken in turn, so many times after a first."""
    steppers = {name: _stepper(recipe) for name, recipe in recipes.items()}
    found: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(rounds + 1):
        for name, step in steppers.items():
            started = time.process_time()
            step()
            found[name].append(time.process_time() - started)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def _stepper(recipe: Recipe) -> Callable[[], Any]:
    """Takes a real step on random pixels each time it is called."""
    captions = ["a photo of a dax and a wug with grass."] * recipe.optim.global_batch_size
    tokenizer = build_tokenizer(recipe.model.text, captions)
    torch.manual_seed(recipe.seed)
    model = CLIPpy(recipe.model, tokenizer).train()
    state, device = TrainState(model, build_optimizer(model, recipe.optim)), torch.device("cpu")
    size = recipe.model.image.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (len(captions), size, size, 3), np.uint8)
    batch = _Batch(pixels, tokenizer(captions), np.ones(len(captions), bool))
    step = Stepper(state, model, recipe, device, StepTimer(device))
    return lambda: step([batch])
