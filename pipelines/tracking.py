"""One MLflow run per training, the same run after a restart. Only the driver talks to MLflow."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import validation
from pipelines.credentials import without_credentials
from pipelines.mlflow_outbox import MOST_POINTS, Outbox, Points, Request, first_line, may_pass, summary
from pipelines.recipe import Recipe
from pipelines.run_folder import RUN_FILE, RunFolder
from pipelines.samples import Dataset, Source
from pipelines.storage import locate

PATIENCE_SECONDS = 60
"""So long the end of a run waits for a server that is away."""
_PAUSES_AT_THE_START = (1, 3)
_METRICS = (
    *("loss", "learning_rate", "logit_scale", "grad_norm", "loss_spikes", "skipped_steps", "rollbacks"),
    *("patch_norm", "patch_norm_spread", "patch_similarity", "invalid_fraction"),
    *("images_per_second", "data_wait_fraction", "bytes_per_second", "decode_images_per_core"),
)
_STEP_METRIC = "train/loss"
"""Every step has it and is sent whole, so its history tells which steps the server has."""

logger = logging.getLogger(__name__)


class Tracker:
    """Sends a run's parameters, metrics and files to MLflow from a thread of its own.

    Whatever happens to MLflow later, training goes on, and what MLflow missed is sent when it is back; only at the
    start is an unreachable store an error (ValueError).
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, parent: str | None = None) -> None:
        """``parent`` is the MLflow run that a new one is shown below."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # more is the outbox's, which tells of it
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # each step of making a database is no news to a user
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = tracking_uri(recipe)
        self.uri = without_credentials(uri)  # this one is shown, and saved with the run
        self._folder, self._parent = folder, parent
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self.run_id, self._known_steps = self._open_patiently(recipe)
        except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
            raise ValueError(
                f"tracking.uri: no MLflow store answers at {self.uri} ({first_line(error)}); start the server, "
                "mend the address, or set tracking.enabled=false"
            ) from None
        self._last_step = 0
        self._outbox = Outbox(self.uri, self._send_points, partial(self._client.get_run, self.run_id))

    def describe(self, recipe: Recipe, source: Source) -> None:
        """Log the recipe as flat parameters and the datasets as inputs; repeating it changes nothing."""
        self.log_parameters(recipe.flat())
        self._request("datasets", self._send_datasets, source)
        self.log_text(recipe.to_yaml(), "recipe.yaml")
        self._request("excluded rows", self._send_excluded, source, _now())

    def log_parameters(self, values: dict[str, Any]) -> None:
        """Log parameters by name; one that the run has already stays as it is."""
        self._request("parameters", self._send_parameters, values)

    def log(self, records: list[dict[str, Any]]) -> None:
        """Log metrics by step; steps that the run already has, from before a restart, are left out."""
        now = _now()
        for record in records:
            step = record["step"]
            if step > self._last_step:
                self._last_step = step
                if step not in self._known_steps:
                    self._outbox.put(Points(step, _step_metrics(record), now))

    def log_values(self, values: dict[str, float], step: int, time_ms: int | None = None) -> None:
        """Log further numbers at one step, known at ``time_ms``, else now; what is sent again as it was counts once."""
        known_at, named = _now() if time_ms is None else time_ms, list(values.items())
        for start in range(0, len(named), MOST_POINTS):
            self._outbox.put(Points(step, dict(named[start : start + MOST_POINTS]), known_at))

    def log_validation(self, benchmark: str | None, numbers: dict[str, float], step: int, time_ms: int) -> None:
        """Log what a checkpoint came to."""
        self.log_values({f"eval/{benchmark}/{name}": value for name, value in numbers.items()}, step, time_ms)

    def log_validations(self, folder: RunFolder) -> None:
        """Log what all checkpoints of the run came to so far."""
        for result in validation.recorded(folder):
            self.log_validation(result["benchmark"], result["numbers"], result["step"], result["time_ms"])

    def log_file(self, path: Path, folder: str = "") -> None:
        """Log a file as an artifact; it has to stay where it is until ``finish``."""
        self._request(path.name, self._client.log_artifact, self.run_id, str(path), folder or None)

    def log_text(self, text: str, name: str) -> None:
        """Log text as an artifact of that name."""
        self._request(name, self._client.log_text, self.run_id, text, name)

    def finish(self, status: str, patience: float = PATIENCE_SECONDS) -> None:
        """Send what is left, and end the run as FINISHED, FAILED or KILLED.

        After ``patience`` seconds without a server it says what is missing, and returns.
        """
        self._request("the run's end", self._client.set_terminated, self.run_id, status)
        missing = self._outbox.close(patience)
        if missing:
            logger.warning(
                "MLflow at %s did not come back in %g s and lacks %s; the same command again sends it",
                self.uri,
                patience,
                summary(missing),
            )

    def _request(self, what: str, send: Any, *arguments: Any) -> None:
        self._outbox.put(Request(what, partial(send, *arguments)))

    def _open_patiently(self, recipe: Recipe) -> tuple[str, frozenset[int]]:
        for pause in _PAUSES_AT_THE_START:
            try:
                return self._open(recipe)
            except Exception as error:
                if not may_pass(error):
                    raise
            time.sleep(pause)
        return self._open(recipe)

    def _open(self, recipe: Recipe) -> tuple[str, frozenset[int]]:
        """The run's id and the steps it has; a run that the folder remembers is opened again."""
        known = self._folder.read_json(RUN_FILE)
        if known.get("mlflow_uri") == self.uri and "mlflow_run_id" in known:
            run_id = known["mlflow_run_id"]
            self._client.update_run(run_id, status="RUNNING")
            history = self._client.get_metric_history(run_id, _STEP_METRIC)
            return run_id, frozenset(metric.step for metric in history)
        experiment = self._client.get_experiment_by_name(recipe.tracking.experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(recipe.tracking.experiment, _artifact_location(recipe, self.uri))
        )
        tags = {"clippy.run": recipe.run_url} | ({"mlflow.parentRunId": self._parent} if self._parent else {})
        run = self._client.create_run(experiment_id, run_name=recipe.name, tags=tags)
        self._folder.write_json(RUN_FILE, known | {"mlflow_uri": self.uri, "mlflow_run_id": run.info.run_id})
        return run.info.run_id, frozenset()

    def _send_parameters(self, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        flat = {name: str(value)[:6000] for name, value in values.items()}
        new = [Param(name, value) for name, value in flat.items() if name not in known]  # a parameter is written once
        for start in range(0, len(new), 100):
            self._client.log_batch(self.run_id, params=new[start : start + 100])

    def _send_datasets(self, source: Source) -> None:
        from mlflow.entities import DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", "train")]
        self._client.log_inputs(self.run_id, [DatasetInput(_describe_dataset(d), tags) for d in source.datasets])

    def _send_excluded(self, source: Source, time_ms: int) -> None:
        known = self._client.get_run(self.run_id).data.metrics
        counts = {f"data/excluded_rows/{cause}": n for cause, n in source.excluded.items()}
        self._send_points([Points(0, {name: n for name, n in counts.items() if name not in known}, time_ms)])

    def _send_points(self, steps: list[Points]) -> None:
        from mlflow.entities import Metric

        # MLflow keeps NaN as it is, but infinity as 1.8e308, which spoils a chart.
        points = [
            Metric(name, value if math.isfinite(value) else math.nan, at.time_ms, at.step)
            for at in steps
            for name, value in at.values.items()
        ]
        self._client.log_batch(self.run_id, metrics=points)


def _now() -> int:
    return int(time.time() * 1000)


def _step_metrics(record: dict[str, Any]) -> dict[str, float]:
    """A record's metrics by MLflow name. There is always a loss, for by it is told which steps a run has."""
    values = {name: record[name] for name in _METRICS if record.get(name) is not None}
    values["loss"] = math.nan if record["loss"] is None else record["loss"]
    values |= {f"invalid_rows/{cause}": n for cause, n in record.get("invalid_rows", {}).items()}
    values |= {f"step_seconds/{phase}": seconds for phase, seconds in record.get("phases", {}).items()}
    return {f"train/{name}": value for name, value in values.items()}


def tracking_uri(recipe: Recipe) -> str:
    """The recipe's store, else MLFLOW_TRACKING_URI, else a sqlite file beside the runs.

    Raises ValueError where runs are on an object store, which cannot hold a sqlite file.
    """
    told = recipe.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if told:
        return told
    storage = locate(recipe.storage.url, recipe.storage.storage_options)
    if not storage.is_local:
        raise ValueError(
            f"tracking.uri: runs lie on {recipe.storage.url}, where no sqlite file can; give the URL of an MLflow "
            "server, sqlite:///FILE, or tracking.enabled=false"
        )
    Path(storage.path).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{storage.path}/mlflow.db"


def _artifact_location(recipe: Recipe, uri: str) -> str | None:
    """Beside the runs for a sqlite store, whose default would be the current folder; else the server decides."""
    storage = locate(recipe.storage.url, recipe.storage.storage_options)
    return f"{storage.path}/mlflow-artifacts" if uri.startswith("sqlite") and storage.is_local else None


def _describe_dataset(dataset: Dataset) -> Any:
    """One dataset of the mixture as MLflow shows it."""
    from mlflow.entities import Dataset as DatasetEntity

    url = dataset.config.url
    profile = {"num_rows": int(dataset.manifest.usable_rows.sum()), "weight": dataset.config.weight}
    return DatasetEntity(
        name=Path(url).name or "data",
        digest=dataset.manifest.digest[:36],
        source_type="parquet",
        source=url,
        profile=json.dumps(profile),
    )
