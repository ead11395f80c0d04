"""An evaluation's numbers and pictures in MLflow: in the training's own run, or in one of their own."""

from __future__ import annotations

from pipelines.checkpoints import checkpoint_name, local_folder
from pipelines.evaluation.result import EVALUATION_FOLDER, PICTURES, Result
from pipelines.evaluation.subject import Subject
from pipelines.run_folder import RUN_FILE
from pipelines.storage import Location

EXPERIMENT = "clippy-evaluation"
"""Of models that lie in no run."""


def track(subject: Subject, result: Result, folder: Location, uri: str | None = None) -> None:
    """Numbers at their step, and pictures, into the MLflow run of the training; else into a new one at ``uri``.

    Raises ValueError where no MLflow answers; the numbers lie in ``folder`` before that.
    """
    if subject.run is not None and subject.recipe is not None and "mlflow_run_id" in subject.run.read_json(RUN_FILE):
        _into_training(subject, result, folder)
    elif uri is not None:
        _into_new_run(result, folder, uri)


def _into_training(subject: Subject, result: Result, folder: Location) -> None:
    from pipelines.tracking import Tracker

    assert subject.run is not None
    assert subject.recipe is not None
    step = subject.model.step or 0
    tracker = Tracker(subject.recipe, subject.run)
    tracker.log_values(_metrics(result, folder), step)
    with local_folder(folder / PICTURES) as pictures:
        for picture in result.pictures:
            artifacts = f"{EVALUATION_FOLDER}/{checkpoint_name(step)}/{_name(folder)}"
            tracker.log_file(pictures / picture.file, artifacts)
        tracker.finish("FINISHED")


def _into_new_run(result: Result, folder: Location, uri: str) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment, run_name=f"{result.benchmark} {result.method}").info
        metrics = [Metric(name, value, run.start_time, 0) for name, value in _metrics(result, folder).items()]
        facts = {"checkpoint": result.checkpoint, "data": result.data, "method": result.method} | result.protocol
        client.log_batch(run.run_id, params=[Param(name.replace(" ", "_"), str(v)[:6000]) for name, v in facts.items()])
        for start in range(0, len(metrics), 1000):
            client.log_batch(run.run_id, metrics=metrics[start : start + 1000])
        with local_folder(folder / PICTURES) as pictures:
            if result.pictures:
                client.log_artifacts(run.run_id, str(pictures), EVALUATION_FOLDER)
        client.set_terminated(run.run_id)
    except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
        raise ValueError(f"--mlflow-uri: {uri} takes no run ({str(error).splitlines()[0]}); mend it") from None


def _metrics(result: Result, folder: Location) -> dict[str, float]:
    return {f"eval/{_name(folder)}/{name}": value for name, value in result.numbers().items()}


def _name(folder: Location) -> str:
    """The last part of its path: the benchmark, and what is unusual about the protocol."""
    return folder.path.rstrip("/").rpartition("/")[2]
