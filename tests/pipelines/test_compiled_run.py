"""A run whose towers are compiled: the same numbers, files and resumption.

All of torch.compile but its code generator, whose C++ takes a minute; tests/clippy/test_compilation.py has that.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.console import Console
from pipelines.job import Job
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.session import restore
from tests.pipelines.test_loop import Recorder, train

CPU = torch.device("cpu")
MINE = (
    "scaling.num_workers=1",
    "train.micro_batch_size=8",  # each of four runs twice, and has to drop the same patches and activations again
    "model.text.tokenizer=bytes",  # captions of many lengths
)


def job(overrides: list[str], *more: str) -> Job:
    return prepare(load_recipe("shapes", [*overrides, *MINE, *more]), Console())


def newest(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer of the newest checkpoint."""
    checkpoint = max((folder / "checkpoints").iterdir())
    files = {file.name: load_file(file) for file in checkpoint.glob("*.safetensors")}
    return {f"{file}:{name}": tensor for file, tensors in files.items() for name, tensor in tensors.items()}


def test_a_compiled_run_equals_the_run_and_goes_on_where_it_stopped(overrides: list[str], tmp_path: Path) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    options = ["train.compile=true", "train.activation_checkpointing=true"]
    plain, compiled = job(overrides, "name=plain"), job(overrides, "name=compiled", *options)
    expected = Recorder(plain)
    assert train(plain, restore(plain, CPU, 0), expected)

    translated = CompileCounterWithBackend("aot_eager")
    with torch.compiler.set_stance("default", force_backend=translated):
        first, state = Recorder(compiled, stop_at=6), restore(compiled, CPU, 0)
        assert not train(compiled, state, first)
        translations = translated.frame_count
        rest, again = Recorder(compiled, step=state.step), restore(compiled, CPU, state.step)
        assert train(compiled, again, rest)
    assert 3 <= translations == translated.frame_count  # the other batches' captions needed no more

    losses = [record["loss"] for record in first.records + rest.records]
    assert losses == pytest.approx([record["loss"] for record in expected.records], rel=1e-5)
    ours, theirs = newest(tmp_path / "runs" / "compiled"), newest(tmp_path / "runs" / "plain")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() <= 1e-3 * tensor.norm(), name
