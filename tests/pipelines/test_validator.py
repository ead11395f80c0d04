"""Validation beside a training: storage that stutters does not end the run, and no number is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import evaluate, validation, validator
from pipelines.checkpoints import STATE_FILE, checkpoint_name
from pipelines.console import Console
from pipelines.evaluation.units import Task
from pipelines.job import Job
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.sections import EvalConfig
from pipelines.storage import locate
from pipelines.tracking import Tracker
from pipelines.validator import Validator


@pytest.fixture
def job(overrides: list[str]) -> Job:
    return prepare(load_recipe("shapes", [*overrides, "eval.every=5"]), Console())


def commit(job: Job, step: int) -> None:
    (job.folder.checkpoints / checkpoint_name(step) / STATE_FILE).write_text("{}")


class Measured(Validator):
    """Has what each checkpoint came to at hand; an exception is that of the task."""

    outcomes: dict[int, Any]

    def _start(self, step: int) -> Any:
        import ray

        outcome = self.outcomes[step]
        if not isinstance(outcome, Exception):
            return ray.put(outcome)

        @ray.remote(max_retries=0)
        def fail() -> None:
            raise outcome

        return fail.remote()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_storage_that_is_away_for_a_while_loses_no_validation(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(validator, "_PAUSE_SECONDS", 0.0)
    logged: list[tuple[int, dict[str, float]]] = []
    name = job.recipe.eval.best
    found = Measured(job, Console(), lambda numbers, step, time_ms: logged.append((step, numbers)))
    found.outcomes = {5: {name: 0.25}, 10: AssertionError(), 15: {name: 0.125}}
    checkpoints, results = (Path(job.folder.location.path) / part for part in ("checkpoints", "validation"))
    checkpoints.write_text("a file where the folder should be")
    found.saved()
    assert found.poll()
    checkpoints.unlink()
    for step in (5, 10, 15):
        commit(job, step)
    assert found.poll()  # starts step 5
    results.write_text("a file where the folder should be")
    assert found.poll(timeout=10)
    results.unlink()
    while found.poll(timeout=10):
        pass
    assert logged == [(5, {name: 0.25}), (15, {name: 0.125})]
    assert validation.best(job.folder)["step"] == 5
    assert json.loads((results / "step-00000010.json").read_text())["error"] == "AssertionError"
    said = capfd.readouterr().err
    assert said.count("storage does not let validation go on") == 2
    assert "validation of step 10 failed: AssertionError" in said


@pytest.mark.parametrize(("resources", "device"), [({"GPU": 0.5}, "cuda"), ({"CPU": 1.0}, "cpu"), ({}, "cpu")])
def test_a_validation_runs_on_the_gpu_that_it_is_given(
    shapes: Path, resources: dict[str, float], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noted(Exception):
        pass

    def note(task: Task) -> None:
        raise Noted(task.device)

    monkeypatch.setattr(evaluate, "Measurer", note)
    config = EvalConfig(benchmark="shapes", url=str(shapes), resources=resources)
    with pytest.raises(Noted, match=f"^{device}$"):
        evaluate.measure_here(locate("nowhere"), config)


def test_a_new_best_checkpoint_is_kept_from_the_moment_it_is_measured(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two writes a checkpoint is either still to be validated or already the best."""
    folder, config = job.folder, EvalConfig()
    for step in (5, 10):
        commit(job, step)
    validation.record(folder, 5, {config.best: 0.25}, config, 0)
    write, kept = type(folder.location).write_text, []

    def note(location: Any, text: str) -> None:
        write(location, text)
        kept.append(validation.steps_to_keep(folder, 5))

    monkeypatch.setattr(type(folder.location), "write_text", note)
    validation.record(folder, 10, {config.best: 0.5}, config, 0)
    assert len(kept) == 2
    assert all(10 in steps for steps in kept)


def test_validations_that_mlflow_missed_are_sent_at_the_next_start(overrides: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recipe = load_recipe("shapes", [*overrides, "eval.every=5", f"tracking.uri={uri}"])
    folder = RunFolder(locate(recipe.run_url))
    numbers = {recipe.eval.best: 0.25, "classification/top1": 0.5}
    validation.record(folder, 5, numbers, recipe.eval, time_ms=1_700_000_000_000)
    validation.record(folder, 10, {}, recipe.eval, time_ms=1_700_000_001_000, error="no benchmark there")
    for _ in range(2):  # one start knows nothing of what another has sent
        tracker = Tracker(recipe, folder)
        tracker.log_validations(folder)
        tracker.finish("FINISHED")
    client = MlflowClient(uri)
    for name, value in numbers.items():
        (point,) = client.get_metric_history(tracker.run_id, f"eval/shapes/{name}")
        assert (point.step, point.value, point.timestamp) == (5, value, 1_700_000_000_000)
