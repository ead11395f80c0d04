"""One trial: a training run inside a function that Ray Tune calls, somewhere on the cluster.

The function takes no CPU itself. Ray Train's controller and workers belong to its process, as they belong to the
driver of ``clippy train``. Tune never stops it: a trial that is to end early is asked to, saves a checkpoint, lets go
of its workers, decoders and validation, and only then returns. So what it held is free before the next trial starts.
"""

from __future__ import annotations

import io
import json
import time
import traceback
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines import validation
from pipelines.console import Console
from pipelines.follower import Follower
from pipelines.recipe import Recipe
from pipelines.run_folder import RUN_FILE, RunFolder
from pipelines.storage import locate
from pipelines.summary import TrainingError
from pipelines.train import run

LOG_FILE = "log.txt"
_PAUSE_SECONDS = 1.0
"""Between two reports of progress, and between two looks whether to stop."""


class StopFlags:
    """Which trials should stop: one actor for all trials of a study."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._all = False

    def request_stop(self, number: int | None = None) -> None:
        """A trial should stop, or all of them."""
        if number is None:
            self._all = True
        else:
            self._numbers.add(number)

    def stop_requested(self, number: int) -> bool:
        """Whether this trial should stop."""
        return self._all or number in self._numbers


def start_stop_flags() -> Any:
    """A handle of new flags, as an actor that takes no CPU and lives where the driver does."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StopFlags).remote()


def run_trial(config: dict[str, Any], stop_flags: Any, mlflow_parent: str | None) -> None:
    """Train the recipe in ``config``, going on from its checkpoint; what comes of it goes to Tune as it comes.

    A mistake or failure is a result too, so that the study goes on.
    """
    recipe = Recipe.build("a trial", json.loads(config["recipe"]))
    folder = RunFolder(locate(recipe.run_url, recipe.storage.storage_options))
    console = TrialLog()
    follower = TrialFollower(folder, stop_flags, config["number"], mlflow_parent)
    if ray.get(stop_flags.stop_requested.remote(config["number"])):  # before it began
        tune.report({"ended": "stopped"})
        return
    try:
        for result in validation.recorded(folder):  # of an earlier start, which may not have told
            if result["numbers"]:
                follower.validated(result["step"], result["numbers"])
        summary = run(recipe, console, follower)
        ended = {"ended": "finished" if summary.status == "finished" else "stopped", "step": summary.step}
        if summary.status == "finished" and not follower.told:
            ended = {"ended": "failed", "error": _why_nothing_was_measured(folder), "step": summary.step}
    except Exception as error:
        known = isinstance(error, ValueError | TrainingError | OSError)
        sentence = str(error) if known else f"{type(error).__name__}: {error}"
        console.line(sentence if known else traceback.format_exc())
        ended = {"ended": "failed", "error": " ".join(sentence.split())}
    _keep_log(folder, console)
    tune.report({**ended, **follower.mlflow_run()})


class TrialFollower(Follower):
    """Passes on what a run says to Tune, and the study's wish to stop to the run."""

    def __init__(self, folder: RunFolder, stop_flags: Any, number: int, mlflow_parent: str | None) -> None:
        self.mlflow_parent = mlflow_parent
        self.told = False
        """Whether any validation came to numbers."""
        self._folder, self._stop_flags, self._number = folder, stop_flags, number
        self._losses = {record["step"]: record["loss"] for record in folder.read_metrics()}
        self._mlflow: dict[str, Any] = {}
        self._reported = self._asked = 0.0
        self._answer: Any = None
        self._stop = False

    def started(self, placement_group: Any) -> None:
        """Should this process die, the study frees what the workers held: Ray does so only where its dashboard runs."""
        tune.report({"placement_group": placement_group})

    def trained(self, records: list[dict[str, Any]]) -> None:
        """A step now and then, for people who watch."""
        self._losses |= {record["step"]: record["loss"] for record in records}
        now = time.monotonic()
        if now - self._reported > _PAUSE_SECONDS:
            self._reported = now
            tune.report({"step": records[-1]["step"], **self.mlflow_run()})

    def validated(self, step: int, numbers: dict[str, float]) -> None:
        """Each validation, with the loss of its step."""
        self.told = True
        loss = self._losses.get(step)
        tune.report({"step": step, "numbers": {**({} if loss is None else {"loss": loss}), **numbers}})

    def wants_stop(self) -> bool:
        """The study's wish as last heard; never waits."""
        if self._answer is not None:
            if ray.wait([self._answer], timeout=0)[0]:
                self._stop, self._answer = ray.get(self._answer), None
        elif not self._stop and time.monotonic() - self._asked > _PAUSE_SECONDS / 2:
            self._asked, self._answer = time.monotonic(), self._stop_flags.stop_requested.remote(self._number)
        return self._stop

    def mlflow_run(self) -> dict[str, Any]:
        """The run's id in MLflow, once it has one."""
        if (
            self.mlflow_parent
            and not self._mlflow
            and (run_id := self._folder.read_json(RUN_FILE).get("mlflow_run_id"))
        ):
            self._mlflow = {"mlflow_run_id": run_id}
        return self._mlflow


class TrialLog(Console):
    """What a run says, kept rather than printed: several trials at once would garble a terminal."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        super().__init__(self._text)

    def progress(self, text: str) -> None:
        """Metrics have it."""

    @property
    def text(self) -> str:
        """All lines so far."""
        return self._text.getvalue()


def _keep_log(folder: RunFolder, console: TrialLog) -> None:
    """The log beside the run, after what earlier starts said."""
    try:
        file = folder.location / LOG_FILE
        file.write_text((file.read_text() if file.exists() else "") + console.text)
    except OSError:  # the result is worth more than the log
        pass


def _why_nothing_was_measured(folder: RunFolder) -> str:
    errors = [result["error"] for result in validation.recorded(folder) if result["error"]]
    return f"no validation came to a number: {errors[-1]}" if errors else "no checkpoint was validated"
