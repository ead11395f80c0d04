"""Runs that go wrong: steps that are not finite change nothing, weights go back, and at last the run stops."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clippy.vision import ImageTokens
from pipelines.batches import Batch
from pipelines.checkpoints import last_good_step
from pipelines.console import Console
from pipelines.health import Health, HealthError, PatchStatistics
from pipelines.job import Job
from pipelines.loop import train_loop
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.session import restore
from pipelines.state import TrainState
from tests.pipelines.test_loop import Recorder, batches, new_state

CPU = torch.device("cpu")


@pytest.fixture
def job(overrides: list[str]) -> Job:
    mine = ["scaling.num_workers=1", "train.log_every=4", "health.max_skipped_steps=2", "checkpoint.keep_last=10"]
    return prepare(load_recipe("shapes", [*overrides, *mine]), Console())


class Poisoned(torch.nn.Module):
    """The model, whose embeddings are not finite at some steps."""

    def __init__(self, state: TrainState, steps: set[int]) -> None:
        super().__init__()
        self.state, self.steps = state, steps

    def forward(self, *inputs: object) -> tuple[torch.Tensor, ...]:
        image, text, scale = self.state.model(*inputs)
        return (image * math.nan if self.state.step + 1 in self.steps else image), text, scale


def train(job: Job, state: TrainState, recorder: Recorder, poisoned: set[int]) -> bool:
    stream: Iterator[Batch] = batches(job, state.step)
    return train_loop(
        state,
        Poisoned(state, poisoned),
        stream,
        job.recipe,
        recorder,
        device=CPU,
        rows_per_epoch=job.source.plan.rows_per_epoch,
    )


def test_a_step_that_is_not_finite_is_skipped_and_counted(job: Job) -> None:
    recorder, state = Recorder(job), new_state(job)
    assert train(job, state, recorder, {3, 7, 8})
    assert [r["step"] for r in recorder.records if r.get("skipped")] == [3, 7, 8]
    assert [r["step"] for r in recorder.records if r["loss"] is None] == [3, 7, 8]
    assert (state.health.skipped_steps, state.health.skipped_in_row, state.health.rollbacks) == (3, 0, 0)
    assert recorder.records[-1]["skipped_steps"] == 3
    assert all(torch.isfinite(p).all() for p in state.model.parameters())
    again = restore(job, CPU, 12)
    assert again.health == state.health


def test_too_many_in_a_row_go_back_to_the_last_good_checkpoint_and_on_with_the_next_batch(job: Job) -> None:
    recorder, state = Recorder(job), new_state(job)
    at_five: dict[str, torch.Tensor] = {}
    told: list[dict[str, object]] = []
    recorder._tell = told.append  # type: ignore[assignment]
    assert train(job, state, recorder, {8, 9, 10})
    (went_back,) = [event for event in told if "went_back" in event]
    assert went_back == {"went_back": 5, "at": 10}
    assert (state.health.rollbacks, state.health.undone_steps, state.health.skipped_steps) == (1, 5, 3)
    at_five = restore(job, CPU, 5).model.state_dict()
    at_ten = restore(job, CPU, 10)  # saved right after the return
    assert all(torch.equal(at_ten.model.state_dict()[name], tensor) for name, tensor in at_five.items())
    assert at_ten.step == 10
    assert state.step == 12  # nothing is done over: steps 11 and 12 were taken from there
    assert [r["step"] for r in recorder.records] == list(range(1, 13))


def test_the_last_good_checkpoint_outlives_one_saved_amid_skipped_steps(job: Job) -> None:
    checkpoint = job.recipe.checkpoint.model_copy(update={"keep_last": 1})
    job = Job(job.recipe.model_copy(update={"checkpoint": checkpoint}), job.source, job.decoding)
    recorder = Recorder(job)
    assert train(job, new_state(job), recorder, {9, 10, 11})  # step 10 is saved in the middle
    assert [event for event in recorder.told if "went_back" in event] == [{"went_back": 5, "at": 11}]


def test_a_run_that_was_never_well_goes_back_to_its_start_and_stops_in_the_end(job: Job) -> None:
    recipe = job.recipe.model_copy(update={"health": job.recipe.health.model_copy(update={"max_rollbacks": 1})})
    state = new_state(job)
    with pytest.raises(HealthError, match=r"3 steps in a row, up to step 6, was not finite, after 1 returns"):
        train(Job(recipe, job.source, job.decoding), state, Recorder(job), set(range(1, 13)))
    start = new_state(job).model.state_dict()
    assert all(torch.equal(state.model.state_dict()[name], tensor) for name, tensor in start.items())


def test_a_checkpoint_saved_amid_skipped_steps_is_not_gone_back_to(job: Job) -> None:
    state = new_state(job)
    train(job, state, Recorder(job), {9, 10})  # step 10 is saved in the middle
    assert last_good_step(job.folder.checkpoints) == 12
    job.folder.checkpoints.filesystem.delete_dir((job.folder.checkpoints / "step-00000012").path)
    assert last_good_step(job.folder.checkpoints) == 5


@given(st.lists(st.floats(1.0, 1.2), min_size=60, max_size=200), st.floats(5, 1000))
def test_only_a_loss_out_of_the_ordinary_is_a_spike(losses: list[float], spike: float) -> None:
    health = Health()
    assert not any(health.see_loss(loss, deviations=12) for loss in losses)
    assert health.see_loss(spike, deviations=12)
    assert health.spikes == 1
    assert Health.from_dict(health.as_dict()) == health


def test_patch_statistics_are_those_of_the_definition() -> None:
    class Tower(torch.nn.Module):
        def forward(self, patches: torch.Tensor) -> ImageTokens:
            return ImageTokens(patches, None, None)

    torch.manual_seed(0)
    patches = torch.randn(3, 5, 8)
    tower = Tower()
    statistics = PatchStatistics(tower)
    tower(patches * 7)  # nobody asked
    assert statistics.take() == {}
    statistics.ask()
    tower(patches)
    figures = statistics.take()
    unit = patches / patches.norm(dim=-1, keepdim=True)
    pairs = [(unit[b, i] @ unit[b, j]).item() for b in range(3) for i in range(5) for j in range(5) if i != j]
    assert figures["patch_similarity"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert figures["patch_norm"] == pytest.approx(patches.norm(dim=-1).mean().item())
    assert statistics.take() == {}
