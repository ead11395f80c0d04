"""A checkpoint and a benchmark to numbers and pictures, on Ray Data.

Workers measure row groups and return counts; the driver adds them up in the order of rows and divides once, so the
result does not depend on how many workers there were.
"""

from __future__ import annotations

import base64
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data

from clippy import metrics
from clippy.model import CLIPpy
from pipelines.checkpoints import checkpoint_name, local_folder
from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.local_ray import ray_session
from pipelines.recipe import EvalConfig, ScalingConfig
from pipelines.run_folder import RUN_FILE
from pipelines.shapes_benchmark import GROUP_SPLITS, GROUPS, SPLITS, Labels, ShapesMeter, decode_rows, load_labels
from pipelines.storage import Location, locate
from pipelines.targets import Target, find_target

EVALUATION_FOLDER, EVALUATION_FILE = "evaluation", "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """Numbers of one model on one benchmark, each beside its trivial answers, and where the pictures lie."""

    checkpoint: str
    step: int | None
    benchmark: str
    data: str
    protocol: dict[str, str]
    pictures_measured: dict[str, int]
    accuracy: dict[str, float]
    segmentation: dict[str, dict[str, float]]
    """Answer -> mIoU over all classes, things, stuff."""
    grouping: dict[str, dict[str, float]]
    """Answer -> mean best Jaccard of a segment, on the plain and the camouflage split."""
    birds: dict[str, float]
    """Accuracy between the two birds, by whether the background is the one that bird had in training."""
    pictures: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For ``evaluation.json`` and ``--json``."""
        return dict(self.__dict__)

    def flat(self) -> dict[str, float]:
        """All numbers by MLflow metric name."""
        tables = {"accuracy": self.accuracy, "birds": self.birds}
        nested = {"segmentation": self.segmentation, "grouping": self.grouping}
        tables |= {f"{table}/{answer}": row for table, rows in nested.items() for answer, row in rows.items()}
        return {
            f"eval/{table}/{name}".replace(" ", "_"): value
            for table, row in tables.items()
            for name, value in row.items()
            if math.isfinite(value)
        }

    def as_text(self) -> str:
        """Four short tables."""
        count = self.pictures_measured
        lines = [f"shapes benchmark, {self.checkpoint}"]
        lines += _block(f"zero-shot accuracy, one of 12 objects ({count['single']} pictures)", self.accuracy)
        lines += _block(f"segmentation by free words, mIoU ({count['multi']} pictures)", self.segmentation)
        lines += _block(f"grouping without words, best Jaccard of {GROUPS} groups", self.grouping)
        lines += _block(f"two birds told apart by shape alone, accuracy ({count['spurious']} pictures)", self.birds)
        return "\n".join(lines)


def _block(title: str, rows: Mapping[str, float | Mapping[str, float]]) -> list[str]:
    """A small table: a line a row, with column names where a row has several numbers."""
    first = next(iter(rows.values()))
    columns = list(first) if isinstance(first, Mapping) else []
    lines = ["", f"{title:<60}" + "".join(f"{column:>12}" for column in columns)]
    for name, row in rows.items():
        values = row.values() if isinstance(row, Mapping) else [row]
        lines.append(f"  {name:<58}" + "".join(f"{value:>12.3f}" for value in values))
    return lines


