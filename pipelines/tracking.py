"""One MLflow run per training, the same run after a restart. Only the driver talks to MLflow."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from pipelines.recipe import Recipe
from pipelines.run_folder import RUN_FILE, RunFolder
from pipelines.samples import Dataset, Source
from pipelines.storage import locate

_METRICS = (
    *("loss", "learning_rate", "logit_scale", "grad_norm"),
    *("images_per_second", "data_wait_fraction", "bytes_per_second", "decode_images_per_core"),
)
_BATCH = 1000  # MLflow's limit of metrics in one request

logger = logging.getLogger(__name__)


class Tracker:
    """Sends a run's parameters, metrics and files to MLflow from a thread of its own.

    Whatever MLflow answers later, training goes on; only at the start is an unreachable store an error (ValueError).
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # each step of making a database is no news to a user
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = tracking_uri(recipe)
        self._folder = folder
        self._tasks: queue.Queue[Any] = queue.Queue()
        self._failed = False
        try:
            self._client = MlflowClient(tracking_uri=self.uri)
            self.run_id, self._last_step = self._open(recipe)
        except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
            raise ValueError(
                f"tracking.uri: no MLflow store answers at {self.uri} ({_first_line(error)}); start the server, "
                "mend the address, or set tracking.enabled=false"
            ) from None
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def describe(self, recipe: Recipe, source: Source) -> None:
        """Log the recipe as flat parameters and the datasets as inputs; repeating it changes nothing."""
        self._tasks.put((self._describe, recipe, source))

    def log(self, records: list[dict[str, Any]]) -> None:
        """Log metrics by step; steps that the run already has, from before a restart, are left out."""
        new = [record for record in records if record["step"] > self._last_step]
        if new:
            self._last_step = new[-1]["step"]
            self._tasks.put((self._log, new))

    def log_values(self, values: dict[str, float], step: int) -> None:
        """Log further numbers at one step."""
        self._tasks.put((self._log_values, values, step))

    def log_file(self, path: Path, folder: str = "") -> None:
        """Log a file as an artifact."""
        self._tasks.put((self._client.log_artifact, self.run_id, str(path), folder or None))

    def log_text(self, text: str, name: str) -> None:
        """Log text as an artifact of that name."""
        self._tasks.put((self._client.log_text, self.run_id, text, name))

    def finish(self, status: str) -> None:
        """Send what is left, and end the run as FINISHED, FAILED or KILLED."""
        self._tasks.put((self._client.set_terminated, self.run_id, status))
        self._tasks.put(None)
        self._thread.join(timeout=120)

    def _open(self, recipe: Recipe) -> tuple[str, int]:
        """The run's id and its last logged step; a run that the folder remembers is opened again."""
        known = self._folder.read_json(RUN_FILE)
        if known.get("mlflow_uri") == self.uri and "mlflow_run_id" in known:
            run_id = known["mlflow_run_id"]
            self._client.update_run(run_id, status="RUNNING")
            history = self._client.get_metric_history(run_id, "train/loss")
            return run_id, max((metric.step for metric in history), default=0)
        experiment = self._client.get_experiment_by_name(recipe.tracking.experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(recipe.tracking.experiment, _artifact_location(recipe, self.uri))
        )
        run = self._client.create_run(experiment_id, run_name=recipe.name, tags={"clippy.run": recipe.run_url})
        self._folder.write_json(RUN_FILE, known | {"mlflow_uri": self.uri, "mlflow_run_id": run.info.run_id})
        return run.info.run_id, 0

    def _describe(self, recipe: Recipe, source: Source) -> None:
        from mlflow.entities import DatasetInput, InputTag, Param

        known = self._client.get_run(self.run_id).data.params
        flat = {name: str(value)[:6000] for name, value in recipe.flat().items()}
        new = [Param(name, value) for name, value in flat.items() if name not in known]  # a parameter is written once
        for start in range(0, len(new), 100):
            self._client.log_batch(self.run_id, params=new[start : start + 100])
        inputs = [
            DatasetInput(_describe_dataset(d), [InputTag("mlflow.data.context", "train")]) for d in source.datasets
        ]
        self._client.log_inputs(self.run_id, inputs)
        self._client.log_text(self.run_id, recipe.to_yaml(), "recipe.yaml")
        self._log_values({f"data/excluded_rows/{cause}": n for cause, n in source.excluded.items()}, 0)

    def _log(self, records: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = []
        for record in records:
            values = {name: record[name] for name in _METRICS if record.get(name) is not None}
            values |= {f"invalid_rows/{cause}": n for cause, n in record.get("invalid_rows", {}).items()}
            metrics += [Metric(f"train/{name}", value, now, record["step"]) for name, value in values.items()]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH])

    def _log_values(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            action, *arguments = task
            try:
                action(*arguments)
            except Exception as error:  # the tracker never ends a training
                if not self._failed:
                    logger.warning("MLflow at %s fails, training goes on: %s", self.uri, _first_line(error))
                self._failed = True


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


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
