"""What bounds a run, in words, with the field to change: from where the time of its steps went."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.recipe import Recipe

_REMEDIES = {
    "checkpoint": (0.05, "checkpoints are the limit", "raise checkpoint.every"),
    "communication": (
        0.25,
        "waiting for the other workers is the limit",
        "raise optim.global_batch_size, or use fewer workers with faster links",
    ),
    "loss": (0.25, "the loss over the global batch is the limit", "lower optim.global_batch_size, or use more workers"),
    "optimizer": (0.25, "the optimizer is the limit", "raise optim.global_batch_size"),
    "host_to_device": (0.2, "copying pixels to the device is the limit", "lower model.image.image_size"),
}
"""Phase -> share of a step from which it is worth a word, what to say, and what to change."""


def verdict(phases: Mapping[str, float], recipe: Recipe, input_verdict: str) -> str:
    """One sentence on seconds by phase; ``input_verdict`` is what to say where training waits for data."""
    total = sum(phases.values()) or 1.0
    shares = {phase: seconds / total for phase, seconds in phases.items()}
    if shares["data_wait"] >= 0.1:
        return f"{input_verdict} (training waits for data {shares['data_wait']:.0%} of the time)"
    worst = max(_REMEDIES, key=lambda phase: shares[phase] / _REMEDIES[phase][0])
    threshold, what, remedy = _REMEDIES[worst]
    if shares[worst] >= threshold:
        return f"{what}, {shares[worst]:.0%} of the time: {remedy}"
    model = f"the model is the limit: forward {shares['forward']:.0%}, backward {shares['backward']:.0%} of the time"
    return f"{model}; {_faster_model(recipe)}"


def _faster_model(recipe: Recipe) -> str:
    if recipe.scaling.use_gpu and recipe.train.precision == "float32":
        return "train.precision=bfloat16 runs the towers faster"
    if recipe.scaling.use_gpu and not recipe.train.compile:
        return "train.compile=true can run the towers faster"
    if recipe.train.activation_checkpointing:
        return "train.activation_checkpointing=false saves a forward pass, where memory allows"
    if recipe.micro_batch_size * recipe.scaling.max_workers < recipe.optim.global_batch_size:
        return "a larger train.micro_batch_size, or enough workers for one micro-batch each, saves a forward pass"
    if not recipe.scaling.use_gpu:
        return "scaling.use_gpu=true where there are GPUs"
    return "more workers would share it"
