"""The training loop without Ray: it learns, resumes to the bit, counts bad rows and stops when told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clippy.model import CLIPpy
from pipelines.batches import Batch, MicroBatch
from pipelines.checkpoints import CheckpointError, checkpoint_name, committed_steps
from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.job import Job
from pipelines.loop import train_loop
from pipelines.prepare import prepare
from pipelines.recipe import Recipe, load_recipe
from pipelines.samples import decode_unit, read_unit
from pipelines.saving import Share
from pipelines.session import RunReporter, restore
from pipelines.state import TrainState, load_checkpoint


class Recorder(RunReporter):
    """A run's reporter that also keeps records and what it tells, and asks to stop."""

    def __init__(self, job: Job, stop_at: int | None = None, step: int = 0) -> None:
        self.told: list[dict[str, Any]] = []
        super().__init__(job, Share(), step, attempt=1, tell=self.told.append)
        self.records: list[dict[str, Any]] = []
        self._stop_at = stop_at

    def log(self, records: list[dict[str, Any]]) -> None:
        super().log(records)
        self.records += records

    def stop_requested(self) -> bool:
        return self._stop_at is not None and len(self.records) >= self._stop_at - 1


def new_state(job: Job) -> TrainState:
    return restore(job, torch.device("cpu"), 0)


def batches(job: Job, step: int, spoil: int = 0, garbage: int = 0) -> Iterator[Batch]:
    """The stream of one worker, read directly; the first ``spoil`` rows of each batch are invalid, full of garbage."""
    while True:
        layout = job.layout(1)
        units = layout.units(step, 0)
        decoded = [decode_unit(read_unit(job.source, unit), job.decoding) for unit in units]
        columns = {name: np.concatenate([unit[name] for unit in decoded]) for name in ("key", "pixels", "ids", "cause")}
        columns["cause"][:spoil] = 3
        columns["pixels"][:spoil] = garbage
        cut = [np.split(columns[name], layout.micro_batches) for name in ("pixels", "ids", "cause")]
        yield Batch(units, list(columns["key"]), [MicroBatch(*arrays) for arrays in zip(*cut, strict=True)])
        step += 1


def train(job: Job, state: TrainState, reporter: Recorder, spoil: int = 0, garbage: int = 0) -> bool:
    return train_loop(
        state,
        state.model,
        batches(job, state.step, spoil, garbage),
        job.recipe,
        reporter,
        device=torch.device("cpu"),
        rows_per_epoch=job.source.plan.rows_per_epoch,
    )


@pytest.fixture
def job(overrides: list[str]) -> Job:
    recipe = load_recipe("shapes", [*overrides, "scaling.num_workers=1", "train.log_every=4"])
    return prepare(recipe, Console())


def test_loss_falls(job: Job) -> None:
    longer = job.recipe.model_copy(update={"train": job.recipe.train.model_copy(update={"steps": 40})})
    recorder = Recorder(job)
    assert train(Job(longer, job.source, job.decoding), new_state(job), recorder)
    losses = [record["loss"] for record in recorder.records]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_resumed_equals_uninterrupted(job: Job, optimizer: str) -> None:
    optim = job.recipe.optim.model_copy(update={"name": optimizer, "text_learning_rate_factor": 0.5})
    job = Job(job.recipe.model_copy(update={"optim": optim}), job.source, job.decoding)
    whole, whole_state = Recorder(job), new_state(job)
    assert train(job, whole_state, whole)
    job.folder.checkpoints.remove_folder()

    first, state = Recorder(job, stop_at=6), new_state(job)
    assert not train(job, state, first)
    stopped = state.step
    assert committed_steps(job.folder.checkpoints)[-1] >= stopped
    again, restored = Recorder(job), new_state(job)
    load_checkpoint(job.folder.checkpoints / checkpoint_name(stopped), restored, job.source.digest)
    assert restored.step == stopped < job.recipe.train.steps
    assert train(job, restored, again)

    assert [r["loss"] for r in first.records + again.records] == [r["loss"] for r in whole.records]
    for name, tensor in whole_state.model.state_dict().items():
        assert torch.equal(tensor, restored.model.state_dict()[name]), name
    assert np.array_equal(whole_state.rows, restored.rows)


def test_records_say_what_a_person_wants_to_know(job: Job) -> None:
    recorder = Recorder(job)
    train(job, new_state(job), recorder)
    assert [record["step"] for record in recorder.records] == list(range(1, 13))
    last = recorder.records[-1]
    assert last["rows"] == 12 * 32
    assert last["images_per_second"] > 0
    assert 0 <= last["data_wait_fraction"] <= 1
    assert last["seconds_left"] == 0


def test_invalid_rows_are_counted_and_left_out_of_the_loss(job: Job) -> None:
    tolerant = job.recipe.model_copy(update={"data": job.recipe.data.model_copy(update={"max_invalid_fraction": 0.5})})
    recorders = [Recorder(job), Recorder(job)]
    for recorder, garbage in zip(recorders, (0, 200), strict=True):
        train(Job(tolerant, job.source, job.decoding), new_state(job), recorder, spoil=8, garbage=garbage)
        assert recorder.records[-1]["invalid_rows"] == {"not_an_image": 12 * 8}
    # What an invalid row holds changes nothing, not a bit.
    assert [r["loss"] for r in recorders[0].records] == [r["loss"] for r in recorders[1].records]


def test_too_many_invalid_rows_stop_the_run_with_one_sentence(job: Job) -> None:
    with pytest.raises(DataError, match=r"data\.max_invalid_fraction: 8 of 32 rows .* \(not_an_image 8\)"):
        train(job, new_state(job), Recorder(job), spoil=8)


def test_a_stream_that_ends_early_is_an_error(job: Job) -> None:
    short = iter([next(batches(job, 0))])
    state = new_state(job)
    with pytest.raises(RuntimeError, match="ended at step 1 of 12"):
        train_loop(state, state.model, short, job.recipe, Recorder(job), device=torch.device("cpu"), rows_per_epoch=200)


def test_half_written_and_damaged_checkpoints_do_not_count(job: Job) -> None:
    state = new_state(job)
    train(job, state, Recorder(job))
    checkpoints = job.folder.checkpoints
    assert committed_steps(checkpoints) == [10, 12]  # two are kept
    newest = Path(checkpoints.path) / checkpoint_name(12)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(checkpoints / checkpoint_name(12), new_state(job), job.source.digest)
    (newest / "state.json").unlink()
    assert committed_steps(checkpoints) == [10]
    with pytest.raises(CheckpointError, match="other data"):
        load_checkpoint(checkpoints / checkpoint_name(10), new_state(job), "another digest")


def test_checkpoint_is_a_model_that_loads(job: Job) -> None:
    state = new_state(job)
    train(job, state, Recorder(job))
    loaded = CLIPpy.from_pretrained(Path(job.folder.checkpoints.path) / checkpoint_name(12))
    captions = ["a photo of a dax."]
    assert torch.equal(loaded.encode_captions(captions), state.model.eval().encode_captions(captions))


def test_recipe_in_a_checkpoint_runs_again_as_it_is(job: Job) -> None:
    train(job, new_state(job), Recorder(job))
    file = Path(job.folder.checkpoints.path) / checkpoint_name(12) / "recipe.yaml"
    assert Recipe.load(str(file), file.read_text()) == job.recipe