def evaluate(
    checkpoint: str,
    *,
    benchmark: str | None = None,
    data: str | None = None,
    out: str | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Measure a run's newest checkpoint, one checkpoint, or a model folder; write numbers and pictures.

    What is not given comes from the run's recipe. ``workers`` is the number of copies of the model; the result does
    not depend on it. The numbers also go to the run's MLflow run. Raises ValueError, with one clear sentence, for
    anything that is missing.
    """
    console = console or Console()
    target = find_target(checkpoint)
    config = target.recipe.eval if target.recipe else EvalConfig()
    if (benchmark or config.benchmark) is None:
        raise ValueError(f"{checkpoint}: its recipe names no benchmark; give --benchmark shapes")
    url = data or config.url
    if url is None:
        raise ValueError(f"{checkpoint}: its recipe has no eval.url; give the benchmark's data with --data URL")
    source = locate(url, config.storage_options)
    labels, units = load_labels(source), _units(source)
    folder = _output_folder(target, checkpoint, out)
    scaling = target.recipe.scaling if target.recipe else ScalingConfig()
    scaling = scaling.model_copy(update={"ray_address": ray_address or scaling.ray_address, "use_gpu": False})
    console.line(f"evaluating {target.model.url} on {url}")
    with ray_session(scaling):
        results = _measure(target.model, source, labels, units, config, workers or scaling.max_workers)
    evaluation = _add_up(results, labels, target, url)
    _write(folder, evaluation, results)
    _track(target, evaluation, folder)
    return evaluation


def measure_here(checkpoint: Location, config: EvalConfig) -> dict[str, float]:
    """The benchmark's numbers by their short names, measured in this process alone and without pictures."""
    if config.url is None:
        raise ValueError("eval.url: name the data of the benchmark that checkpoints are validated on")
    source = locate(config.url, config.storage_options)
    labels = load_labels(source)
    worker = _Worker(checkpoint, source, labels, config.model_copy(update={"pictures": 0}))
    results = [worker.measure(unit) for unit in _units(source)]
    target = Target(checkpoint, None, None, None)
    numbers = _add_up(results, labels, target, config.url).flat()
    return {name.removeprefix("eval/"): value for name, value in numbers.items()}


def _output_folder(target: Target, checkpoint: str, out: str | None) -> Location:
    if out is not None:
        return locate(out)
    if target.run is None:
        raise ValueError(f"{checkpoint}: lies in no run folder; say where numbers and pictures go with --out FOLDER")
    return target.run.location / EVALUATION_FOLDER / checkpoint_name(target.step or 0)


@dataclass(frozen=True)
class _Unit:
    """One row group of one split."""

    split: str
    path: str
    group: int
    first_row: int
    rows: int


def _units(data: Location) -> list[_Unit]:
    """All row groups of all splits, from their footers. Raises DataError for a missing split."""
    units = []
    for split in SPLITS:
        files = [i for i in (data / "evaluation" / split).list() if i.type == pafs.FileType.File]
        paths = [info.path for info in files if info.base_name.endswith(".parquet")]
        if not paths:
            raise DataError(f"{data.url}/evaluation/{split}: no Parquet file; run: clippy data shapes {data.url}")
        first = 0
        for path in paths:
            with data.filesystem.open_input_file(path) as stream:
                footer = pq.read_metadata(stream)
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group).num_rows
                units.append(_Unit(split, path, group, first, rows))
                first += rows
    return units


class _Worker:
    """Measures row groups with one copy of the model; an actor of Ray Data."""

    def __init__(self, model: Location, data: Location, labels: Labels, config: EvalConfig) -> None:
        with local_folder(model) as folder:
            self._meter = ShapesMeter(CLIPpy.from_pretrained(folder), labels)
        self._data, self._config = data, config

    def __call__(self, block: pa.Table) -> pa.Table:
        results = [self.measure(_Unit(**row)) for row in block.to_pylist()]
        return pa.table({"result": [json.dumps(result) for result in results]})

    def measure(self, unit: _Unit) -> dict[str, Any]:
        """Counts of one unit."""
        with self._data.filesystem.open_input_file(unit.path) as stream, pq.ParquetFile(stream) as file:
            rows = file.read_row_group(unit.group).to_pydict()
        panels = min(unit.rows, max(0, self._config.pictures - unit.first_row))
        result = self._meter.measure(unit.split, unit.first_row, decode_rows(rows), panels)
        return {"split": unit.split, "first_row": unit.first_row, "rows": unit.rows, **result}


def _measure(
    model: Location, data: Location, labels: Labels, units: list[_Unit], config: EvalConfig, workers: int
) -> list[dict[str, Any]]:
    """Each unit's counts, in the order of units."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    plan = ray.data.from_arrow(pa.Table.from_pylist([unit.__dict__ for unit in units]))
    with warnings.catch_warnings():
        # Without max_restarts=0 Ray prints an error about arguments that a restarted actor could miss; given, it warns
        # that only its named parameters will stay, and has no such name yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        measured = plan.repartition(target_num_rows_per_block=1).map_batches(
            _Worker,
            fn_constructor_args=(model, data, labels, config),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(units))),
            num_cpus=1,
            max_restarts=0,
        )
    results = [json.loads(row["result"]) for row in measured.take_all()]
    return sorted(results, key=lambda result: (SPLITS.index(result["split"]), result["first_row"]))


def _add_up(results: list[dict[str, Any]], labels: Labels, target: Target, url: str) -> Evaluation:
    rows = {split: sum(r["rows"] for r in results if r["split"] == split) for split in SPLITS}
    return Evaluation(
        checkpoint=target.model.url,
        step=target.step,
        benchmark="shapes",
        data=url,
        protocol={
            "accuracy": "pooled embedding against the prompt ensemble of 12 object names",
            "segmentation": "patch embeddings against all class names, scores up-sampled bilinearly, argmax; "
            "mean over classes present in the ground truth",
            "grouping": "centred PCA of unit-length patch embeddings, 4 components and both signs of each; best "
            "Jaccard of any group for each annotated segment, the ground included; mean over segments",
            "templates": " | ".join(labels.templates),
        },
        pictures_measured=rows,
        accuracy=_accuracy(results, labels),
        segmentation=_segmentation(results, labels),
        grouping=_grouping(results),
        birds=_birds(results),
        pictures=[name for name, _ in _pictures(results)],
    )


def _of(results: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [result for result in results if result["split"] == split]


def _accuracy(results: list[dict[str, Any]], labels: Labels) -> dict[str, float]:
    single = _of(results, "single")
    truth = np.array([label for r in single for label in r["labels"]])
    return {
        "model": sum(r["correct"] for r in single) / len(truth),
        "chance": 1 / len(labels.ids("thing")),
        "commonest object": float(np.bincount(truth).max() / len(truth)),
    }


def _segmentation(results: list[dict[str, Any]], labels: Labels) -> dict[str, dict[str, float]]:
    table = {}
    multi = _of(results, "multi")
    for answer in multi[0]["confusions"]:
        confusion = np.sum([r["confusions"][answer] for r in multi], axis=0)
        table[answer] = {
            "all": metrics.mean_iou(confusion),
            "things": metrics.mean_iou(confusion, labels.ids("thing")),
            "stuff": metrics.mean_iou(confusion, labels.ids("stuff")),
        }
    return table


def _grouping(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for column, split in GROUP_SPLITS.items():
        measured = _of(results, split)
        for answer in measured[0]["jaccard"]:
            pairs = [pair for r in measured for pair in r["jaccard"][answer]]
            table.setdefault(answer, {})[column] = math.fsum(p[0] for p in pairs) / sum(p[1] for p in pairs)
    return table


def _birds(results: list[dict[str, Any]]) -> dict[str, float]:
    spurious = _of(results, "spurious")
    correct = np.sum([r["group_correct"] for r in spurious], axis=0)
    total = np.sum([r["group_total"] for r in spurious], axis=0)
    matched, mismatched = [0, 3], [1, 2]  # group = 2 * bird + place
    return {
        "own background": float(correct[matched].sum() / total[matched].sum()),
        "other background": float(correct[mismatched].sum() / total[mismatched].sum()),
        "worst of four groups": float((correct / total).min()),
        "chance": 0.5,
    }


def _pictures(results: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    for result in results:
        for i, panel in enumerate(result.get("panels", [])):
            yield f"{result['split']}-{result['first_row'] + i:03d}.png", base64.b64decode(panel)


def _write(folder: Location, evaluation: Evaluation, results: list[dict[str, Any]]) -> None:
    """Pictures first; ``evaluation.json`` comes last and says that all is there."""
    for name, content in _pictures(results):
        (folder / "pictures" / name).write_bytes(content)
    (folder / EVALUATION_FILE).write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n")


def _track(target: Target, evaluation: Evaluation, folder: Location) -> None:
    """Numbers at their step, and pictures, into the MLflow run of the training."""
    if target.run is None or target.recipe is None or "mlflow_run_id" not in target.run.read_json(RUN_FILE):
        return
    from pipelines.tracking import Tracker

    tracker = Tracker(target.recipe, target.run)
    tracker.log_values(evaluation.flat(), target.step or 0)
    with local_folder(folder / "pictures") as pictures:
        for name in evaluation.pictures:
            tracker.log_file(pictures / name, f"{EVALUATION_FOLDER}/{checkpoint_name(target.step or 0)}")
        tracker.finish("FINISHED")
